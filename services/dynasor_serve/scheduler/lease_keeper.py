"""Makes this scheduler the active one for as long as it holds its group's lease, and never longer.

While it stands by it looks at the lease, and takes it the moment it has ended (`state.group_lease` says when). Once it
is active, trackers turn to it and restate what they want and what runs. It grants nothing until they had the time to:
up to then workers seem emptier than they are.
"""

from __future__ import annotations

import asyncio
import logging
import time

from dynasor_serve.scheduler.pools import Pools
from dynasor_serve.state.group_lease import HELD_SHARE, LOOKS_PER_LEASE, RENEWALS_PER_LEASE, GroupLease
from dynasor_serve.state.redis_client import StateFull, StateUnavailable

logger = logging.getLogger(__name__)

# Trackers look at the lease so often too: within two looks each has seen the new epoch and restated.
_LOOKS_TO_SETTLE = 2


class LeaseKeeper:
    """Competes for the lease and keeps it."""

    def __init__(self, lease: GroupLease, pools: Pools, lease_seconds: float) -> None:
        self._lease = lease
        self._pools = pools
        self._held_seconds = lease_seconds * HELD_SHARE
        self._renewal_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._look_seconds = lease_seconds / LOOKS_PER_LEASE
        self._resignation: asyncio.TimerHandle | None = None
        self._settlement: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Takes the lease whenever it can be had, and renews it, until cancelled."""
        while True:
            try:
                await (self._renew() if self._pools.epoch else self._acquire())
                pause = self._pause_seconds
            except (StateUnavailable, StateFull) as error:
                logger.warning("Redis says nothing of the lease", extra={"cause": str(error)})
                pause = self._look_seconds
            await asyncio.sleep(pause)

    async def hand_over(self) -> None:
        """Stops granting and gives the lease up: a standby takes it within one look."""
        epoch = self._pools.epoch
        self._resign()
        if epoch:
            try:
                async with asyncio.timeout(self._held_seconds):
                    await self._lease.give_up(epoch)
            except (StateUnavailable, StateFull, TimeoutError):
                logger.warning("the lease could not be given up; it ends by itself")

    @property
    def _pause_seconds(self) -> float:
        """Until the lease is to be renewed, or to be looked at: at its end, if that comes first."""
        if self._pools.epoch:
            return self._renewal_seconds
        return max(0.0, min(self._look_seconds, self._lease.ended_from - time.monotonic()))

    async def _acquire(self) -> None:
        asked = asyncio.get_running_loop().time()
        epoch = await self._lease.acquire()
        if epoch and self._hold(asked):
            logger.info("active", extra={"epoch": epoch})
            self._pools.activate(epoch)
            settle_seconds = _LOOKS_TO_SETTLE * self._look_seconds
            self._settlement = asyncio.get_running_loop().call_later(settle_seconds, self._pools.settle)

    async def _renew(self) -> None:
        asked, epoch = asyncio.get_running_loop().time(), self._pools.epoch
        if not await self._lease.renew(epoch):
            logger.warning("the lease is another scheduler's", extra={"epoch": epoch})
            self._resign()
        elif self._pools.epoch:
            self._hold(asked)

    def _hold(self, asked: float) -> bool:
        """Whether a lease that was asked for then still holds. A timer ends it: without Redis every call hangs."""
        loop = asyncio.get_running_loop()
        if self._resignation is not None:
            self._resignation.cancel()
        self._resignation = loop.call_at(asked + self._held_seconds, self._expire)
        return loop.time() < asked + self._held_seconds

    def _expire(self) -> None:
        if self._pools.epoch:
            logger.warning("no longer active: the lease could not be renewed", extra={"epoch": self._pools.epoch})
            self._resign()

    def _resign(self) -> None:
        for timer in (self._resignation, self._settlement):
            if timer is not None:
                timer.cancel()
        self._pools.resign()
