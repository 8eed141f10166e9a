"""The tracker's gRPC face: live text of the programs it owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import grpc

from dynasor_serve.api.tracker.v1 import tracker_pb2 as pb
from dynasor_serve.api.tracker.v1 import tracker_pb2_grpc
from dynasor_serve.programs.query import Branch, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.tracker.holdings import Holdings
from dynasor_serve.tracker.running_call import RunningCall

_MOST_BUFFERED_DELTAS = 4096
_MOST_CHARACTERS = 1_000_000  # of one message, which is far below the limit of gRPC
_OWNERSHIP_CHECK_SECONDS = 1.0


class TrackerServicer(tracker_pb2_grpc.TrackerServiceServicer):
    """Lets a gateway listen to running calls while somebody watches."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    async def StreamText(
        self,
        request: pb.StreamTextRequest,
        context: grpc.aio.ServicerContext[pb.StreamTextRequest, AsyncIterator[pb.StreamTextResponse]],
    ) -> AsyncIterator[pb.StreamTextResponse]:
        driver = self._holdings.driver(QueryId(request.query_id))
        if driver is None:
            raise ServiceError(Reason.NOT_OWNER, f"this tracker does not own {request.query_id!r}")
        # A slow reader misses deltas rather than slowing the program: offsets show the gap.
        deltas: asyncio.Queue[pb.StreamTextResponse] = asyncio.Queue(_MOST_BUFFERED_DELTAS)

        def hear(branch: Branch, attempt: str, offset: int, text: str) -> None:
            if not deltas.full():
                deltas.put_nowait(pb.StreamTextResponse(branch=branch, attempt=attempt, offset=offset, text=text))

        # No await between the two: what is heard goes on where the text so far ends.
        so_far = list(_text_so_far(driver.gang.calls.values()))
        driver.gang.listeners.add(hear)
        try:
            for delta in so_far:
                yield delta
            while not (driver.is_over and deltas.empty()):
                try:
                    async with asyncio.timeout(_OWNERSHIP_CHECK_SECONDS):
                        delta = await deltas.get()
                except TimeoutError:
                    continue
                yield delta
        finally:
            driver.gang.listeners.discard(hear)


def _text_so_far(calls: Iterable[RunningCall]) -> Iterator[pb.StreamTextResponse]:
    """What the running calls have told earlier listeners, each from its beginning."""
    for call in calls:
        text = call.text[: call.characters]
        for offset in range(0, len(text), _MOST_CHARACTERS):
            piece = text[offset : offset + _MOST_CHARACTERS]
            yield pb.StreamTextResponse(branch=call.branch, attempt=call.granted.attempt, offset=offset, text=piece)
