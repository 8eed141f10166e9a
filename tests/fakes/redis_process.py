"""A Redis-protocol server in a process of its own, for tests of what is kept in it.

async with running_redis(tmp_path) as server:
    redis = connect(server.url)
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dynasor_serve.local.ports import free_port
from dynasor_serve.local.redis_server import redis_command

_START_SECONDS = 30.0


@dataclass(slots=True)
class RedisProcess:
    """A running server.

    Attributes:
        url: where it listens.
    """

    url: str
    _port: int
    _directory: Path
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, with whatever it has on disk, and returns once it answers."""
        self._process = await asyncio.create_subprocess_exec(
            *redis_command(self._port, self._directory), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(_START_SECONDS):
            while not await self._answers():  # noqa: ASYNC110 - another process tells no event
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Ends it as a crash would."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Stops (SIGSTOP) or continues (SIGCONT) it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def running_redis(directory: Path) -> AsyncIterator[RedisProcess]:
    """Runs a server on a free port; it is killed at the end."""
    port = free_port()
    server = RedisProcess(f"redis://127.0.0.1:{port}/0", port, directory)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
