"""redis-py's connections, mended: errors in its own terms, cancellations heeded, commands sent without a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError


class PipelinedConnection(AbstractConnection):
    """A connection on which commands may follow each other, and that says in redis-py's own terms when it is closed.

    uvloop says that a connection is closed with a bare `RuntimeError`. redis-py sends by `asyncio.wait_for`, which on
    Python 3.11 swallows a cancellation where the sending is just done (github python/cpython, issue 86296): whoever
    was to stop would go on for ever.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        task = asyncio.current_task()
        assert task is not None, "redis-py runs in tasks only"
        cancellations = task.cancelling()
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise RedisConnectionError(f"Connection closed while writing to socket: {error}") from error
        if task.cancelling() > cancellations:
            await self.disconnect(nowait=True)  # nobody will read the reply
            raise asyncio.CancelledError

    def write(self, commands: bytes) -> None:
        """Sends packed commands without a wait. Raises redis-py's `ConnectionError` where the connection is closed."""
        if self._writer is None:
            raise RedisConnectionError("the connection is closed")
        try:
            self._writer.write(commands)
        except RuntimeError as error:
            raise RedisConnectionError(f"Connection closed while writing to socket: {error}") from error


class _Tcp(PipelinedConnection, Connection):
    pass


class _Tls(PipelinedConnection, SSLConnection):
    pass


class _Unix(PipelinedConnection, UnixDomainSocketConnection):
    pass


_MENDED = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def pipelined(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """The mended class of one of redis-py's."""
    return _MENDED[connection_class]
