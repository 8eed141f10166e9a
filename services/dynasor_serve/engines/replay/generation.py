"""How is one generation request played to its client?

The request is read (`requests`), joined to its recorded answer (`playback`), and each of its choices waits for a
slot in the engine and writes what falls due. A client that leaves cancels its handler (aiohttp's
`handler_cancellation`), and the cancelled handler frees its slots in the same moment.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiohttp import web

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.errors import InjectedFault
from dynasor_serve.engines.replay.faults import HANGING, Fault
from dynasor_serve.engines.replay.in_flight import InFlight
from dynasor_serve.engines.replay.playback import Choice, Performance, Playback
from dynasor_serve.engines.replay.requests import GenerationRequest
from dynasor_serve.engines.replay.responses import DONE, Head, ResponseWriter, writer_for

#: Names the call; its branch chooses the sample (`branches`). Echoed in every response.
REQUEST_ID_HEADER: Final = "X-Request-Id"

#: What a fault sends instead of an answer.
GARBAGE: Final = b'data: {"id":"chatcmpl-\xff\xfe","choices":[{"delta":{"content":\x00 7}\n\n<html>data: [DON'

# Writes the events of a choice from one position up to another.
_Write = Callable[[Choice, int, int], Awaitable[None]]


class Generation:
    """Answers generation requests.

    Args:
        playback: Finds the recorded answers.
        in_flight: Counts the requests.
    """

    def __init__(self, *, playback: Playback, in_flight: InFlight) -> None:
        self._playback = playback
        self._in_flight = in_flight

    async def answer(self, http: web.Request, parse: Callable[[bytes], GenerationRequest]) -> web.StreamResponse:
        """Answer one request, as a stream or whole.

        Raises:
            RequestRefused: Before anything is sent.
        """
        with self._in_flight.counted():
            request = parse(await http.read())
            request_id = http.headers.get(REQUEST_ID_HEADER) or request.request_id or uuid.uuid4().hex[:16]
            performance = self._playback.perform(request, request_id)
            fault = performance.fault
            if fault is Fault.ERROR_500:
                raise InjectedFault("This request fails because of --fault error-500.")
            head = Head(
                request_id=request_id,
                model=performance.model,
                created=int(time.time()),
                continuous_usage=request.continuous_usage,
                return_token_ids=request.return_token_ids,
                logprobs=request.logprobs,
            )
            writer = writer_for(request.face, head)
            answer = self._stream if request.stream else self._whole
            return await answer(http, request, performance, writer, fault)

    async def _stream(
        self,
        http: web.Request,
        request: GenerationRequest,
        performance: Performance,
        writer: ResponseWriter,
        fault: Fault | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(http)
        if fault is Fault.GARBAGE:
            await response.write_eof(GARBAGE)
            return response

        async def write(choice: Choice, first: int, last: int) -> None:
            # A connection that is closing refuses the write a moment before the handler is cancelled.
            events = _events(writer, choice, first, last)
            if events:
                with suppress(ConnectionError):
                    await response.write(events)

        await self._play_all(http, performance, write, fault)
        ending = writer.usage_event(performance.usage()) + DONE if request.include_usage else DONE
        with suppress(ConnectionError):
            await response.write_eof(ending)
        return response

    async def _whole(
        self,
        http: web.Request,
        request: GenerationRequest,
        performance: Performance,
        writer: ResponseWriter,
        fault: Fault | None,
    ) -> web.StreamResponse:
        if fault is Fault.GARBAGE:
            return web.Response(body=GARBAGE, content_type="application/json")

        async def write(choice: Choice, first: int, last: int) -> None:
            """Keep still: the body is written when all choices are done."""

        await self._play_all(http, performance, write, fault)
        emissions: list[Emission] = [choice.emission for choice in performance.choices]
        return web.Response(body=writer.body(emissions, performance.usage()), content_type="application/json")

    async def _play_all(self, http: web.Request, performance: Performance, write: _Write, fault: Fault | None) -> None:
        if len(performance.choices) == 1:  # a task less for nearly every request
            await self._play(http, performance, performance.choices[0], write, fault)
            return
        async with asyncio.TaskGroup() as choices:
            for choice in performance.choices:
                choices.create_task(self._play(http, performance, choice, write, fault))

    async def _play(
        self, http: web.Request, performance: Performance, choice: Choice, write: _Write, fault: Fault | None
    ) -> None:
        engine, call, events = performance.engine, choice.call, choice.events
        cut_at = len(events) // 2 if fault is Fault.CUT_STREAM else None
        position = 0
        async with engine.slot(call):
            if fault in HANGING:
                await until_cancelled()
            while (until := await engine.next_events(call, events, position)) < len(events) or cut_at is not None:
                if cut_at is not None and until >= cut_at:
                    await write(choice, position, cut_at)
                    await close_connection(http)
                await write(choice, position, until)
                position = until
            engine.finish(call, choice.emission.finish_reason)
        # Outside the slot: an engine does not wait for a client that reads slowly.
        await write(choice, position, until)


def _events(writer: ResponseWriter, choice: Choice, first: int, last: int) -> bytes:
    """Return the events of a choice from position `first` up to `last`."""
    call, emission, events = choice.call, choice.emission, choice.events
    pieces = [writer.opening(choice.index, call.prompt_tokens)] if first == 0 else []
    tokens = events[first - 1] if first else 0
    for position in range(first, last):
        is_last = position == len(events) - 1
        pieces.append(
            writer.event(choice.index, emission, tokens, events[position], call.prompt_tokens, is_last=is_last)
        )
        tokens = events[position]
    return b"".join(pieces)


async def close_connection(http: web.Request) -> None:
    """Close the client's connection; the handler is cancelled when that has happened."""
    if http.transport is not None:
        http.transport.close()
    await until_cancelled()


async def until_cancelled() -> None:
    """Do nothing until the handler is cancelled, which is what happens when its client leaves."""
    await asyncio.Event().wait()
