"""One process of a local stack: started under the guard, watched until it is ready, started again when it dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from dynasor_serve.local.child_processes import end, log_tail, start_guarded

_READY_POLL_SECONDS = 0.05
_SHORTEST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS = 0.1, 5.0
_STEADY_SECONDS = 10.0  # a process that ran so long before it died is restarted at once
_KILL_MARGIN_SECONDS = 5.0


class StackError(Exception):
    """A local stack cannot be started; the message says which part, why, and where its log is."""


class SupervisedProcess:
    """Keeps one command running.

    Attributes:
        name: what people call it.
        restarts: how often it died and was started again.
        last_exit_status: of the time it died last; 128 + the signal that ended it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        is_ready: Callable[[], Awaitable[bool]],
        start_seconds: float,
        grace_seconds: float = 10.0,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.last_exit_status: int | None = None
        self._command = command
        self._environment = environment
        self._log = log
        self._is_ready = is_ready
        self._start_seconds = start_seconds
        self._grace_seconds = grace_seconds
        self._guard: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the command itself, while it runs."""
        if self._guard is None or self._guard.returncode is not None:
            return None
        children = Path(f"/proc/{self._guard.pid}/task/{self._guard.pid}/children")
        pids = children.read_text().split() if children.exists() else []
        return int(pids[0]) if pids else None

    async def start(self) -> None:
        """Starts it and returns once it is ready. Raises `StackError`."""
        await self._spawn()
        await self.ready()
        self._watch = asyncio.create_task(self._restart_forever())

    async def ready(self) -> None:
        """Returns once it is ready. Raises `StackError` where it dies or takes too long."""
        began = time.monotonic()
        while not await self._is_ready():
            if self._watch is None and self._guard is not None and self._guard.returncode is not None:
                raise StackError(self._failure(f"ended with exit status {self._guard.returncode}"))
            if time.monotonic() - began > self._start_seconds:
                await self.stop()
                raise StackError(self._failure(f"was not ready after {self._start_seconds:g} s"))
            await asyncio.sleep(_READY_POLL_SECONDS)

    async def stop(self) -> None:
        """Ends it and returns once it is gone."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        if self._guard is not None:
            await end(self._guard, self._grace_seconds + _KILL_MARGIN_SECONDS)

    async def _spawn(self) -> None:
        self._guard = await start_guarded(
            self._command,
            log=self._log,
            environment={**os.environ, **self._environment},
            grace_seconds=self._grace_seconds,
        )

    async def _restart_forever(self) -> None:
        pause = _SHORTEST_RESTART_SECONDS
        while self._guard is not None:
            began = time.monotonic()
            self.last_exit_status = await self._guard.wait()
            self.restarts += 1
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _SHORTEST_RESTART_SECONDS
            await asyncio.sleep(pause)
            pause = min(_LONGEST_RESTART_SECONDS, pause * 2)
            await self._spawn()

    def _failure(self, what: str) -> str:
        return f"the {self.name} {what}.\nLast lines of {self._log}:\n{log_tail(self._log)}"
