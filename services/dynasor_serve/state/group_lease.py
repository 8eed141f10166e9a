"""The lease that makes one scheduler the active one of its group, for all of the group's pools.

The holder renews it; everybody else watches whether it is renewed. Each waits by its own monotonic clock, and no two
clocks are compared, so that a clock that jumps, Redis' own or that of a replica that takes over from it, makes no lease
longer or shorter. Three conclusions follow, each on the safe side of the one before:

- the holder stops at two thirds of a lease after it *asked* for its last renewal;
- who obeys the holder does so for one lease after a look that did *not* show the renewal yet;
- who stands by takes the lease one lease after a look that *did* show it, where no later one has shown another.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from dynasor_serve.state import keys
from dynasor_serve.state.redis_client import Script, translated

HELD_SHARE = 2 / 3  # of a lease, after which a holder that could not renew it stops
RENEWALS_PER_LEASE = 6
LOOKS_PER_LEASE = 12


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A group's lease as it lies in Redis.

    Attributes:
        epoch: of the acquisition.
        renewals: since then.
        lease_seconds: how long each is good for.
        address: HOST:PORT of the holder, empty where nobody has the lease.
    """

    epoch: int
    renewals: int
    lease_seconds: float
    address: str = ""


class WatchedLease:
    """What follows from one look at a lease after another, all times in seconds of the watcher's monotonic clock.

    Attributes:
        record: as last seen; None where there is none.
        held_until: nobody but the holder of `record` can have taken the lease before.
        ended_from: from then on, the holder of `record` has stopped.
    """

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.held_until = -math.inf
        self.ended_from = math.inf
        self._asked = -math.inf  # the last look

    def look(self, record: LeaseRecord | None, asked: float, answered: float) -> None:
        """Takes the result of a look. A renewal that is new in it was written after the look before was asked for."""
        if record != self.record:
            self.record = record
            lease_seconds = record.lease_seconds if record is not None else -math.inf
            self.held_until = self._asked + lease_seconds
            self.ended_from = answered + lease_seconds
        self._asked = asked


class GroupLease:
    """Takes and keeps one group's lease for one process."""

    def __init__(self, redis: Redis, group: str, holder: str, lease_seconds: float, address: str = "") -> None:
        """Builds the lease of a process.

        Args:
            holder: its name. A process that restarts under it takes the lease over at once, so no two that live may
                share it.
            address: HOST:PORT where trackers reach it.
        """
        self._key = keys.group_lease(group)
        self._holder = holder
        self._process = uuid4().hex
        self._address = address
        self._lease_ms = round(lease_seconds * 1000)
        self._may_adopt = True  # until the first answer: later, a lease under this name is not an earlier process'
        self._watched = WatchedLease()
        self._acquire = Script(redis, "acquire_lease")
        self._renew = Script(redis, "renew_lease")
        self._release = Script(redis, "release_lease")

    @property
    def ended_from(self) -> float:
        """When the lease that another has may be taken if nobody renews it, in seconds of the monotonic clock."""
        return self._watched.ended_from

    async def acquire(self) -> int:
        """The new epoch, or 0 where another holder has the lease. Raises `StateUnavailable`."""
        asked = time.monotonic()
        ended = self._watched.record if self._watched.ended_from <= asked else None
        epoch, *other = await self._acquire(
            [self._key],
            [
                self._holder,
                self._process,
                self._address,
                self._lease_ms,
                "1" if self._may_adopt else "0",
                ended.epoch if ended is not None else 0,
                ended.renewals if ended is not None else 0,
            ],
        )
        self._may_adopt = False
        record = LeaseRecord(other[0], other[1], other[2] / 1000) if other else None
        self._watched.look(record, asked, time.monotonic())
        return int(epoch)

    async def renew(self, epoch: int) -> bool:
        """Whether the lease is still held under this epoch. Raises `StateUnavailable`."""
        return bool(await self._renew([self._key], [self._process, epoch]))

    async def give_up(self, epoch: int) -> None:
        """Lets a standby take over at its next look. Raises `StateUnavailable`."""
        await self._release([self._key], [self._process, epoch])


async def read_lease(redis: Redis, group: str) -> LeaseRecord | None:
    """A group's lease; None where nobody has ever had it. Raises `StateUnavailable`."""
    try:
        lease = await redis.hmget(keys.group_lease(group), ["epoch", "renewals", "lease_ms", "address"])
    except RedisError as error:
        raise translated(error, "reading a lease") from error
    epoch, renewals, lease_ms, address = (value.decode() if isinstance(value, bytes) else "" for value in lease)
    return LeaseRecord(int(epoch), int(renewals), int(lease_ms) / 1000, address) if renewals else None
