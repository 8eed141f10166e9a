"""Follows programs by tailing their logs over one connection.

Every append is published with its records, so a follower usually reads nothing from Redis. A notice that was lost (a
reconnect, a slow reader) shows as a gap in the sequence, and the missing records are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.exceptions import RedisError

from dynasor_serve.programs.events import Finished
from dynasor_serve.programs.query import QueryId
from dynasor_serve.state import keys
from dynasor_serve.state.notices import listen
from dynasor_serve.state.program_log import ProgramLog
from dynasor_serve.state.records import Record, decode
from dynasor_serve.state.redis_client import StateUnavailable

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 0.2
_SILENCE_SECONDS = 2.0  # after so long without a notice the log is read anyway
_MOST_BUFFERED = 2048


class Tail:
    """One reader's place in one program's log."""

    __slots__ = ("_log", "_notices", "_query_id", "_wakeup", "next_sequence")

    def __init__(self, log: ProgramLog, query_id: QueryId, from_sequence: int) -> None:
        self._log = log
        self._query_id = query_id
        self._notices: deque[tuple[int, list[bytes]]] = deque(maxlen=_MOST_BUFFERED)
        self._wakeup = asyncio.Event()
        self.next_sequence = from_sequence

    def notice(self, first: int, lines: list[bytes]) -> None:
        """Records were appended."""
        self._notices.append((first, lines))
        self._wakeup.set()

    async def records(self, *, read_first: bool) -> AsyncIterator[tuple[int, Record]]:
        """Records with their sequence numbers, up to the final one.

        Args:
            read_first: whether records may be there already that no notice will bring.
        """
        is_behind = read_first
        while True:
            if not is_behind:
                self._wakeup.clear()
                try:
                    async with asyncio.timeout(_SILENCE_SECONDS):
                        await self._wakeup.wait()
                except TimeoutError:
                    is_behind = True
            if is_behind:
                for record in await self._read():
                    yield self._taken(), record
                    if isinstance(record.event, Finished):
                        return
                is_behind = False
            while self._notices:
                first, lines = self._notices.popleft()
                if first > self.next_sequence:
                    is_behind = True
                    break
                for line in lines[self.next_sequence - first :]:
                    record = decode(line)
                    yield self._taken(), record
                    if isinstance(record.event, Finished):
                        return

    def _taken(self) -> int:
        self.next_sequence += 1
        return self.next_sequence - 1

    async def _read(self) -> list[Record]:
        while True:
            try:
                return await self._log.read(self._query_id, self.next_sequence)
            except StateUnavailable as error:
                logger.warning("a log cannot be read", extra={"query_id": self._query_id, "cause": str(error)})
                await asyncio.sleep(_RECONNECT_SECONDS)


class LogFollower:
    """All tails of one gateway."""

    def __init__(self, redis: Redis, log: ProgramLog) -> None:
        self._redis = redis
        self._log = log
        self._tails: defaultdict[bytes, set[Tail]] = defaultdict(set)  # query id -> its readers

    @property
    def watchers(self) -> int:
        return sum(map(len, self._tails.values()))

    def open(self, query_id: QueryId, from_sequence: int) -> Tail:
        """A tail that hears notices from now on. Close it."""
        tail = Tail(self._log, query_id, from_sequence)
        self._tails[query_id.encode()].add(tail)
        return tail

    def close(self, query_id: QueryId, tail: Tail) -> None:
        """Forgets a tail."""
        key = query_id.encode()
        self._tails[key].discard(tail)
        if not self._tails[key]:
            del self._tails[key]

    async def run(self) -> None:
        """Listens until cancelled; what is missed during a reconnect shows as a gap."""
        channels = [keys.appended_channel(shard) for shard in keys.SHARDS]
        while True:
            try:
                await listen(self._redis, channels, self._hear)
            except (RedisError, OSError) as error:
                logger.warning("appends are not heard", extra={"cause": str(error)})
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _hear(self, _channel: bytes, data: bytes) -> None:
        key, _, rest = data.partition(b"\n")
        tails = self._tails.get(key)
        if not tails:
            return
        first, *lines = rest.split(b"\n")
        for tail in tails:
            tail.notice(int(first), lines)
