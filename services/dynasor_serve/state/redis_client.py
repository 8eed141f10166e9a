"""The connection to Redis (or any server of its protocol) and the Lua scripts on it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError


class StateUnavailable(Exception):
    """Redis cannot be reached or does not answer; the same request may succeed later."""


class StateFull(Exception):
    """Redis is at its memory limit (`noeviction`) and takes no writes; retry when queries have finished."""


def connect(url: str, *, timeout_seconds: float = 5.0) -> Redis:
    """A client; nothing is connected before its first command.

    One quick retry covers a connection that died idle; callers decide about longer outages. Every script here may be
    sent twice.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 1),
        retry_on_error=[RedisConnectionError],
        protocol=2,
    )


async def ping(redis: Redis) -> None:
    """Raises `StateUnavailable` naming the server where it does not answer."""
    try:
        await redis.ping()
    except RedisError as error:
        raise StateUnavailable(f"Redis does not answer: {error}; check DYNASOR_REDIS_URL") from error


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


def translated(error: RedisError, doing: str) -> Exception:
    """The error in this package's terms."""
    if isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error)):
        return StateFull(f"Redis is full ({doing}): {error}; raise maxmemory or wait until queries finish")
    if isinstance(error, RedisConnectionError | RedisTimeoutError) or str(error).startswith(
        ("LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "NOREPLICAS", "BUSY")
    ):
        return StateUnavailable(f"Redis does not answer ({doing}): {error}")
    return error
