"""Health checks of workers: what answers /v1/models with the pool's model gets calls."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from dynasor_serve.engines.errors import EngineError
from dynasor_serve.engines.probe import authorization, probe
from dynasor_serve.scheduler.pools import Pools

logger = logging.getLogger(__name__)

# One missed check is a busy engine; two in a row are a sick one.
MISSES_TO_QUARANTINE = 2


class WorkerHealth:
    """Checks every worker again and again."""

    def __init__(self, pools: Pools, *, interval_seconds: float, timeout_seconds: float, api_key: str) -> None:
        self._headers = authorization(api_key)
        self._pools = pools
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._misses: dict[tuple[str, str], int] = {}  # (pool, worker) -> checks failed in a row
        self._checking: set[tuple[str, str]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Checks until cancelled."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0), headers=self._headers
        ) as session:
            self._session = session
            try:
                async with asyncio.TaskGroup() as checks:
                    while True:
                        checks.create_task(self.check_all())
                        await asyncio.sleep(self._interval_seconds)
                        self._pools.report()
            finally:
                self._session = None

    async def check_all(self) -> None:
        """Checks every worker that is not being checked already, side by side."""
        if self._session is None:
            return
        async with asyncio.TaskGroup() as tasks:
            for endpoint in self._pools.endpoints():
                if endpoint[0::2] not in self._checking:
                    tasks.create_task(self._check(self._session, *endpoint))

    async def _check(self, session: aiohttp.ClientSession, pool: str, model: str, worker: str, url: str) -> None:
        key = (pool, worker)
        self._checking.add(key)
        try:
            profile = await probe(session, url, timeout_seconds=self._timeout_seconds)
        except EngineError as error:
            misses = self._misses[key] = self._misses.get(key, 0) + 1
            if misses == MISSES_TO_QUARANTINE:
                logger.warning("a worker is quarantined", extra={"pool": pool, "worker": worker, "cause": str(error)})
            if misses >= MISSES_TO_QUARANTINE:
                self._pools.health(pool, worker, False, str(error))
        else:
            if self._misses.pop(key, 0) >= MISSES_TO_QUARANTINE:
                logger.info("a worker is well again", extra={"pool": pool, "worker": worker})
            serves = model in profile.models
            message = "" if serves else f"{url} serves {', '.join(profile.models) or 'nothing'}, not {model}"
            self._pools.health(pool, worker, serves, message, profile.max_model_len)
            self._pools.dispatch()
        finally:
            self._checking.discard(key)
