"""Live text of a query's running calls, straight from the tracker that owns it, while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2
from dynasor_serve.api.tracker.v1 import tracker_pb2
from dynasor_serve.api.tracker.v1.tracker_pb2_grpc import TrackerServiceStub
from dynasor_serve.programs.query import QueryId
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import ServiceError

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5  # between two looks for the owner
_MOST_BUFFERED = 4096


class TrackerChannels:
    """One channel per tracker, opened at first use."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}  # address -> channel

    def to(self, address: str) -> TrackerServiceStub:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = open_channel(address)
        return TrackerServiceStub(channel)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


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
        async for event in _text_events(query_id, owner, trackers):
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
) -> AsyncIterator[Event]:
    """Text of whichever tracker owns the query, through every failure and takeover. Never ends."""
    request = tracker_pb2.StreamTextRequest(query_id=query_id)
    pause = _SHORTEST_PAUSE_SECONDS
    sent: dict[tuple[int, str], int] = {}  # (branch, attempt) -> where the text sent so far ends
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError, ServiceError):
            address = await owner(query_id)
            if address:
                async for delta in trackers.to(address).StreamText(request):
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
