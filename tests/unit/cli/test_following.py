"""Following a query through broken streams, against a real gRPC server that breaks as told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1 import reasoning_pb2_grpc
from dynasor_serve.cli import following
from dynasor_serve.cli.connection import connected
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.rpc.errors import Reason, ServiceError

LAST = 4


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_SHORTEST_PAUSE_SECONDS", 0.001)


class BreakingServicer(reasoning_pb2_grpc.ReasoningServiceServicer):
    """Sends so many events per stream, then breaks it; the query has the events 0 to `LAST`.

    Attributes:
        keys: idempotency keys of the Run calls.
        watched_from: sequence numbers that the Watch calls began at.
    """

    def __init__(self, *, events_per_stream: int, error: ServiceError | None = None) -> None:
        self.keys: list[str] = []
        self.watched_from: list[int] = []
        self._events_per_stream = events_per_stream
        self._error = error

    async def Run(self, request: pb.RunRequest, context: Any) -> AsyncIterator[pb.RunResponse]:  # noqa: N802
        self.keys.append(request.query.idempotency_key)
        async for event in self._events(0, context):
            yield pb.RunResponse(event=event)

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:  # noqa: N802
        self.watched_from.append(request.from_sequence)
        async for event in self._events(request.from_sequence, context):
            yield pb.WatchResponse(event=event)

    async def Submit(self, request: pb.SubmitRequest, context: Any) -> pb.SubmitResponse:  # noqa: N802
        raise NotImplementedError

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.GetResponse:  # noqa: N802
        raise NotImplementedError

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:  # noqa: N802
        raise NotImplementedError

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        raise NotImplementedError

    def RunBatch(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.RunBatchResponse]:  # noqa: N802
        raise NotImplementedError

    async def _events(self, first: int, context: Any) -> AsyncIterator[pb.QueryEvent]:
        for sequence in range(first, min(first + self._events_per_stream, LAST + 1)):
            event = pb.QueryEvent(query_id="q", sequence=sequence)
            if sequence == LAST:
                event.finished.phase = pb.QUERY_PHASE_SUCCEEDED
            else:
                event.claimed.tracker = "t"
            yield event
            if sequence == LAST:
                return
        if self._error is not None:
            await context.abort_with_status(self._error.to_status())
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway restarts")


@asynccontextmanager
async def served(servicer: BreakingServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    reasoning_pb2_grpc.add_ReasoningServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def followed(address: str, query: pb.Query) -> list[int]:
    async with connected(address) as stub:
        return [event.sequence async for event in following.run_query(stub, query, address)]


async def test_a_stream_that_breaks_goes_on_after_the_last_event() -> None:
    servicer = BreakingServicer(events_per_stream=2)
    async with served(servicer) as address:
        assert await followed(address, pb.Query(prompt="x")) == [0, 1, 2, 3, 4]
    assert servicer.watched_from == [2, 4]
    assert len(servicer.keys) == 1


async def test_a_run_that_breaks_before_its_first_event_is_asked_again_under_one_key_and_given_up() -> None:
    servicer = BreakingServicer(events_per_stream=0)
    async with served(servicer) as address:
        with pytest.raises(CommandFailed, match="the gateway restarts; gave up") as failure:
            await followed(address, pb.Query(prompt="x"))
    assert failure.value.exit_code is ExitCode.UNREACHABLE
    assert len(servicer.keys) == following.MOST_RETRIES + 1
    assert len(set(servicer.keys)) == 1
    assert servicer.keys[0]


async def test_the_users_own_idempotency_key_is_kept() -> None:
    servicer = BreakingServicer(events_per_stream=LAST + 1)
    async with served(servicer) as address:
        await followed(address, pb.Query(prompt="x", idempotency_key="mine"))
    assert servicer.keys == ["mine"]


async def test_a_typed_refusal_is_not_retried() -> None:
    servicer = BreakingServicer(events_per_stream=0, error=ServiceError(Reason.NO_READY_WORKER, "none is ready"))
    async with served(servicer) as address:
        with pytest.raises(CommandFailed, match="none is ready") as failure:
            await followed(address, pb.Query(prompt="x"))
    assert failure.value.reason == Reason.NO_READY_WORKER
    assert len(servicer.keys) == 1


async def test_once_accepted_a_server_that_misses_redis_is_asked_again() -> None:
    servicer = BreakingServicer(events_per_stream=2, error=ServiceError(Reason.STATE_UNAVAILABLE, "Redis is away"))
    async with served(servicer) as address:
        assert await followed(address, pb.Query(prompt="x")) == [0, 1, 2, 3, 4]


async def test_watching_a_final_query_past_its_end_yields_nothing() -> None:
    class Silent(BreakingServicer):
        async def _events(self, first: int, context: Any) -> AsyncIterator[pb.QueryEvent]:
            for _ in ():
                yield pb.QueryEvent()

    async with served(Silent(events_per_stream=0)) as address, connected(address) as stub:
        assert [event async for event in following.watch_query(stub, "q", 9, address)] == []


async def test_nobody_at_the_address_is_an_error_at_once() -> None:
    with pytest.raises(CommandFailed, match="no Dynasor gateway") as failure:
        await followed("127.0.0.1:9", pb.Query(prompt="x"))
    assert failure.value.exit_code is ExitCode.UNREACHABLE


@pytest.mark.parametrize("address", ["", "7001", "http://127.0.0.1:7001", "host:port", "host:0", "host:99999"])
async def test_a_malformed_address_is_bad_input(address: str) -> None:
    with pytest.raises(CommandFailed, match="HOST:PORT") as failure:
        await followed(address, pb.Query(prompt="x"))
    assert failure.value.exit_code is ExitCode.BAD_INPUT
