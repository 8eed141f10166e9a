"""Whose grants a tracker obeys: those of the lease's holder, and nobody else's, whatever lies in the sockets."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.state.group_lease import GroupLease
from dynasor_serve.state.redis_client import connect
from dynasor_serve.tracker.active_scheduler import ActiveScheduler
from dynasor_serve.tracker.granted_call import GrantedCall
from dynasor_serve.tracker.grants import SchedulerLink

from fakes.granting_scheduler import GROUP, GrantingScheduler, granting_scheduler
from fakes.redis_process import RedisProcess, running_redis
from fakes.running_stack import until

pytestmark = pytest.mark.fault

LEASE_SECONDS = 1.0


@dataclass(slots=True)
class Tracker:
    """A tracker's link, without what would open calls."""

    active: ActiveScheduler
    looking: asyncio.Task[None]
    taken: list[GrantedCall] = field(default_factory=list)

    async def until_taken(self, query_id: str) -> None:
        async def is_taken() -> bool:
            return any(call.query_id == query_id for call in self.taken)

        await until(is_taken, what=f"the grant of {query_id}")

    def has_taken(self, query_id: str) -> bool:
        return any(call.query_id == query_id for call in self.taken)


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    async with running_redis(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def redis(server: RedisProcess) -> AsyncIterator[Redis]:
    client = connect(server.url, timeout_seconds=0.3)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def tracker(redis: Redis) -> AsyncIterator[Tracker]:
    active = ActiveScheduler(redis, GROUP)
    link, tracker = SchedulerLink("tracker-0", active), Tracker(active, asyncio.create_task(active.run()))
    talking = asyncio.create_task(link.run(tracker.taken.append, lambda: ()))
    yield tracker
    for task in (talking, tracker.looking):
        task.cancel()
    await asyncio.gather(talking, tracker.looking, return_exceptions=True)


@asynccontextmanager
async def renewing(lease: GroupLease, epoch: int) -> AsyncIterator[None]:
    """Keeps a lease."""

    async def renew_forever() -> None:
        while True:
            assert await lease.renew(epoch)
            await asyncio.sleep(LEASE_SECONDS / 10)

    renewing = asyncio.create_task(renew_forever())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def told(scheduler: GrantingScheduler) -> pb.CoordinateRequest:
    """The next message of a tracker."""
    async with asyncio.timeout(30):
        return await scheduler.heard.get()


async def test_a_tracker_follows_the_lease_and_hears_no_more_of_who_held_it(redis: Redis, tracker: Tracker) -> None:
    async with (
        granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as one,
        granting_scheduler(redis, "two", lease_seconds=LEASE_SECONDS) as two,
    ):
        first = await one.lease.acquire()
        async with renewing(one.lease, first):
            assert (await told(one)).tracker == "tracker-0"
            one.grant("of one", first)
            await tracker.until_taken("of one")
        # It says nothing from now on, as if it were stopped: its conversation stays open.
        async with asyncio.timeout(30):
            while not (second := await two.lease.acquire()):  # noqa: ASYNC110 - Redis sets no event
                await asyncio.sleep(0.01)
        async with renewing(two.lease, second):
            assert (await told(two)).tracker == "tracker-0"
            one.grant("of one that wakes up", first)
            two.grant("of two", second)
            await tracker.until_taken("of two")

            assert one.conversations == 0
            assert not tracker.has_taken("of one that wakes up")


async def test_a_grant_of_another_epoch_ends_the_conversation(redis: Redis, tracker: Tracker) -> None:
    async with granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as one:
        epoch = await one.lease.acquire()
        async with renewing(one.lease, epoch):
            await told(one)
            for wrong in (epoch - 1, epoch + 1):
                one.grant(f"under {wrong}", wrong)
                assert (await told(one)).tracker == "tracker-0", "it restates, since what it was granted is open"
            one.grant("right", epoch)
            await tracker.until_taken("right")

    assert [call.query_id for call in tracker.taken] == ["right"]
    assert tracker.taken[0].endpoint.kind is EngineKind.REPLAY


async def test_without_redis_nobody_is_obeyed_beyond_the_lease(
    redis: Redis, server: RedisProcess, tracker: Tracker
) -> None:
    async with granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as one:
        epoch = await one.lease.acquire()
        async with renewing(one.lease, epoch):
            await told(one)
            activity = await tracker.active.begins()
        server.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(30):
                await tracker.active.ends(activity)
            one.grant("too late", epoch)
            await until(lambda: is_alone(one), what="the end of the conversation")
        finally:
            server.send_signal(signal.SIGCONT)
        again = await one.lease.acquire()
        async with renewing(one.lease, again):
            await told(one)
            one.grant("in time", again)
            await tracker.until_taken("in time")

    assert not tracker.has_taken("too late")


async def test_a_grant_that_comes_while_a_look_at_the_lease_hangs_is_judged_by_the_last_one(
    redis: Redis, tracker: Tracker
) -> None:
    async with granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as one:
        epoch = await one.lease.acquire()
        async with renewing(one.lease, epoch):
            await told(one)
            tracker.looking.cancel()  # nothing but the time tells it
            one.grant("in time", epoch)
            await tracker.until_taken("in time")
            await asyncio.sleep(LEASE_SECONDS * 1.1)
            one.grant("stale", epoch)
            await until(lambda: is_alone(one), what="the end of the conversation")

    assert not tracker.has_taken("stale")


async def is_alone(scheduler: GrantingScheduler) -> bool:
    return scheduler.conversations == 0


async def test_a_lost_lease_is_made_anew_and_obeyed_although_its_epoch_is_lower(redis: Redis, tracker: Tracker) -> None:
    """Redis lost the key, and its clock went back: the epoch in the lease counts, not the highest ever seen."""
    async with granting_scheduler(redis, "one", lease_seconds=LEASE_SECONDS) as one:
        high = await one.lease.acquire() + 3_600_000
        await redis.hset(f"dynasor:{{group-{GROUP}}}:lease", "epoch", high)
        async with renewing(one.lease, high):
            await told(one)
            one.grant("before", high)
            await tracker.until_taken("before")
        await redis.flushall()
        low = await one.lease.acquire()
        async with renewing(one.lease, low):
            await told(one)
            one.grant("after", low)
            await tracker.until_taken("after")

    assert low < high
