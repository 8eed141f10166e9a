"""A scheduler with a standby dies, stops or ends while programs run: they do not notice, and one alone is obeyed."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.scheduler.v1 import scheduler_pb2
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.rpc.channel import open_channel

from fakes.running_stack import RunningStack, asking, kinds_of, outcome_of, running_stack, sample, until
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

SCHEDULERS = ("scheduler", "scheduler-1")
PLACES = 8
SAMPLES = 8
QUESTIONS = ("q01", "q02", "q03", "q04", "q05", "q06")
#: A sample takes 0.4 to 4 s, so that some run before, during and after a takeover.
UNHURRIED = ("--ttft-ms", "5", "--time-per-output-token-ms", "10", "--stream-interval", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """Two trackers, each with programs of its own, two schedulers, and fewer places than calls that are wanted."""
    environment = {"DYNASOR_TRACKER_MAX_PROGRAMS": str(len(QUESTIONS) // 2)}
    async with running_stack(
        *UNHURRIED, trackers=2, schedulers=2, max_in_flight=PLACES, environment=environment
    ) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def whole(stack: RunningStack) -> None:
    """Each test begins with all parts well, and with both trackers in conversation."""
    for process in stack.local.processes.values():
        await process.ready()

    async def all_talk() -> bool:
        return all("talking to the active scheduler" in stack.log_of(tracker) for tracker in ("tracker-0", "tracker-1"))

    await until(all_talk, what="the trackers' conversation")


async def pool_at(stack: RunningStack, scheduler: str) -> scheduler_pb2.Pool | None:
    """The pool as a scheduler sees it; None where that one is not active."""
    async with open_channel(f"127.0.0.1:{stack.local.ports[scheduler]}") as channel:
        try:
            request = scheduler_pb2.ListPoolsRequest()
            (pool,) = (await SchedulerServiceStub(channel).ListPools(request, timeout=1.0)).pools
        except grpc.aio.AioRpcError:
            return None
    return pool


async def until_active(stack: RunningStack, *candidates: str, above: int = 0) -> tuple[str, int]:
    """The scheduler that is active, and its epoch."""
    async with asyncio.timeout(30):
        while True:
            for name in candidates or SCHEDULERS:
                pool = await pool_at(stack, name)
                if pool is not None and pool.epoch > above:
                    return name, pool.epoch
            await asyncio.sleep(0.02)


def other_than(scheduler: str) -> str:
    return next(name for name in SCHEDULERS if name != scheduler)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@asynccontextmanager
async def dead(stack: RunningStack, process: str) -> AsyncIterator[None]:
    """Kills a process, which is not started again before the end of the block."""
    pid = stack.local.processes[process].pid
    assert pid is not None, f"{process} does not run"
    guard = parent_of(pid)
    os.kill(guard, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        yield
    finally:
        os.kill(guard, signal.SIGCONT)


@asynccontextmanager
async def stopped(stack: RunningStack, process: str) -> AsyncIterator[None]:
    """Holds a process still: it keeps its connections and says nothing."""
    stack.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(process, signal.SIGCONT)


async def granted(stack: RunningStack, scheduler: str) -> float:
    """Grants that a scheduler has given since it started."""
    page = await stack.metrics_of(scheduler)
    return sample(page, "dynasor_scheduler_grants_total") if "dynasor_scheduler_grants_total{" in page else 0


async def generated(stack: RunningStack) -> float:
    return sample(await stack.metrics(stack.local.engine.url), "vllm:generation_tokens_total")


async def watch_crowd(stack: RunningStack) -> None:
    """Fails where the engine ever has more calls than its worker has places."""
    while True:
        calls = await stack.calls_in_engine()
        assert calls <= PLACES, f"{calls:g} calls in an engine with {PLACES} places"
        await asyncio.sleep(0.02)


async def check_undisturbed(stack: RunningStack, disturb: Callable[[], Awaitable[None]]) -> None:
    """Runs queries while something happens: each branch counts once, and no token is generated twice."""
    before = await generated(stack)
    crowd = asyncio.create_task(watch_crowd(stack))
    queries = [asyncio.create_task(stack.run(asking(name, samples=SAMPLES, width=4))) for name in QUESTIONS]

    async def is_busy() -> bool:
        return await stack.calls_in_engine() == PLACES

    await until(is_busy, what="a full engine")
    await disturb()
    ends = await asyncio.gather(*queries)
    assert not crowd.done() or crowd.exception() is None
    crowd.cancel()

    spent = 0
    for name, events in zip(QUESTIONS, ends, strict=True):
        outcome = outcome_of(events)
        branches = [event.sample_finished.branch for event in events if event.HasField("sample_finished")]
        assert sorted(branches) == list(range(SAMPLES)), "a branch counted twice, or not at all"
        assert "call_failed" not in kinds_of(events)
        assert outcome.answer in recorded(name).winners(SAMPLES)
        assert (outcome.ledger.tokens_lost, outcome.ledger.tokens_cancelled) == (0, 0)
        spent += outcome.ledger.tokens_spent
    assert await generated(stack) - before == spent, "a call was cut off and made again"


async def test_kill_9_of_the_active_scheduler_cuts_no_stream(stack: RunningStack) -> None:
    active, epoch = await until_active(stack)
    async with AsyncExitStack() as outage:

        async def kill() -> None:
            await outage.enter_async_context(dead(stack, active))
            await until_active(stack, other_than(active), above=epoch)

        await check_undisturbed(stack, kill)


async def test_one_that_is_killed_and_started_again_takes_over_from_itself(stack: RunningStack) -> None:
    active, epoch = await until_active(stack)

    async def kill() -> None:
        stack.kill(active)
        await until_active(stack, above=epoch)

    await check_undisturbed(stack, kill)


async def test_one_that_is_asked_to_end_hands_over(stack: RunningStack) -> None:
    active, epoch = await until_active(stack)

    async def end() -> None:
        stack.kill(active, signal.SIGTERM)
        await until_active(stack, above=epoch)

    await check_undisturbed(stack, end)


async def test_one_that_was_stopped_and_wakes_up_is_obeyed_by_nobody(stack: RunningStack) -> None:
    active, epoch = await until_active(stack)
    given = 0.0

    async def stop_and_wake() -> None:
        nonlocal given
        before = await granted(stack, other_than(active))

        async def other_has_granted() -> bool:
            return await granted(stack, other_than(active)) > before

        async with stopped(stack, active):
            await until_active(stack, other_than(active), above=epoch)
            await until(other_has_granted, what="a grant of the other one while the first is still connected")
        given = await granted(stack, active)

    await check_undisturbed(stack, stop_and_wake)

    assert await pool_at(stack, active) is None
    assert await granted(stack, active) == given
    pool = await pool_at(stack, other_than(active))
    assert pool is not None
    assert sum(worker.in_flight for worker in pool.workers) == pool.waiting_calls == 0, "a grant was never returned"


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_how_long_a_takeover_takes(stack: RunningStack) -> None:
    """From kill -9 to the next grant, while programs run. Prints what it measures; the bound is far above it."""
    stop = asyncio.Event()

    async def keep_asking(number: int) -> None:
        while not stop.is_set():
            question = QUESTIONS[number % len(QUESTIONS)]
            outcome_of(await stack.run(asking(question, samples=SAMPLES, width=4)))

    asking_all = [asyncio.create_task(keep_asking(number)) for number in range(4)]
    seconds = []
    try:
        for number in range(12):
            active, epoch = await until_active(stack)
            await asyncio.sleep(0.13 * number)  # a renewal is due every 0.5 s: kills come at all moments between two
            async with dead(stack, active):
                killed = time.monotonic()
                standby, _ = await until_active(stack, other_than(active), above=epoch)

                async def has_granted(scheduler: str = standby) -> bool:
                    return await granted(stack, scheduler) > 0

                await until(has_granted, what="the next grant")
                seconds.append(time.monotonic() - killed)
            await stack.local.processes[active].ready()
            await stack.local.processes[standby].ready()
    finally:
        stop.set()
        await asyncio.gather(*asking_all)
    print(f"{len(seconds)} takeovers: median {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s")
    assert max(seconds) < 30
