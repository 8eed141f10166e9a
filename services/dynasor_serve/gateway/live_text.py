"""Live text of a query's running calls, straight from the tracker that owns it, while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2
from dynasor_serve.api.tracker.v1 import tracker_pb2
from dynasor_serve.api.tracker.v1.tracker_pb2_grpc import TrackerServiceStub
from dynasor_serve.programs.query import QueryId
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import ServiceError

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5  # between two looks for the owner
_MOST_BUFFERED = 4096


@dataclass(slots=True)
class _Link:
    """A channel and how many streams it carries."""

    channel: grpc.aio.Channel
    streams: int = 0


class TrackerChannels:
    """One channel per tracker, opened at first use. Trackers come and go: beyond `most`, idle ones are closed."""

    def __init__(self, *, most: int = 64) -> None:
        self._most = most
        self._links: OrderedDict[str, _Link] = OrderedDict()  # address -> link, the least recently used first

    def __len__(self) -> int:
        return len(self._links)

    @contextlib.asynccontextmanager
    async def to(self, address: str) -> AsyncIterator[TrackerServiceStub]:
        """A stub for one stream."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = _Link(open_channel(address))
        link.streams += 1
        try:
            yield TrackerServiceStub(link.channel)
        finally:
            link.streams -= 1
            if address in self._links:
                self._links.move_to_end(address)
            await self._close_idle()

    async def close(self) -> None:
        while self._links:
            await self._links.popitem()[1].channel.close()

    async def _close_idle(self) -> None:
        idle = [address for address, link in self._links.items() if not link.streams]
        gone = [self._links.pop(address) for address in idle[: max(0, len(self._links) - self._most)]]
        for link in gone:
            await link.channel.close()


Event = reasoning_pb2.QueryEvent


async def with_live_text(
    query_id: QueryId,
    events: AsyncIterator[Event],
    owner: Callable[[QueryId], Awaitable[str]],
    trackers: TrackerChannels,
) -> AsyncIterator[Event]:
    """The events, with the running calls' text between them. A tracker that fails costs text, never an event.

    Args:
        owner: the address of the tracker that owns the query now; empty where none does.
    """
    merged: asyncio.Queue[Event | None] = asyncio.Queue(_MOST_BUFFERED)
    failure: list[BaseException] = []

    async def pass_events() -> None:
        try:
            async for event in events:
                await merged.put(event)
        except Exception as error:  # noqa: BLE001 raised again below, in the reader's own task
            failure.append(error)
        await merged.put(None)

    async def pass_text() -> None:
        async with contextlib.aclosing(_text_events(query_id, owner, trackers)) as texts:
            async for event in texts:
                await merged.put(event)

    tasks = [asyncio.create_task(pass_events()), asyncio.create_task(pass_text())]
    last_sequence = 0
    try:
        while (event := await merged.get()) is not None:
            if event.HasField("text_delta"):
                event.sequence = last_sequence
            last_sequence = event.sequence
            yield event
        if failure:
            raise failure[0]
    finally:
        for task in tasks:
            task.cancel()


async def _text_events(
    query_id: QueryId, owner: Callable[[QueryId], Awaitable[str]], trackers: TrackerChannels
) -> AsyncGenerator[Event, None]:
    """Text of whichever tracker owns the query, through every failure and takeover. Never ends."""
    request = tracker_pb2.StreamTextRequest(query_id=query_id)
    pause = _SHORTEST_PAUSE_SECONDS
    sent: dict[tuple[int, str], int] = {}  # (branch, attempt) -> where the text sent so far ends
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, ServiceError):
            address = await owner(query_id)
            if address:
                async with trackers.to(address) as tracker:
                    async for delta in tracker.StreamText(request):
                        pause = _SHORTEST_PAUSE_SECONDS
                        # A stream that was cut and opened again begins with the text so far.
                        branch, attempt = delta.branch, delta.attempt
                        start = max(delta.offset, sent.get((branch, attempt), 0))
                        text = delta.text[start - delta.offset :]
                        if text:
                            new = reasoning_pb2.TextDelta(branch=branch, attempt=attempt, offset=start, text=text)
                            yield Event(query_id=query_id, text_delta=new)
                            sent[branch, attempt] = start + len(text)
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
