"""The connection to Redis (or any server of its protocol) and the Lua scripts on it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
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

from dynasor_serve.state.connections import pipelined
from dynasor_serve.state.shared_connection import SharedConnection


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
    pool.connection_class = pipelined(pool.connection_class)
    return Redis.from_pool(pool)


async def ping(redis: Redis) -> None:
    """Raises `StateUnavailable` where the server does not answer."""
    try:
        await redis.ping()
    except RedisError as error:
        raise StateUnavailable(f"Redis does not answer: {error}; check the setting redis_url") from error


class Script:
    """One Lua file of this package, loaded on the server at first use and again after a restart of the server."""

    def __init__(self, redis: Redis, name: str, shared: SharedConnection | None = None) -> None:
        """Builds it; `shared` is where several scripts of one caller go together."""
        self._redis = redis
        self._shared = shared or SharedConnection(redis)
        self._name = name
        self._source = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
        self._sha = ""

    async def __call__(self, keys: list[str], args: list[str | bytes | int]) -> Any:
        """Runs the script. Raises `StateUnavailable` or `StateFull`."""
        try:
            if not self._sha:
                self._sha = await self._redis.script_load(self._source)
            try:
                return await self._shared.execute("EVALSHA", self._sha, len(keys), *keys, *args)
            except NoScriptError:
                self._sha = await self._redis.script_load(self._source)
                return await self._shared.execute("EVALSHA", self._sha, len(keys), *keys, *args)
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
