"""Coming back where a server has too much to do, against a real gRPC server that refuses as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1 import reasoning_pb2_grpc
from dynasor_serve.cli.connection import connected
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.following import run_query
from dynasor_serve.cli.patience import Patience
from dynasor_serve.rpc.errors import Reason, ServiceError

from fakes.running_stack import until


class FullServicer(reasoning_pb2_grpc.ReasoningServiceServicer):
    """Refuses so many queries, then answers one.

    Attributes:
        asked_at: when a query came, in seconds.
        keys: their idempotency keys.
    """

    def __init__(self, refusals: int, error: ServiceError) -> None:
        self.asked_at: list[float] = []
        self.keys: set[str] = set()
        self._refusals = refusals
        self._error = error

    async def Run(self, request: pb.RunRequest, context: Any) -> AsyncIterator[pb.RunResponse]:  # noqa: N802
        self.asked_at.append(time.monotonic())
        self.keys.add(request.query.idempotency_key)
        if len(self.asked_at) <= self._refusals:
            await context.abort_with_status(self._error.to_status())
        yield pb.RunResponse(event=pb.QueryEvent(query_id="q", finished=pb.Finished()))


def refusing(refusals: int, error: ServiceError) -> FullServicer:
    return FullServicer(refusals, error)  # type: ignore[abstract]  # what `run` does not call is left out


@asynccontextmanager
async def served(servicer: FullServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    reasoning_pb2_grpc.add_ReasoningServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def ask(servicer: FullServicer, patience: Patience | None) -> int:
    """The events that come."""
    async with served(servicer) as address, connected(address) as stub:
        return len([event async for event in run_query(stub, pb.Query(prompt="x"), address, patience)])


def full(seconds: float | None, reason: Reason = Reason.POOL_FULL) -> ServiceError:
    return ServiceError(reason, "the pool is full", retry_after_seconds=seconds)


@pytest.mark.parametrize(
    "reason",
    [
        Reason.TENANT_FULL,
        Reason.POOL_FULL,
        Reason.QUEUE_FULL,
        Reason.DEADLINE_UNREACHABLE,
        Reason.TENANT_BUDGET_SPENT,
        Reason.STATE_FULL,
    ],
)
async def test_whoever_has_patience_comes_back_no_sooner_than_told(reason: Reason) -> None:
    servicer, told = refusing(2, full(0.1, reason)), list[str]()

    assert await ask(servicer, Patience(30.0, told.append)) == 1

    pauses = [later - earlier for earlier, later in zip(servicer.asked_at, servicer.asked_at[1:], strict=False)]
    assert len(pauses) == 2
    assert min(pauses) >= 0.1
    assert len(servicer.keys) == 1, "it is one query"
    assert told == [f"refused for now ({reason}); asking again in 0 s"] * 2


@pytest.mark.parametrize(
    ("error", "patience_seconds"),
    [
        (full(60.0), 30.0),  # longer than there is patience for
        (full(0.01), 0.0),
        (full(None), 30.0),  # nobody knows when
        (full(0.01, Reason.NO_READY_WORKER), 30.0),  # not overload
    ],
)
async def test_else_a_refusal_is_final_and_is_shown(error: ServiceError, patience_seconds: float) -> None:
    servicer = refusing(1, error)

    with pytest.raises(CommandFailed, match="the pool is full") as failure:
        await ask(servicer, Patience(patience_seconds, lambda _: None))

    assert failure.value.reason == error.reason
    assert len(servicer.asked_at) == 1


async def test_without_patience_a_refusal_is_final() -> None:
    servicer = refusing(1, full(0.01))

    with pytest.raises(CommandFailed, match="the pool is full"):
        await ask(servicer, None)


async def test_patience_ends() -> None:
    servicer = refusing(1_000_000, full(0.05))

    with pytest.raises(CommandFailed, match="the pool is full"):
        await ask(servicer, Patience(0.5, lambda _: None))

    assert 2 <= len(servicer.asked_at) <= 11


async def test_it_says_when_nothing_is_asked() -> None:
    patience = Patience(30.0, lambda _: None)
    asking = asyncio.create_task(ask(refusing(1, full(20.0)), patience))
    seen = [patience.is_waiting]

    async def waits() -> bool:
        return patience.is_waiting

    await until(waits, what="the wait")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    seen.append(patience.is_waiting)

    assert seen == [False, False]
