"""Speculation through real processes: wide where the pool is idle, and no wider than the width where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.scheduling.placement import RESERVED_ONE_OF

from fakes.running_stack import RunningStack, asking, outcome_of, running_stack, until
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

#: A sample of 40 to 400 tokens takes 0.4 to 4 s: long enough to be seen while it runs.
VISIBLE = ("--ttft-ms", "5", "--time-per-output-token-ms", "10")
PLACES = 24
SPECULATED = PLACES - PLACES // RESERVED_ONE_OF  # the others are kept for calls that are needed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    settings = {"DYNASOR_SCHEDULER_ORDERING": "expected-gain"}
    async with running_stack(*VISIBLE, max_in_flight=PLACES, environment=settings) as running:
        yield running


def voting(width: int, idle_width: int = 0, samples: int = 16) -> pb.Algorithm:
    return pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=samples, width=width, idle_width=idle_width))


async def most_running(stack: RunningStack, query_id: str) -> int:
    """The most calls that were seen in the engine until a query ended."""
    ended = asyncio.create_task(stack.watch(query_id))
    most = 0.0
    while not ended.done():
        most = max(most, await stack.calls_in_engine())
        await asyncio.sleep(0.01)
    await ended
    return int(most)


async def test_a_query_speculates_as_wide_as_its_cap_on_an_idle_pool(stack: RunningStack) -> None:
    query = await stack.submit(asking("q24", algorithm=voting(2, idle_width=16)))

    assert await most_running(stack, query) == 16
    assert outcome_of(await stack.watch(query)).samples == 16


async def test_without_an_idle_width_no_more_than_the_width_runs(stack: RunningStack) -> None:
    query = await stack.submit(asking("q24", algorithm=voting(2, samples=6)))

    assert await most_running(stack, query) == 2


async def test_what_speculation_ran_for_nothing_is_cancelled_and_booked_at_the_verdict(stack: RunningStack) -> None:
    query = asking("q01", algorithm=voting(2, idle_width=16), policy=pb.Policy(rule="beta-posterior:confidence=0.95"))

    outcome = outcome_of(await stack.run(query))

    assert outcome.answer == recorded("q01").gold
    assert outcome.stop_reason == "stop-certain"
    assert outcome.samples < 16
    assert outcome.ledger.tokens_cancelled > 0


async def test_speculation_leaves_a_place_for_a_query_that_comes_later(stack: RunningStack) -> None:
    """Two wide queries could fill the pool; one that comes now need not wait for a place."""
    wide = [await stack.submit(asking(name, algorithm=voting(2, idle_width=16))) for name in ("q20", "q24")]
    await until(lambda: _runs(stack, SPECULATED), what="as much speculation as there may be")
    # What the two need takes of the others' places, too.
    assert await stack.calls_in_engine() <= SPECULATED + 2 * 2 < PLACES

    late = await stack.submit(asking("q22", samples=2, width=2))

    await until(lambda: _runs(stack, SPECULATED + 1), what="another query's call beside them")
    for each in (*wide, late):
        assert outcome_of(await stack.watch(each)).stop_reason == "cap"


async def _runs(stack: RunningStack, calls: int) -> bool:
    return await stack.calls_in_engine() >= calls
