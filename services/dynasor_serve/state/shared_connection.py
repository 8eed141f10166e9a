"""One connection to Redis for the commands of many callers: each is sent at once, and the replies come in their order.

A connection of one's own per command, as a pool lends it, takes several times as long (`dynasor bench clients`).
A caller that is cancelled leaves its reply to be read and dropped. Used by `redis_client.Script`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import Any, NamedTuple, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dynasor_serve.state.connections import PipelinedConnection

# What is no reply, and a replica that was the master: another connection under the same name may lead to the new one.
_ENDS_CONNECTION = (RedisConnectionError, RedisTimeoutError, ReadOnlyError, InvalidResponse)
_RETRY_SECONDS = 0.02
_MOST_TRIES = 2  # in a row without a reply; the second covers a connection that died idle


class _Command(NamedTuple):
    packed: bytes
    reply: asyncio.Future[Any]


class SharedConnection:
    """Sends commands and hands out their replies; connects when there is something to send."""

    def __init__(self, redis: Redis) -> None:
        """Builds it unconnected; `redis`, made by `redis_client.connect`, lends the connection and closes it."""
        self._pool = redis.connection_pool
        self._timeout_seconds = float(redis.connection_pool.connection_kwargs["socket_timeout"])
        self._connection: PipelinedConnection | None = None
        self._waiting: deque[_Command] = deque()  # for their replies, in the order in which they are sent
        self._is_ready = False  # whatever waits has been sent
        self._is_heard = False  # a reply has come since it was last connected
        self._reading: asyncio.Task[None] | None = None  # while anything waits

    def execute(self, *command: str | bytes | int) -> asyncio.Future[Any]:
        """The reply to a command, once it has come; a `RedisError` where it is one or does not come.

        The command is sent again where the connection ends before its reply, so it must be one that may be.
        """
        loop = asyncio.get_running_loop()
        each = _Command(hiredis.pack_command(command), loop.create_future())  # type: ignore[arg-type]
        self._waiting.append(each)
        if self._is_ready and self._connection is not None:
            with contextlib.suppress(RedisConnectionError):  # who reads will see it, and send this again
                self._connection.write(each.packed)
        elif self._reading is None:
            self._reading = loop.create_task(self._read())
        return each.reply

    async def _read(self) -> None:
        """Reads replies until nothing waits."""
        tries = 0
        try:
            while self._waiting:
                self._is_heard, tries = False, tries + 1
                error = await self._exchange()
                if self._is_heard:
                    tries = 0
                if error is not None and (tries >= _MOST_TRIES or isinstance(error, RedisTimeoutError)):
                    self._refuse(error)
                elif error is not None:
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._reading = None
            if self._waiting:  # cancelled: the loop is about to end
                self._refuse(RedisConnectionError("the connection was closed"))

    async def _exchange(self) -> RedisError | None:
        """Sends what waits and reads replies, for what is sent meanwhile too. Returns what went wrong, if anything."""
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                if self._connection is None:
                    self._connection = cast(PipelinedConnection, await self._pool.get_connection())  # type: ignore[no-untyped-call]
                elif not self._connection.is_connected:
                    await self._connection.connect()  # type: ignore[no-untyped-call]
                self._connection.write(b"".join(each.packed for each in self._waiting))
                self._is_ready = True
                while self._waiting:
                    reply = await self._reply(self._connection)
                    self._is_heard = True
                    each = self._waiting.popleft()
                    if each.reply.done():  # whoever asked has been cancelled
                        continue
                    if isinstance(reply, RedisError):
                        each.reply.set_exception(reply)
                    else:
                        each.reply.set_result(reply)
                    limit.reschedule(asyncio.get_running_loop().time() + self._timeout_seconds)
            return None
        except TimeoutError:
            return await self._broken(RedisTimeoutError(f"no reply within {self._timeout_seconds:g} s"))
        except InvalidResponse as error:
            return await self._broken(RedisConnectionError(f"no reply of Redis: {error}"))
        except _ENDS_CONNECTION as error:
            return await self._broken(error)
        except OSError as error:
            return await self._broken(RedisConnectionError(str(error)))
        finally:
            self._is_ready = False

    async def _reply(self, connection: PipelinedConnection) -> Any:
        """The next reply; an error that Redis replies is one, unless it says that nothing good comes on here."""
        try:
            return await connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except _ENDS_CONNECTION:
            raise
        except RedisError as error:
            return error

    async def _broken(self, error: RedisError) -> RedisError:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
        return error

    def _refuse(self, error: RedisError) -> None:
        refused, self._waiting = self._waiting, deque()
        for each in refused:
            if not each.reply.done():
                each.reply.set_exception(error)
