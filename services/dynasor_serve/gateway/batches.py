"""Many queries over one stream: bounded in flight, each answered when it ends, none able to fail the others.

`servicer.RunBatch` is the only caller. A batch waits where a single query would be refused for a passing reason, and it
holds no more than its bounds allow, however many queries come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from dynasor_serve.gateway.queries import Queries
from dynasor_serve.programs.events import Accepted, Finished
from dynasor_serve.programs.query import Query
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state.program_log import Snapshot
from dynasor_serve.state.records import Record

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One query of a batch."""

    key: str  # the caller's name for it
    query: Query | ServiceError  # the error where the message made no query
    size_bytes: int  # of its message


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one entry."""

    entry: Entry
    result: Snapshot | ServiceError  # of the final query, or why it was not accepted


class Batches:
    """All batches of one gateway.

    Args:
        queries: where each query is accepted and followed.
        most_in_flight: most queries of one batch that are not answered yet.
        most_bytes_in_flight: most bytes of their messages; one query always fits.
        patience_seconds: how long an entry that is refused for a passing reason is offered again; where there is too
            much to do, at least as long as its deadline would let it run. Each refusal is counted, as it is for a
            client that tries again itself.
    """

    def __init__(
        self, queries: Queries, *, most_in_flight: int, most_bytes_in_flight: int, patience_seconds: float
    ) -> None:
        self._queries = queries
        self._most_in_flight = most_in_flight
        self._most_bytes_in_flight = most_bytes_in_flight
        self._patience_seconds = patience_seconds

    async def run(self, entries: AsyncIterator[Entry]) -> AsyncIterator[Ended]:
        """Answers every entry once its query is final or refused, in the order they end.

        Entries are read while there is room; an answer keeps its place until the caller has taken it. Where the caller
        leaves, what was accepted goes on without it.

        Raises:
            ServiceError: the entries cannot be read on.
        """
        room = _Room(self._most_in_flight, self._most_bytes_in_flight)
        answers: asyncio.Queue[Ended | None] = asyncio.Queue()  # bounded by the room
        reading = asyncio.create_task(self._read(entries, room, answers))
        try:
            while (ended := await answers.get()) is not None:
                yield ended
                room.leave(ended.entry.size_bytes)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, entries: AsyncIterator[Entry], room: _Room, answers: asyncio.Queue[Ended | None]) -> None:
        """Asks the entries as they come and there is room; puts None behind the last answer."""
        asking: set[asyncio.Task[None]] = set()
        try:
            async for entry in entries:
                await room.enter(entry.size_bytes)
                task = asyncio.create_task(self._ask(entry, answers))
                asking.add(task)
                task.add_done_callback(asking.discard)
            if asking:
                await asyncio.wait(asking)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            answers.put_nowait(None)

    async def _ask(self, entry: Entry, answers: asyncio.Queue[Ended | None]) -> None:
        result: Snapshot | ServiceError
        try:
            result = await self._patiently(entry.query) if isinstance(entry.query, Query) else entry.query
        except ServiceError as error:
            result = error
        except Exception:
            logger.exception("a query of a batch failed unexpectedly")
            result = ServiceError(Reason.INTERNAL, "an internal error; the server's log has the cause")
        answers.put_nowait(Ended(entry, result))

    async def _patiently(self, query: Query) -> Snapshot:
        """The query at its end; offered again while it is refused for a reason that passes."""
        began, longest = time.monotonic(), _SHORTEST_PAUSE_SECONDS
        while True:
            try:
                return await self._to_its_end(query)
            except ServiceError as error:
                # Redis may have accepted it and failed to say so: only an idempotency key finds it again.
                is_unclear = error.reason is Reason.STATE_UNAVAILABLE and not query.idempotency_key
                pause = (error.retry_after_seconds or 0.0) + longest * random.uniform(0.5, 1.0)
                patience = max(self._patience_seconds, query.deadline_seconds if error.is_overload else 0.0)
                if not error.is_retryable or is_unclear or time.monotonic() + pause > began + patience:
                    raise
            await asyncio.sleep(pause)
            longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)

    async def _to_its_end(self, query: Query) -> Snapshot:
        """Accepts a query, or finds it by its idempotency key, and follows it to its final record."""
        first: Record | None = None
        async with contextlib.aclosing(self._queries.run(query)) as records:  # type: ignore[type-var]
            async for query_id, sequence, record in records:
                if isinstance(record.event, Accepted):
                    first = record
                if first is not None and isinstance(record.event, Finished):
                    return Snapshot(
                        query_id=query_id,
                        phase=record.event.outcome.phase,
                        first=first,
                        last=record,
                        length=sequence + 1,
                        samples=record.samples,
                        certaindex=record.certaindex,
                    )
        raise ServiceError(Reason.INTERNAL, "the query's log ended before its final record")


class _Room:
    """Places for the queries of one batch, bounded in number and in bytes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._taken = 0
        self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size_bytes: int) -> None:
        """Takes a place, waiting for one; an empty room takes any size. For one caller at a time."""
        while self._taken and (self._taken >= self._most or self._bytes + size_bytes > self._most_bytes):
            self._left.clear()
            await self._left.wait()
        self._taken += 1
        self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Gives a place back."""
        self._taken -= 1
        self._bytes -= size_bytes
        self._left.set()
