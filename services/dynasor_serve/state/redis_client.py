"""The connection to Redis (or any server of its protocol) and the Lua scripts on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class StateUnavailable(Exception):
    """Redis cannot be reached or does not answer; the same request may succeed later."""


class StateFull(Exception):
    """Redis is at its memory limit (`noeviction`). It takes no new query and no evidence; what is accepted still ends.

    The scripts that end, hold or hand over programs say `allow-oom`, which Redis knows since 7.0.
    """


# Most connections of one process. Commands wait for their turn: after an outage every program has something to say.
_MOST_CONNECTIONS = 64


def connect(url: str, *, timeout_seconds: float = 5.0) -> Redis:
    """A client; nothing is connected before its first command.

    One quick retry covers a connection that died idle; callers decide about longer outages. Every script here may be
    sent twice.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MOST_CONNECTIONS,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        retry_on_error=[RedisConnectionError],
        protocol=2,
    )
    pool.connection_class = _CONNECTIONS[pool.connection_class]
    return Redis.from_pool(pool)


class _TypedSends(AbstractConnection):
    """Says that a connection is closed in redis-py's own terms, and heeds a cancellation while it sends.

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


class _TypedTcp(_TypedSends, Connection):
    pass


class _TypedTls(_TypedSends, SSLConnection):
    pass


class _TypedUnix(_TypedSends, UnixDomainSocketConnection):
    pass


_CONNECTIONS = {Connection: _TypedTcp, SSLConnection: _TypedTls, UnixDomainSocketConnection: _TypedUnix}


async def ping(redis: Redis) -> None:
    """Raises `StateUnavailable` where the server does not answer."""
    try:
        await redis.ping()
    except RedisError as error:
        raise StateUnavailable(f"Redis does not answer: {error}; check the setting redis_url") from error


class Script:
    """One Lua file of this package, loaded on the server at first use and again after a restart of the server."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self._name = name
        self._source = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        self._sha = ""

    async def __call__(self, keys: list[str], args: list[str | bytes | int]) -> Any:
        """Runs the script. Raises `StateUnavailable` or `StateFull`."""
        try:
            if not self._sha:
                self._sha = await self._redis.script_load(self._source)
            try:
                return await self._redis.evalsha(self._sha, len(keys), *keys, *args)
            except NoScriptError:
                self._sha = await self._redis.script_load(self._source)
                return await self._redis.evalsha(self._sha, len(keys), *keys, *args)
        except RedisError as error:
            raise translated(error, self._name) from error


# A fail-over, a restart, an overload. redis-py drops the code words of these from their messages.
_PASSING = (
    RedisConnectionError,
    RedisTimeoutError,
    ReadOnlyError,
    MasterDownError,
    ClusterDownError,
    TryAgainError,
)


def translated(error: RedisError, doing: str) -> Exception:
    """The error in this package's terms."""
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error)):
        return StateFull(f"Redis is full ({doing}): {error}; raise maxmemory or wait until queries finish")
    if isinstance(error, _PASSING) or str(error).startswith(("MISCONF", "NOREPLICAS", "BUSY", "UNKILLABLE")):
        return StateUnavailable(f"Redis does not answer ({doing}): {error}")
    return error
