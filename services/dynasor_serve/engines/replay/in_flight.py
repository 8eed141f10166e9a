"""Which requests are under way, and may new ones come? What a process needs to end in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dynasor_serve.engines.replay.errors import EngineDraining


class InFlight:
    """Counts requests while they are answered."""

    def __init__(self) -> None:
        self._requests = 0
        self._none = asyncio.Event()
        self._none.set()
        self._draining = False

    async def drain(self, timeout_seconds: float) -> bool:
        """Refuse new requests from now on and wait for the running ones; returns whether all of them ended."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._none.wait()
        return self._requests == 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a request.

        Raises:
            EngineDraining: The process was asked to end.
        """
        if self._draining:
            raise EngineDraining("The engine is shutting down and takes no new requests; try another worker.")
        self._requests += 1
        self._none.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._none.set()
