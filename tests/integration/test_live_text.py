"""Live text of running calls: for those who come late, and through whatever happens to trackers and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.tracker.v1 import tracker_pb2, tracker_pb2_grpc
from dynasor_serve.gateway.live_text import TrackerChannels, with_live_text
from dynasor_serve.programs.query import QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.rpc.server import GrpcServer

from fakes.running_stack import PATIENCE_SECONDS, SLOW, asking, running_stack

QUERY_ID = QueryId("00-abc")


class ScriptedTracker(tracker_pb2_grpc.TrackerServiceServicer):
    """Streams what it is told to, one list per request, and then breaks off."""

    def __init__(self, *streams: list[tuple[int, str, int, str]]) -> None:
        self.address = ""
        self._streams = iter(streams)

    async def StreamText(  # noqa: N802 gRPC names it
        self,
        request: tracker_pb2.StreamTextRequest,
        context: object,
    ) -> AsyncIterator[tracker_pb2.StreamTextResponse]:
        for branch, attempt, offset, text in next(self._streams, []):
            yield tracker_pb2.StreamTextResponse(branch=branch, attempt=attempt, offset=offset, text=text)
        raise ServiceError(Reason.NOT_OWNER, "this tracker does not own it")


@asynccontextmanager
async def listening(tracker: ScriptedTracker) -> AsyncIterator[TrackerChannels]:
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name="dynasor_serve.api.tracker.v1.TrackerService",
        register=lambda into: tracker_pb2_grpc.add_TrackerServiceServicer_to_server(tracker, into),
    )
    await server.start()
    tracker.address = f"127.0.0.1:{server.port}"
    channels = TrackerChannels()
    try:
        yield channels
    finally:
        await channels.close()
        await server.stop(0)


async def events_until(end: asyncio.Event) -> AsyncIterator[pb.QueryEvent]:
    await end.wait()
    yield pb.QueryEvent(sequence=1, finished=pb.Finished())


async def texts_of(tracker: ScriptedTracker, channels: TrackerChannels, *, pieces: int) -> list[tuple[int, str]]:
    """(offset, text) of so many deltas; the first look for the owner fails."""
    looks = 0

    async def owner(_: QueryId) -> str:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ServiceError(Reason.STATE_UNAVAILABLE, "Redis does not answer")
        return tracker.address

    end = asyncio.Event()
    found: list[tuple[int, str]] = []
    async with asyncio.timeout(10):
        async for event in with_live_text(QUERY_ID, events_until(end), owner, channels):
            if event.HasField("text_delta"):
                found.append((event.text_delta.offset, event.text_delta.text))
                if len(found) == pieces:
                    end.set()
    return found


async def test_text_goes_on_after_redis_failed_to_tell_the_owner() -> None:
    tracker = ScriptedTracker([(0, "1.1", 0, "Let us"), (0, "1.1", 6, " see.")])
    async with listening(tracker) as channels:
        assert await texts_of(tracker, channels, pieces=2) == [(0, "Let us"), (6, " see.")]


async def test_a_stream_that_is_opened_again_repeats_no_text() -> None:
    tracker = ScriptedTracker(
        [(0, "1.1", 0, "Let us")],
        [(0, "1.1", 0, "Let us"), (0, "1.1", 6, " see")],
        [(0, "1.1", 0, "Let us see."), (0, "1.2", 0, "Again")],
    )
    async with listening(tracker) as channels:
        found = await texts_of(tracker, channels, pieces=4)

    assert found == [(0, "Let us"), (6, " see"), (10, "."), (0, "Again")]


async def test_who_comes_late_gets_the_text_from_its_beginning() -> None:
    async with running_stack(*SLOW) as stack:
        query_id = await stack.submit(asking("q20", samples=2, width=2))
        await stack.until_seen(query_id, "claimed")
        await asyncio.sleep(1.0)

        ends: dict[tuple[int, str], int] = {}  # call -> where its text ends
        call = stack.stub.Watch(pb.WatchRequest(query_id=query_id, include_text=True), timeout=PATIENCE_SECONDS)
        async for response in call:
            delta = response.event.text_delta
            if response.event.HasField("text_delta"):
                key = (delta.branch, delta.attempt)
                assert delta.offset == ends.get(key, 0), f"call {key} has a gap"
                assert key in ends or len(delta.text) > 10, "the first delta holds what was missed"
                ends[key] = delta.offset + len(delta.text)
            if len(ends) == 2:
                break
        call.cancel()

    assert len(ends) == 2
