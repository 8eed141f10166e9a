"""Hears what the scripts publish: which programs have news, and which shards have work.

Read straight from the connection: redis-py's own `PubSub` takes half as much time again for each notice, and a gateway
hears one for every evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import NoReturn, cast

import hiredis
from redis.asyncio import Redis

from dynasor_serve.state.connections import PipelinedConnection


async def listen(
    redis: Redis,
    channels: Collection[str],
    hear: Callable[[bytes, bytes], None],
    *,
    subscribed: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Listens until it is cancelled or the connection ends.

    Args:
        channels: to listen to.
        hear: takes each notice: its channel and what it says.
        subscribed: told once nothing is missed any more.

    Raises:
        RedisError, OSError: the connection ended. What was published since is not heard.
    """
    pool = redis.connection_pool
    connection = cast(PipelinedConnection, await pool.get_connection())  # type: ignore[no-untyped-call]
    try:
        connection.write(hiredis.pack_command(("SUBSCRIBE", *channels)))  # type: ignore[arg-type]
        while True:
            kind, channel, said = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            if kind == b"message":
                hear(channel, said)
            elif said == len(channels):  # the last confirmation
                subscribed()
    finally:
        await connection.disconnect(nowait=True)  # still subscribed, it could serve nobody else
        await pool.release(connection)
