"""Demand as whole processes tell it: what trackers state and end becomes what the scheduler streams and shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2
from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.local.ports import HOST
from dynasor_serve.rpc.channel import open_channel

from fakes.running_stack import RunningStack, asking, outcome_of, sample, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PATIENCE_SECONDS = 20.0


async def demand_when(stack: RunningStack, so: Callable[[pb.PoolDemand], bool]) -> pb.PoolDemand:
    """The first demand of the stack's pool in the stream of which something holds."""
    async with open_channel(f"{HOST}:{stack.local.ports['scheduler']}") as channel:
        request = pb.WatchDemandRequest(interval_seconds=0.1)
        stream = SchedulerServiceStub(channel).WatchDemand(request, timeout=_PATIENCE_SECONDS)
        async for response in stream:
            [demand] = response.demands
            if so(demand):
                stream.cancel()
                return demand
    raise AssertionError("the stream ended before that was so")


async def test_a_program_is_demand_while_it_runs_and_has_met_its_deadline_after(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q08", samples=64, width=4))
    running = await demand_when(stack, lambda demand: demand.running_calls == 4)
    assert running.live_programs == 1
    assert 0 < running.outstanding_tokens <= running.outstanding_tokens_at_cap
    assert running.arrivals_per_second > 0
    assert running.predicted_wait_seconds == 0, "places are free"

    await stack.watch(query_id)
    after = await demand_when(stack, lambda demand: demand.live_programs == 0)
    assert after.outstanding_tokens == 0
    assert (after.slo_attainment, after.deadlines_ended) == (1.0, 1)
    assert after.drained_tokens_per_second > 0
    assert after.seconds_per_call > 0
    # A stream of the engine generates at most a token per millisecond, and the pool's worker has 64 places.
    assert 0 < after.tokens_per_second_per_worker < 64_000


async def test_a_program_that_its_deadline_ended_has_missed_it_and_a_cancelled_one_is_not_counted(
    stack: RunningStack,
) -> None:
    before = await demand_when(stack, lambda demand: demand.live_programs == 0)
    query = asking("q08", samples=1024, width=4)
    query.deadline.FromMilliseconds(1000)
    cancelled = await stack.submit(asking("q08", samples=1024, width=4))

    assert outcome_of(await stack.run(query)).stop_reason == "stop-deadline"
    assert await stack.cancel(cancelled) in {reasoning_pb2.QUERY_PHASE_RUNNING, reasoning_pb2.QUERY_PHASE_CANCELLED}
    after = await demand_when(stack, lambda demand: demand.live_programs == 0)

    assert after.deadlines_ended == before.deadlines_ended + 1
    assert after.slo_attainment < before.slo_attainment


async def test_gauges_show_the_demand(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q08", samples=1024, width=4))

    async def shows_it() -> bool:
        return sample(await stack.metrics_of("scheduler"), "dynasor_scheduler_outstanding_tokens") > 0

    await until(shows_it, within_seconds=_PATIENCE_SECONDS, what="the gauge")
    await stack.cancel(query_id)

    assert 0 <= sample(await stack.metrics_of("scheduler"), "dynasor_scheduler_slo_attainment") <= 1
