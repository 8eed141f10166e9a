"""The lease that makes one scheduler the active one of its group, for all of the group's pools."""

from __future__ import annotations

from redis.asyncio import Redis

from dynasor_serve.state import keys
from dynasor_serve.state.redis_client import Script


class GroupLease:
    """Takes and keeps one group's lease for one holder."""

    def __init__(self, redis: Redis, group: str, holder: str, lease_ms: int) -> None:
        self._key = keys.group_lease(group)
        self._holder = holder
        self._lease_ms = lease_ms
        self._acquire = Script(redis, "acquire_lease")
        self._renew = Script(redis, "renew_lease")

    async def acquire(self) -> int:
        """The new epoch, or 0 where another holder has the lease."""
        return int(await self._acquire([self._key], [self._holder, self._lease_ms]))

    async def renew(self, epoch: int) -> bool:
        """Whether the lease is still held under this epoch."""
        return bool(await self._renew([self._key], [self._holder, self._lease_ms, epoch]))

    async def give_up(self, epoch: int) -> None:
        """Lets a standby take over at once."""
        await self._renew([self._key], [self._holder, 0, epoch])
