"""Which scheduler of the group is active, and whether it may still be obeyed.

The group's lease in Redis says both, and nothing else does: a scheduler that was stopped and wakes up, or that is cut
off from Redis, believes that it is active still, and its grants may lie in the socket. `grants` talks to whom this
module names, and hangs up as soon as it names another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from redis.asyncio import Redis

from dynasor_serve.state.group_lease import LOOKS_PER_LEASE, WatchedLease, read_lease
from dynasor_serve.state.redis_client import StateUnavailable

logger = logging.getLogger(__name__)

LONGEST_LOOK_SECONDS = 0.25  # between two looks, also while nobody has the lease


class Activity(NamedTuple):
    """One scheduler's time as the active one."""

    epoch: int
    address: str


class ActiveScheduler:
    """Watches the lease of one group."""

    def __init__(self, redis: Redis, group: str) -> None:
        """Builds the watch; the client waits no longer for an answer than a lease can do without one."""
        self._redis = redis
        self._group = group
        self._lease = WatchedLease()
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Looks at the lease until cancelled."""
        while True:
            asked = time.monotonic()
            try:
                self._lease.look(await read_lease(self._redis, self._group), asked, time.monotonic())
            except StateUnavailable as error:
                logger.warning("the schedulers' lease cannot be read", extra={"cause": str(error)})
            self._looked.set()
            await asyncio.sleep(self._look_seconds)

    async def begins(self) -> Activity:
        """The activity that is to be obeyed now, once there is one."""
        while (activity := self._current) is None:
            await self._next_look()
        return activity

    async def ends(self, activity: Activity) -> None:
        """Returns once an activity is not to be obeyed any more."""
        while self.obeys(activity):
            await self._next_look()

    def obeys(self, activity: Activity) -> bool:
        """Whether nobody else can have become active since."""
        return self._current == activity

    @property
    def _current(self) -> Activity | None:
        record = self._lease.record
        if record is None or not record.address or time.monotonic() >= self._lease.held_until:
            return None
        return Activity(record.epoch, record.address)

    @property
    def _look_seconds(self) -> float:
        record = self._lease.record
        if record is None:
            return LONGEST_LOOK_SECONDS
        return min(LONGEST_LOOK_SECONDS, record.lease_seconds / LOOKS_PER_LEASE)

    async def _next_look(self) -> None:
        self._looked.clear()
        await self._looked.wait()
