"""How many programs of each pool are live, and how many wait for a tracker, over all shards.

Looked up now and then, and counted on in between.

No script can count over shards, which are slots of their own in a Redis Cluster. So a query's own shard is counted
exactly, by the script that accepts it, and the others as they were at the last look.
"""

from __future__ import annotations

import asyncio
import logging

from dynasor_serve.state.keys import Shard
from dynasor_serve.state.program_log import ProgramLog
from dynasor_serve.state.redis_client import StateFull, StateUnavailable

logger = logging.getLogger(__name__)


class LivePrograms:
    """Live programs, queued ones included, by pool and shard."""

    def __init__(self, log: ProgramLog, refresh_seconds: float) -> None:
        self._log = log
        self._refresh_seconds = refresh_seconds
        self._counts: dict[str, dict[Shard, int]] = {}  # pool name -> shard -> programs
        self._queued = self._queued_before = 0  # programs, at the last two looks

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            try:
                found = await self._log.live_programs()
            except (StateUnavailable, StateFull) as error:
                logger.debug("live programs cannot be counted", extra={"cause": str(error)})
            else:
                self._counts = {}
                self._queued_before, self._queued = self._queued, found.queued
                for shard, pools in found.by_pool.items():
                    for pool, number in pools.items():
                        self._counts.setdefault(pool, {})[shard] = number
            await asyncio.sleep(self._refresh_seconds)

    def of_pool(self, pool: str) -> int:
        """All of a pool."""
        return sum(self._counts.get(pool, {}).values())

    def unclaimed(self, pool: str) -> float:
        """Programs of a pool that trackers have no place for: its part of those that waited at two looks in a row.

        Whatever has just been accepted waits for a moment, and says nothing.
        """
        queued = min(self._queued, self._queued_before)
        return queued * self.of_pool(pool) / max(1, sum(map(self.of_pool, self._counts))) if queued else 0.0

    def elsewhere(self, pool: str, shard: Shard) -> int:
        """Those of a pool in other shards."""
        counts = self._counts.get(pool, {})
        return sum(counts.values()) - counts.get(shard, 0)

    def add(self, pool: str, shard: Shard, number: int) -> None:
        """Counts programs that this gateway accepts, until the next look."""
        counts = self._counts.setdefault(pool, {})
        counts[shard] = max(0, counts.get(shard, 0) + number)
