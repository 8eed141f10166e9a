"""A worker that loses calls, or answers them twice: an OpenAI-compatible server that says "seven" in three tokens.

async with careless_worker(Carelessness.VANISHES) as worker: ...
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import web

MODEL = "careless"
TOKENS = ("\\boxed{", "7", "}")


class Carelessness(StrEnum):
    """What becomes of the first attempt of every branch."""

    VANISHES = "vanishes"  # between grant and first token: the connection closes without a word
    BREAKS_OFF = "breaks-off"  # after two of three tokens
    REPEATS = "repeats"  # all is said twice, with two ends


@dataclass(slots=True)
class CarelessWorker:
    """The worker.

    Attributes:
        asked: how often each call was asked for, by its id QUERY/BRANCH/ATTEMPT.
        url: where it listens.
    """

    carelessness: Carelessness
    asked: Counter[str] = field(default_factory=Counter)
    url: str = ""

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        call = request.headers["X-Request-Id"]
        self.asked[call] += 1
        is_careful = not call.endswith("/1.1")
        assert request.transport is not None
        if self.carelessness is Carelessness.VANISHES and not is_careful:
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.carelessness is Carelessness.BREAKS_OFF and not is_careful:
            for token in TOKENS[:2]:
                await response.write(_event(token))
            request.transport.close()
            return response
        for _ in range(2 if self.carelessness is Carelessness.REPEATS else 1):
            said = b"".join(_event(token, "stop" if token == TOKENS[-1] else None) for token in TOKENS)
            await response.write(said + b"data: [DONE]\n\n")
        return response


def _event(token: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": token}, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


@asynccontextmanager
async def careless_worker(carelessness: Carelessness) -> AsyncIterator[CarelessWorker]:
    """Runs one on a free port."""
    worker = CarelessWorker(carelessness)
    app = web.Application()
    app.router.add_get("/v1/models", worker.models)
    app.router.add_post("/v1/chat/completions", worker.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    worker.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield worker
    finally:
        await runner.cleanup()
