"""An engine for one measurement: some branches answer together, the others go on until their socket is closed.

It shows from outside how long a verdict takes to reach the siblings: from the last deciding byte sent to each sibling's
connection lost. Parsing, the verdict and the network are in it, so it bounds verdict-to-closed-socket from above.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

MODEL = "stalling-model"
DECIDING_BRANCHES = 4  # unanimous at beta-posterior 0.95: P(Beta(5, 1) > 1/2) = 0.969


class Progress(StrEnum):
    """How far a sibling is when the verdict comes."""

    QUEUED = "queued"  # nothing is said yet
    RUNNING = "running"  # the stream is open, and silent
    STREAMING = "streaming"  # an event every 20 ms


# Of the branches after the deciding ones.
SIBLINGS = (Progress.QUEUED, Progress.RUNNING, Progress.STREAMING)
BRANCHES = DECIDING_BRANCHES + len(SIBLINGS)

_MODELS = b'{"object":"list","data":[{"id":"stalling-model","owned_by":"dynasor","max_model_len":4096}]}'
_EVENT = b'data: {"choices":[{"delta":{"content":"so "}}],"usage":{"prompt_tokens":8,"completion_tokens":1}}\n\n'
_ANSWER = (
    b'data: {"choices":[{"delta":{"content":"The answer is 5"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":8,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
)
_EVENT_SECONDS = 0.02


@dataclass(slots=True)
class _Program:
    """One query's calls as the engine sees them."""

    deciding: list[asyncio.StreamWriter] = field(default_factory=list)
    siblings: int = 0
    decided_at: float = 0.0  # perf_counter when the last deciding byte was sent
    # (how far it was, seconds from then to its end) of each sibling
    closed: list[tuple[Progress, float]] = field(default_factory=list)


class StallingEngine:
    """Listens on 127.0.0.1 while used as a context."""

    def __init__(self) -> None:
        self._programs: defaultdict[str, _Program] = defaultdict(_Program)
        self._server: asyncio.Server
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def closing_seconds(self, progress: Progress) -> list[float]:
        """Of the siblings that were so far, of all programs, sorted."""
        return sorted(seconds for each in self._programs.values() for was, seconds in each.closed if was is progress)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request_line := await reader.readline():
                headers = {}
                while (line := (await reader.readline()).strip()) != b"":
                    name, _, value = line.partition(b":")
                    headers[name.strip().lower()] = value.strip().decode()
                await reader.readexactly(int(headers.get(b"content-length", "0")))
                if request_line.startswith(b"GET"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_MODELS), _MODELS))
                    continue
                await self._complete(headers[b"x-request-id"], reader, writer)
                return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # how every sibling ends
        finally:
            writer.close()

    async def _complete(self, request_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query_id, branch, _ = request_id.split("/")
        program, place = self._programs[query_id], int(branch) - DECIDING_BRANCHES
        progress = SIBLINGS[place] if place >= 0 else Progress.RUNNING
        if progress is not Progress.QUEUED:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + _EVENT)
        if place < 0:
            program.deciding.append(writer)
            self._decide_when_complete(program)
            await reader.read()
            return
        program.siblings += 1
        self._decide_when_complete(program)
        streaming = asyncio.create_task(_stream(writer)) if progress is Progress.STREAMING else None
        try:
            await reader.read()
        finally:  # a connection that is reset has ended as well
            program.closed.append((progress, time.perf_counter() - program.decided_at))
            if streaming is not None:
                streaming.cancel()

    def _decide_when_complete(self, program: _Program) -> None:
        if len(program.deciding) + program.siblings < BRANCHES:
            return
        for writer in program.deciding:
            writer.write(_ANSWER)
            writer.write_eof()
        program.decided_at = time.perf_counter()


async def _stream(writer: asyncio.StreamWriter) -> None:
    while not writer.is_closing():
        writer.write(_EVENT)
        await asyncio.sleep(_EVENT_SECONDS)
