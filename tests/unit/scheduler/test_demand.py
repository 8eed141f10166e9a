"""What the scheduler tells of a pool's demand: from trackers' news to the message, the stream and the gauges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields

import grpc
import pytest
from prometheus_client import generate_latest

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2_grpc
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.scheduler.health import WorkerHealth
from dynasor_serve.scheduler.pools import Pools, TrackerSession
from dynasor_serve.scheduler.servicer import SchedulerServicer
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.telemetry.metrics import Metrics

Watch = grpc.aio.UnaryStreamCall[pb.WatchDemandRequest, pb.WatchDemandResponse]


def serving(metrics: Metrics | None = None) -> Pools:
    """Pools of an active scheduler: one of two places."""
    pools = Pools(ordering="gang-shortest", fairness=Fairness(), metrics=metrics or Metrics("scheduler"))
    pools.epoch = 1
    pools.register("pool", "model", "w0", "http://w0", "replay", 2)
    pools.health("pool", "w0", True, "")
    return pools


def want(program: str, branches: int = 4) -> pb.ProgramWant:
    return pb.ProgramWant(
        query_id=program,
        pool="pool",
        calls=[pb.WantedCall(branch=branch, attempt="1.1") for branch in range(branches)],
        query_class=2,
        remaining_knob=8,
        algorithm="self-consistency",
        deadline_ms=4_000_000_000_000,
    )


def talk(pools: Pools, *wants: pb.ProgramWant) -> TrackerSession:
    session = pools.open_session("t")
    pools.hear(session, pb.CoordinateRequest(tracker="t"))
    pools.hear(session, pb.CoordinateRequest(wants=wants))
    return session


def test_the_message_has_every_figure_of_a_demand_under_its_name() -> None:
    in_message = {each.name for each in pb.PoolDemand.DESCRIPTOR.fields}

    assert in_message == {"pool", *(each.name for each in fields(Demand))}


def test_pools_are_listed_with_their_demand() -> None:
    pools = serving()
    talk(pools, want("a"), want("b"))

    [message] = pools.messages()

    demand = message.demand
    assert (demand.pool, demand.live_programs, demand.waiting_programs) == ("pool", 2, 1)
    assert (demand.waiting_calls, demand.running_calls, demand.places, demand.ready_workers) == (6, 2, 2, 1)
    assert demand.outstanding_tokens == demand.outstanding_tokens_at_cap == 2 * 8 * 256
    assert demand.arrivals_per_second > 0
    assert demand.at_ms > 1_600_000_000_000


def test_a_tracker_that_connects_again_is_no_second_arrival() -> None:
    pools = serving()
    talk(pools, want("a"))
    before = pools.demands()[0].arrivals_per_second

    session = pools.open_session("t")
    pools.hear(session, pb.CoordinateRequest(tracker="t", wants=[want("a")]))

    assert pools.demands()[0].live_programs == 1
    assert pools.demands()[0].arrivals_per_second <= before


@pytest.mark.parametrize(
    ("end", "attainment", "ended"),
    [
        (pb.PROGRAM_END_COMPLETED, 1.0, 1),
        (pb.PROGRAM_END_DEADLINE, 0.0, 1),
        (pb.PROGRAM_END_CANCELLED, 1.0, 0),
        (pb.PROGRAM_END_FAILED, 1.0, 0),
        (pb.PROGRAM_END_RELEASED, 1.0, 0),
        (pb.PROGRAM_END_UNSPECIFIED, 1.0, 1),  # by the clock
    ],
)
def test_how_a_program_ended_is_what_attainment_counts(
    end: pb.ProgramEnd.ValueType, attainment: float, ended: int
) -> None:
    pools = serving()
    session = talk(pools, want("a"))

    withdrawal = pb.Withdrawal(query_id="a", end=end)
    pools.hear(session, pb.CoordinateRequest(withdrawn=["a"], withdrawals=[withdrawal]))

    [demand] = pools.demands()
    assert (demand.slo_attainment, demand.deadlines_ended, demand.live_programs) == (attainment, ended, 0)


def test_a_tracker_of_before_withdraws_without_saying_why() -> None:
    pools = serving()
    session = talk(pools, want("a"))

    pools.hear(session, pb.CoordinateRequest(withdrawn=["a"]))

    assert pools.demands()[0].live_programs == 0


def test_gauges_show_the_demand_while_active_and_nothing_of_it_after() -> None:
    metrics = Metrics("scheduler")
    pools = serving(metrics)
    talk(pools, want("a"))

    pools.report()
    shown = generate_latest(metrics.registry).decode()
    assert 'dynasor_scheduler_outstanding_tokens{pool="pool"} 2048.0' in shown
    assert 'dynasor_scheduler_slo_attainment{pool="pool"} 1.0' in shown

    pools.resign()
    pools.report()
    assert "dynasor_scheduler_outstanding_tokens{" not in generate_latest(metrics.registry).decode()
    pools.report()  # again, with no series to forget


@asynccontextmanager
async def stub_of(pools: Pools) -> AsyncIterator[SchedulerServiceStub]:
    """A client of a scheduler with these pools."""
    health = WorkerHealth(pools, interval_seconds=60, timeout_seconds=1, api_key="")
    servicer = SchedulerServicer(pools, health)
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name=pb.DESCRIPTOR.services_by_name["SchedulerService"].full_name,
        register=lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server),
    )
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            yield SchedulerServiceStub(channel)
    finally:
        await server.stop(grace_seconds=0)


async def told(stream: Watch) -> list[pb.PoolDemand]:
    """The next demands of a stream."""
    response = await stream.read()
    assert isinstance(response, pb.WatchDemandResponse)
    return list(response.demands)


async def test_demands_stream_to_several_watchers_each_at_its_interval() -> None:
    pools = serving()
    async with stub_of(pools) as stub:
        streams = [stub.WatchDemand(pb.WatchDemandRequest(interval_seconds=0.1), timeout=20) for _ in range(3)]
        for stream in streams:
            assert [each.live_programs for each in await told(stream)] == [0]
        talk(pools, want("a"))
        for stream in streams:
            while (await told(stream))[0].live_programs == 0:
                pass
            stream.cancel()


async def test_a_watch_ends_at_once_when_the_scheduler_is_no_longer_active() -> None:
    pools = serving()
    async with stub_of(pools) as stub:
        stream = stub.WatchDemand(pb.WatchDemandRequest(interval_seconds=3600), timeout=20)
        await stream.read()
        pools.resign()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "another scheduler" in (caught.value.details() or "")


async def test_a_scheduler_that_stands_by_tells_no_demand() -> None:
    pools = serving()
    pools.resign()
    async with stub_of(pools) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WatchDemand(pb.WatchDemandRequest(), timeout=20).read()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("interval", [0.05, -1.0, 3601.0, float("nan"), float("inf")])
async def test_an_interval_that_is_not_served_is_refused_by_name(interval: float) -> None:
    async with stub_of(serving()) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WatchDemand(pb.WatchDemandRequest(interval_seconds=interval), timeout=20).read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "interval_seconds" in (caught.value.details() or "")
    assert "0.1" in (caught.value.details() or "")


async def test_a_watcher_that_hangs_up_leaves_the_others() -> None:
    pools = serving()
    async with stub_of(pools) as stub:
        gone, stays = (stub.WatchDemand(pb.WatchDemandRequest(interval_seconds=0.1), timeout=20) for _ in range(2))
        await gone.read()
        gone.cancel()
        await asyncio.sleep(0)

        for _ in range(3):
            assert [each.pool for each in await told(stays)] == ["pool"]
        stays.cancel()
