"""The life of a process: start, serve until SIGTERM or SIGINT, drain, exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

import uvloop

logger = logging.getLogger(__name__)


class StartError(Exception):
    """A process cannot start; the message says why and what would be right."""


class Service(Protocol):
    """A process built by its `app.py`."""

    async def start(self) -> None:
        """Gets ready to serve."""
        ...

    async def drain(self) -> None:
        """Readiness off, running work finished or handed over, everything closed."""
        ...

    async def failed(self) -> BaseException:
        """Returns when the service cannot go on, with the cause."""
        ...


def run(build: Callable[[], Awaitable[Service]]) -> None:
    """Runs a service to its end and exits: 0 after a drain, 1 where it could not start or go on."""
    sys.exit(uvloop.run(_serve(build)))


async def _serve(build: Callable[[], Awaitable[Service]]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        service = await build()
        await service.start()
    except (StartError, OSError) as error:
        logger.error("cannot start: %s", error)
        return 1
    logger.info("serving")
    stopping = asyncio.create_task(stop.wait())
    failing = asyncio.create_task(service.failed())
    await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
    if failing.done():
        logger.error("cannot go on", exc_info=failing.result())
    else:
        logger.info("draining")
    for task in (stopping, failing):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await service.drain()
    logger.info("stopped")
    return 1 if failing.done() and not failing.cancelled() else 0
