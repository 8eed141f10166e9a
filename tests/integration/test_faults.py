"""One part fails while a query runs: what the others make of it, and what the query loses."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.state import keys

from fakes.running_stack import (
    PATIENCE_SECONDS,
    RunningStack,
    asking,
    final_of,
    kinds_of,
    outcome_of,
    refused,
    running_stack,
    until,
)
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

#: A sample takes 0.2 to 2 s; a query of several waves outlives the death and return of any part.
UNHURRIED = ("--ttft-ms", "5", "--time-per-output-token-ms", "5", "--stream-interval", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """Two trackers, so that there is somebody to take over, and leases that end while a test waits."""
    async with running_stack(*UNHURRIED, trackers=2, environment={"DYNASOR_TRACKER_LEASE_SECONDS": "4"}) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def whole(stack: RunningStack) -> None:
    """Each test begins with all parts well."""
    for process in stack.local.processes.values():
        await process.ready()

    async def is_accepted() -> bool:
        try:
            await stack.run(asking("q00", samples=1))
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_accepted, what="recovery")


@asynccontextmanager
async def stopped(stack: RunningStack, process: str) -> AsyncIterator[None]:
    """Holds a process still: it keeps its connections and says nothing, as in a partition."""
    stack.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(process, signal.SIGCONT)


async def owner_of(stack: RunningStack, query_id: str) -> str:
    """The tracker that has a running query."""
    return (await stack.until_seen(query_id, "claimed")).claimed.tracker


def spent_by_samples(events: list[pb.QueryEvent]) -> int:
    return sum(event.sample_finished.tokens for event in events)


async def test_another_tracker_takes_over_and_a_watch_does_not_notice(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q05", samples=8, width=2))
    watcher = asyncio.create_task(stack.watch(query_id))
    await stack.until_seen(query_id, "sample_finished")

    stack.kill(await owner_of(stack, query_id))
    events = await watcher

    outcome = outcome_of(events)
    assert outcome.answer == recorded("q05").gold
    assert outcome.samples == 8
    assert [event.sequence for event in events] == list(range(len(events)))
    assert [event.claimed.epoch for event in events if event.HasField("claimed")] == [1, 2]
    branches = [event.sample_finished.branch for event in events if event.HasField("sample_finished")]
    assert sorted(branches) == list(range(8)), "a branch counted twice, or not at all"
    assert outcome.ledger.tokens_spent == spent_by_samples(events) + outcome.ledger.tokens_lost


async def test_a_tracker_that_was_cut_off_does_no_harm_when_it_is_back(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q06", samples=12, width=1))
    await stack.until_seen(query_id, "sample_finished")
    former = await owner_of(stack, query_id)

    async with stopped(stack, former):

        async def is_taken_over() -> bool:
            return await stack.redis.hget(keys.program(query_id), "owner") != former.encode()  # type: ignore[arg-type]

        await until(is_taken_over, what="the takeover")
    events = await stack.watch(query_id)

    outcome = outcome_of(events)
    assert outcome.samples == 12
    claims = [event.claimed for event in events if event.HasField("claimed")]
    assert len({claim.tracker for claim in claims}) == 2
    assert [claim.epoch for claim in claims] == list(range(1, len(claims) + 1))
    assert outcome.ledger.tokens_spent == spent_by_samples(events) + outcome.ledger.tokens_lost


async def test_the_scheduler_dies_and_no_stream_is_cut(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q04", samples=12, width=3))
    await stack.until_seen(query_id, "sample_finished")

    stack.kill("scheduler")
    events = await stack.watch(query_id)

    outcome = outcome_of(events)
    assert outcome.samples == 12
    assert "call_failed" not in kinds_of(events)
    assert outcome.ledger.tokens_spent == sum(recorded("q04").tokens[:12])


async def test_redis_dies_and_running_calls_are_not_lost(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q03", samples=8, width=4))
    watcher = asyncio.create_task(stack.watch(query_id))
    await stack.until_seen(query_id, "sample_finished")

    stack.kill("redis")
    events = await watcher

    outcome = outcome_of(events)
    assert outcome.answer == recorded("q03").gold
    assert outcome.samples == 8
    assert outcome.ledger.tokens_lost == 0
    assert outcome.ledger.tokens_spent == sum(recorded("q03").tokens[:8])


async def test_the_engine_dies_and_its_calls_are_made_again(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q02", samples=8, width=4))
    await stack.until_seen(query_id, "sample_finished")

    stack.kill("engine")
    events = await stack.watch(query_id)

    outcome = outcome_of(events)
    failures = [event.call_failed for event in events if event.HasField("call_failed")]
    assert outcome.samples == 8
    assert failures
    assert all(failure.error.retryable and failure.error.reason.startswith("ENGINE_") for failure in failures)
    assert outcome.ledger.tokens_lost == sum(failure.tokens for failure in failures)
    assert outcome.ledger.tokens_spent == spent_by_samples(events) + outcome.ledger.tokens_lost


async def test_the_gateway_dies_and_a_watch_goes_on_where_the_run_broke_off(stack: RunningStack) -> None:
    seen: list[pb.QueryEvent] = []

    async def run_until_it_breaks() -> None:
        request = pb.RunRequest(query=asking("q01", samples=8, width=2))
        async for response in stack.stub.Run(request, timeout=PATIENCE_SECONDS):
            seen.append(response.event)
            if response.event.HasField("sample_finished"):
                stack.kill("gateway")

    broken = await refused(run_until_it_breaks())
    assert broken.code() is grpc.StatusCode.UNAVAILABLE
    await stack.local.processes["gateway"].ready()
    rest = await stack.watch(seen[-1].query_id, seen[-1].sequence + 1)

    events = seen + rest
    assert [event.sequence for event in events] == list(range(len(events)))
    assert outcome_of(events).samples == 8
    assert await stack.watch(seen[0].query_id) == events


async def test_a_cancel_while_the_owner_is_dead_is_heeded_by_the_next(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q07", samples=16, width=1))
    await stack.until_seen(query_id, "sample_finished")

    stack.kill(await owner_of(stack, query_id))
    await stack.cancel(query_id, "while it was dead")
    events = await stack.watch(query_id)

    final = final_of(events)
    assert final.phase == pb.QUERY_PHASE_CANCELLED
    assert final.outcome.stop_detail == "while it was dead"
    assert final.outcome.answer == recorded("q07").gold
    assert final.outcome.samples < 16


async def test_the_evaluator_dies_and_the_program_does_not_hang(stack: RunningStack) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Expand. [[trace:synthetic/algebra]]")])

    stack.kill("evaluator")
    outcome = outcome_of(await stack.run(asking("q00", samples=5, width=1, chat=chat, answer_type="math")))

    assert outcome.samples == 5
    assert outcome.answer in {"(x+1)^2", "x^2+1"}  # pairs that nobody decides in time count as unequal
