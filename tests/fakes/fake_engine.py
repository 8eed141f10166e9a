"""A fake engine: answers in the formats of vLLM and of an OpenAI-compatible server, without a model behind it.

Its tokens are characters, and its chat template is ChatML.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class FakeToken:
    """One token of the reply, with what is said of it."""

    text: str
    logprob: float = -0.1
    top: tuple[tuple[str, float], ...] = ()  # (token, log-probability)


@dataclass(slots=True)
class FakeEngine:
    """What it answers, and what it was asked.

    Attributes:
        reply: the tokens of every completion.
        finish: fields of the last choice.
        answers: path -> body of what is answered in one piece, such as a reward.
        has_tokenizer: whether /tokenize and /detokenize are there.
        forgets_specials: /detokenize leaves special tokens out, as some tokenizers do.
        refusal: of a chat whose last turn is to be continued; None: it continues.
        held: paths that answer only once this event is set.
        asked: (path, body) of each request, in order.
        hung_up: a client went away before its answer.
    """

    reply: Sequence[FakeToken] = (FakeToken("7"),)
    finish: dict[str, Any] = field(default_factory=lambda: {"finish_reason": "stop", "stop_reason": None})
    answers: dict[str, Any] = field(default_factory=dict)
    has_tokenizer: bool = True
    forgets_specials: bool = False
    refusal: str | None = None
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What was asked at a path."""
        return [body for asked, body in self.asked if asked == path]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((request.path, body))
        if request.path in self.held:
            try:
                await self.held[request.path].wait()
            except asyncio.CancelledError:
                self.hung_up.set()
                raise
        match request.path:
            case "/tokenize" if self.has_tokenizer:
                text = body["prompt"] if "prompt" in body else rendered(body["messages"])
                return web.json_response({"count": len(text), "max_model_len": 4096, "tokens": [ord(c) for c in text]})
            case "/detokenize" if self.has_tokenizer:
                text = "".join(map(chr, body["tokens"]))
                return web.json_response(
                    {"prompt": text.replace("<|im_start|>", "") if self.forgets_specials else text}
                )
            case "/v1/completions" | "/v1/chat/completions":
                if self.refusal is not None and "continue_final_message" in body:
                    return web.json_response({"error": {"message": self.refusal}}, status=400)
                return await self._stream(request, body, is_chat="messages" in body)
            case path if path in self.answers:
                given = self.answers[path]
                return web.Response(text=given if isinstance(given, str) else json.dumps(given))
            case _:
                return web.json_response({"detail": "Not Found"}, status=404)

    async def _stream(self, request: web.Request, body: dict[str, Any], *, is_chat: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, token in enumerate(self.reply, start=1):
            choice: dict[str, Any] = {"index": 0}
            choice |= {"delta": {"content": token.text}} if is_chat else {"text": token.text}
            if body.get("logprobs"):
                choice["logprobs"] = _chat_logprobs(token) if is_chat else _completion_logprobs(token)
            if number == len(self.reply):
                choice |= self.finish
            usage = {"prompt_tokens": 5, "completion_tokens": number}
            await response.write(f"data: {json.dumps({'choices': [choice], 'usage': usage})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


def rendered(messages: list[dict[str, str]]) -> str:
    """A chat's text up to the assistant's turn."""
    turns = (f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)
    return "".join(turns) + "<|im_start|>assistant\n"


def _chat_logprobs(token: FakeToken) -> dict[str, Any]:
    top = [{"token": text, "logprob": logprob, "bytes": None} for text, logprob in token.top]
    return {"content": [{"token": token.text, "logprob": token.logprob, "bytes": None, "top_logprobs": top}]}


def _completion_logprobs(token: FakeToken) -> dict[str, Any]:
    top = dict(token.top) or None
    return {"text_offset": [0], "tokens": [token.text], "token_logprobs": [token.logprob], "top_logprobs": [top]}


@asynccontextmanager
async def fake_engine(**behaviour: Any) -> AsyncIterator[FakeEngine]:
    """Runs one on a free port."""
    engine = FakeEngine(**behaviour)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    engine.url = f"http://127.0.0.1:{port}"
    try:
        yield engine
    finally:
        await runner.cleanup()
