"""How a scheduler becomes the active one and ceases to be it, with a real Redis that hangs, forgets or is gone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.scheduler.lease_keeper import LeaseKeeper
from dynasor_serve.scheduler.pools import Pools
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.state import keys
from dynasor_serve.state.group_lease import GroupLease
from dynasor_serve.state.redis_client import connect
from dynasor_serve.telemetry.metrics import Metrics

from fakes.redis_process import RedisProcess, running_redis
from fakes.running_stack import until

pytestmark = pytest.mark.fault

LEASE_SECONDS = 0.6
GROUP = "default"


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A scheduler without its server."""

    pools: Pools
    keeper: LeaseKeeper
    keeping: asyncio.Task[None]

    async def until_active(self) -> int:
        """Its epoch."""

        async def is_active() -> bool:
            return self.pools.epoch > 0

        await until(is_active, what="the takeover")
        return self.pools.epoch

    async def until_resigned(self) -> None:
        async def has_resigned() -> bool:
            return self.pools.epoch == 0

        await until(has_resigned, what="the resignation")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    async with running_redis(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def redis(server: RedisProcess) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@asynccontextmanager
async def scheduler(server: RedisProcess, name: str) -> AsyncIterator[Scheduler]:
    redis = connect(server.url, timeout_seconds=LEASE_SECONDS / 3)
    pools = Pools(ordering="fcfs", fairness=Fairness(), metrics=Metrics("scheduler"))
    keeper = LeaseKeeper(GroupLease(redis, GROUP, name, LEASE_SECONDS), pools, LEASE_SECONDS)
    keeping = asyncio.create_task(keeper.run())
    try:
        yield Scheduler(pools, keeper, keeping)
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await redis.aclose()


async def test_a_standby_takes_over_from_one_that_says_nothing_any_more(server: RedisProcess) -> None:
    async with scheduler(server, "one") as one:
        first = await one.until_active()
        async with scheduler(server, "two") as two:
            one.keeping.cancel()

            assert await two.until_active() > first
            assert one.pools.epoch == 0, "it was still active when the other became so"


async def test_one_that_hands_over_is_not_waited_for(server: RedisProcess, redis: Redis) -> None:
    async with scheduler(server, "one") as one:
        first = await one.until_active()
        async with scheduler(server, "two") as two:
            one.keeping.cancel()
            await one.keeper.hand_over()

            assert one.pools.epoch == 0
            assert await redis.hget(keys.group_lease(GROUP), "holder") in (None, b"two")
            assert await two.until_active() > first


async def test_without_an_answer_from_redis_it_resigns_before_the_lease_ends(server: RedisProcess) -> None:
    async with scheduler(server, "one") as one:
        first = await one.until_active()
        server.send_signal(signal.SIGSTOP)
        try:
            await one.until_resigned()
        finally:
            server.send_signal(signal.SIGCONT)

        assert await one.until_active() > first


async def test_a_redis_that_is_gone_for_a_moment_changes_nothing(server: RedisProcess) -> None:
    async with scheduler(server, "one") as one:
        epoch = await one.until_active()
        server.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS / 6)
        server.send_signal(signal.SIGCONT)
        await asyncio.sleep(2 * LEASE_SECONDS)

        assert one.pools.epoch == epoch


async def test_a_redis_that_forgets_the_lease_gives_it_again_under_a_new_epoch(
    server: RedisProcess, redis: Redis
) -> None:
    async with scheduler(server, "one") as one:
        first = await one.until_active()
        await redis.flushall()

        async def is_active_again() -> bool:
            return one.pools.epoch > first

        await until(is_active_again, what="the new epoch")


async def test_two_that_share_a_name_by_mistake_do_not_depose_each_other_for_ever(
    server: RedisProcess, redis: Redis
) -> None:
    async with scheduler(server, "same") as one:
        await one.until_active()
        async with scheduler(server, "same") as two:
            epoch = await two.until_active()
            await one.until_resigned()
            await asyncio.sleep(2 * LEASE_SECONDS)

            assert (one.pools.epoch, two.pools.epoch) == (0, epoch)
