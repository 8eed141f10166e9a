"""Slots, waiting queue and token clock, on a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from dynasor_serve.engines.replay.engine import Call, Engine
from dynasor_serve.engines.replay.prefix_cache import PrefixCache
from dynasor_serve.engines.replay.timing import Timing

pytestmark = pytest.mark.asyncio


class VirtualClock:
    """Time that jumps from one sleeper's end to the next when everybody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        sleeper = (self.now + seconds, woken)
        self._sleepers.append(sleeper)
        try:
            await woken.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def wake_first(self) -> None:
        self._sleepers.pop(0)[1].set()

    async def run_until(self, *tasks: asyncio.Task[None]) -> None:
        while not all(task.done() for task in tasks):
            for _ in range(20):
                await asyncio.sleep(0)
            if self._sleepers:
                self.now, woken = self._sleepers.pop(
                    min(range(len(self._sleepers)), key=lambda i: self._sleepers[i][0])
                )
                woken.set()


def build_engine(
    clock: VirtualClock, *, max_num_seqs: int = 1, by_priority: bool = True, timing: Timing | None = None
) -> Engine:
    return Engine(
        timing=timing or Timing(first_token_seconds=1, seconds_per_output_token=0.1),
        max_num_seqs=max_num_seqs,
        by_priority=by_priority,
        prefix_cache=PrefixCache(block_size=16, capacity_blocks=100),
        kv_cache_tokens=1000,
        clock=clock.time,
        sleep=clock.sleep,
    )


def call(priority: int = 0) -> Call:
    return Call(prompt="p", prompt_tokens=10, priority=priority)


async def play(engine: Engine, one: Call, events: Sequence[int]) -> None:
    async with engine.slot(one):
        position = 0
        while position < len(events):
            position = await engine.next_events(one, events, position)
        engine.finish(one, "stop")


async def test_events_are_due_by_the_token_clock() -> None:
    clock = VirtualClock()
    engine = build_engine(clock)
    one, due = call(), []

    async def watch() -> None:
        async with engine.slot(one):
            position = 0
            while position < 3:
                position = await engine.next_events(one, (1, 11, 15), position)
                due.append(clock.now)
            engine.finish(one, "stop")

    await clock.run_until(asyncio.create_task(watch()))

    assert due == pytest.approx([1.0, 2.0, 2.4], abs=0.002)
    assert engine.metrics.generation_tokens == 15
    assert engine.metrics.prompt_tokens == 10
    assert engine.metrics.finished["stop"] == 1


async def test_a_late_reader_finds_several_events_due_at_once() -> None:
    clock = VirtualClock()
    engine = build_engine(clock)
    one = call()

    async def read_late() -> None:
        async with engine.slot(one):
            assert await engine.next_events(one, (1, 2, 3, 4, 50), 0) == 1
            clock.now += 0.25  # the reader was busy: tokens 2 and 3 are done, token 4 is not
            assert await engine.next_events(one, (1, 2, 3, 4, 50), 1) == 3

    await clock.run_until(reader := asyncio.create_task(read_late()))
    reader.result()


async def test_without_timing_nothing_sleeps() -> None:
    engine = build_engine(VirtualClock(), timing=Timing())

    await asyncio.wait_for(play(engine, call(), tuple(range(1, 2000))), timeout=5)

    assert engine.metrics.generation_tokens == 1999


@pytest.mark.parametrize(("by_priority", "order"), [(True, [0, 3, 2, 1]), (False, [0, 1, 2, 3])])
async def test_the_waiting_queue_is_ordered_by_priority_then_arrival(by_priority: bool, order: list[int]) -> None:
    clock = VirtualClock()
    engine = build_engine(clock, by_priority=by_priority)
    admitted: list[int] = []

    async def enter(number: int, priority: int) -> None:
        one = call(priority)
        async with engine.slot(one):
            admitted.append(number)
            await engine.next_events(one, (1,), 0)

    priorities = [9, 5, 1, -1]
    tasks = [asyncio.create_task(enter(number, priority)) for number, priority in enumerate(priorities)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (engine.state.running, engine.state.waiting) == (1, 3)
    await clock.run_until(*tasks)

    assert admitted == order


async def test_an_abort_frees_the_slot_and_keeps_its_tokens_out_of_the_request_metrics() -> None:
    clock = VirtualClock()
    engine = build_engine(clock)
    one = call()
    task = asyncio.create_task(play(engine, one, (1, 101)))
    for _ in range(5):
        await asyncio.sleep(0)
    clock.now = 1.0
    clock.wake_first()
    for _ in range(5):
        await asyncio.sleep(0)
    assert engine.state.kv_cache_usage == pytest.approx(11 / 1000)

    clock.now = 3.05
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert engine.load == 0
    assert engine.metrics.generation_tokens == 21, "one at 1.0 s and twenty until 3.05 s"
    assert sum(engine.metrics.finished.values()) == 0


async def test_a_call_that_leaves_the_queue_leaves_no_trace() -> None:
    clock = VirtualClock()
    engine = build_engine(clock)
    first, second, third = (asyncio.create_task(play(engine, call(), (1,))) for _ in range(3))
    await asyncio.sleep(0)

    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert engine.state.waiting == 1
    await clock.run_until(first, third)

    assert engine.load == 0
    assert engine.metrics.finished["stop"] == 2
    assert engine.metrics.prefix_cache_queries == 20, "it was never admitted"


@pytest.mark.parametrize("seed", range(10))
async def test_whoever_is_cancelled_when_slots_neither_leak_nor_overflow(seed: int) -> None:
    choose = random.Random(seed)
    clock = VirtualClock()
    engine = build_engine(clock, max_num_seqs=3)
    running_most = 0

    async def live() -> None:
        nonlocal running_most
        one = call(choose.randrange(5))
        async with engine.slot(one):
            running_most = max(running_most, engine.state.running)
            await engine.next_events(one, (choose.randrange(1, 50),), 0)
            engine.finish(one, "stop")

    tasks = [asyncio.create_task(live()) for _ in range(60)]

    async def disturb() -> None:
        while not all(task.done() for task in tasks):
            choose.choice(tasks).cancel()
            for _ in range(choose.randrange(3)):
                await asyncio.sleep(0)
            await clock.sleep(choose.random())

    await clock.run_until(asyncio.create_task(disturb()), *tasks)

    assert running_most == 3
    assert engine.load == 0
    assert engine.metrics.finished["stop"] == sum(not task.cancelled() for task in tasks)


async def test_a_batch_slows_its_calls_down() -> None:
    clock = VirtualClock()
    timing = Timing(seconds_per_output_token=0.1, slowdown_per_running_call=1.0)
    engine = build_engine(clock, max_num_seqs=2, timing=timing)

    tasks = [asyncio.create_task(play(engine, call(), (1, 11))) for _ in range(2)]
    await clock.run_until(*tasks)

    assert clock.now == pytest.approx(2.0, abs=0.01)
