"""Redis full, silent or away while queries run: typed refusals for new ones, and nothing lost of those accepted."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.rpc.errors import reason_of

from fakes.running_stack import (
    RunningStack,
    asking,
    kinds_of,
    outcome_of,
    refused,
    running_stack,
    until,
)
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

#: A sample takes 0.4 to 4 s; leases last their usual 60 s, so running calls outlive the outage.
LEISURELY = ("--ttft-ms", "5", "--time-per-output-token-ms", "10", "--stream-interval", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    async with running_stack(*LEISURELY) as running:
        yield running


async def accepts_again(stack: RunningStack) -> bool:
    try:
        await stack.run(asking("q00", samples=1))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_full_redis_refuses_new_queries_and_lets_running_ones_end(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q04", samples=8, width=4))
    await stack.until_seen(query_id, "sample_finished")
    await stack.redis.config_set("maxmemory", 1)
    try:
        error = await refused(stack.submit(asking("q05")))
        events = await stack.watch(query_id)
    finally:
        await stack.redis.config_set("maxmemory", 0)

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(error) == "STATE_FULL"
    assert "maxmemory" in (error.details() or "")
    outcome = outcome_of(events)
    assert outcome.samples == 8
    assert outcome.ledger.tokens_spent == sum(recorded("q04").tokens[:8])
    await until(lambda: accepts_again(stack), what="the next acceptance")


async def test_running_calls_outlive_a_redis_that_is_silent_for_longer_than_one_is_patient(
    stack: RunningStack,
) -> None:
    query_id = await stack.submit(asking("q06", samples=12, width=4))
    watcher = asyncio.create_task(stack.watch(query_id))
    await stack.until_seen(query_id, "sample_finished")
    other = asking("q07", samples=1, idempotency_key="asked in the outage")

    stack.kill("redis", signal.SIGSTOP)
    try:
        error = await refused(stack.submit(other))
    finally:
        stack.kill("redis", signal.SIGCONT)
    events = await watcher

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(error) == "STATE_UNAVAILABLE"
    assert "Redis does not answer" in (error.details() or "")
    outcome = outcome_of(events)
    assert kinds_of(events).count("claimed") == 1
    assert kinds_of(events).count("sample_finished") == outcome.samples == 12
    assert outcome.ledger.tokens_lost == 0
    assert outcome.ledger.tokens_spent == sum(recorded("q06").tokens[:12])
    # Whether the refused one had been taken is not known to its client; its key makes both the same.
    assert outcome_of(await stack.run(other)).answer == recorded("q07").gold
    assert await stack.calls_in_engine() == 0
