"""Where a tracker says that gateways reach it, and the active scheduler that trackers do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dynasor_serve.local.ports import free_port
from dynasor_serve.programs.events import Accepted
from dynasor_serve.programs.query import Query
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.scheduler.app import SchedulerApp
from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.state import keys
from dynasor_serve.state.group_lease import read_lease
from dynasor_serve.state.program_log import Limits, ProgramLog
from dynasor_serve.state.redis_client import connect
from dynasor_serve.tracker.app import TrackerApp
from dynasor_serve.tracker.settings import TrackerSettings

from fakes.redis_process import running_redis

AMPLE = Limits(live_queries_per_tenant=10, queued_programs_per_shard=10, idempotency_ttl_seconds=60)


async def check_reachable(address: str) -> None:
    async with open_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)  # type: ignore[attr-defined]
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def advertised(directory: Path, *, listen: str, advertise: str = "") -> str:
    """The address in the entry of a program that the tracker has claimed; it is reachable where it was derived."""
    nobody = f"127.0.0.1:{free_port()}"
    async with running_redis(directory) as redis_server:
        tracker = TrackerApp(
            TrackerSettings(
                redis_url=redis_server.url,
                listen=listen,
                advertise=advertise,
                metrics_host="127.0.0.1",
                evaluator=nobody,
            )
        )
        await tracker.start()
        redis = connect(redis_server.url)
        try:
            log = ProgramLog(redis, final_ttl_seconds=60)
            query_id = keys.new_query_id("default")
            query = Query(model="model", rule="even", prompt="What is it?")
            await log.accept(query_id, Accepted(query, "pool", 1), "", AMPLE)
            async with asyncio.timeout(10):
                while not (entry := await log.entry(query_id)) or not entry.tracker:  # noqa: ASYNC110 - Redis sets no event
                    await asyncio.sleep(0.02)
            if not advertise:
                await check_reachable(entry.address)
            return entry.address
        finally:
            await redis.aclose()
            await tracker.drain()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.1"])
async def test_an_address_that_peers_can_reach_follows_from_where_it_listens(tmp_path: Path, host: str) -> None:
    address = await advertised(tmp_path, listen=f"{host}:0")

    assert not address.startswith(("0.0.0.0:", "[::]:"))
    assert not address.endswith(":0")


async def test_what_is_set_is_advertised_as_it_is(tmp_path: Path) -> None:
    assert await advertised(tmp_path, listen="127.0.0.1:0", advertise="tracker-0.trackers:7002") == (
        "tracker-0.trackers:7002"
    )


async def advertised_by_scheduler(directory: Path, *, listen: str, advertise: str = "") -> str:
    """The address in the lease of a scheduler that has become active; it is reachable where it was derived."""
    async with running_redis(directory) as redis_server:
        settings = SchedulerSettings(
            redis_url=redis_server.url, listen=listen, advertise=advertise, metrics_host="127.0.0.1"
        )
        scheduler, redis = SchedulerApp(settings), connect(redis_server.url)
        await scheduler.start()
        try:
            async with asyncio.timeout(10):
                while not (lease := await read_lease(redis, settings.group)):  # noqa: ASYNC110 - Redis sets no event
                    await asyncio.sleep(0.02)
            if not advertise:
                await check_reachable(lease.address)
            return lease.address
        finally:
            await redis.aclose()
            await scheduler.drain()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.1"])
async def test_trackers_find_the_active_scheduler_wherever_it_listens(tmp_path: Path, host: str) -> None:
    address = await advertised_by_scheduler(tmp_path, listen=f"{host}:0")

    assert not address.startswith(("0.0.0.0:", "[::]:"))
    assert not address.endswith(":0")


async def test_a_scheduler_is_found_where_it_is_told_to_be(tmp_path: Path) -> None:
    assert await advertised_by_scheduler(tmp_path, listen="127.0.0.1:0", advertise="scheduler-0.schedulers:7003") == (
        "scheduler-0.schedulers:7003"
    )
