"""What is a chat's text, as the worker's own template writes it? So that a half-finished turn can be put behind it.

vLLM's /tokenize applies the template and /detokenize gives the text back, special tokens included. (So does
/v1/chat/completions/render, in newer versions only, and it gives token ids too.) Not every tokenizer reads its own
special tokens back from a text: the text counts only where it has the template's tokens again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TypeVar

import msgspec

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.transport import Transport
from dynasor_serve.programs.query import Message

_MOST_PROMPTS = 256
_MOST_CHARACTERS = 16_000_000  # of all that are kept

_Key = tuple[str, str, tuple[Message, ...]]  # (url, model, messages)


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class _Detokenized(msgspec.Struct):
    prompt: str


_Reply = TypeVar("_Reply", _Tokenized, _Detokenized)


class PromptRenderer:
    """Renders chats, and keeps those last used: all branches of a program and all probes of a chain share one."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._rendered: OrderedDict[_Key, str | None] = OrderedDict()  # the last used at the end
        self._characters = 0
        self._running: dict[_Key, asyncio.Task[str | None]] = {}

    async def close(self) -> None:
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def render(self, url: str, model: str, messages: tuple[Message, ...]) -> str | None:
        """The chat's text up to the assistant's turn.

        Returns:
            None where the worker cannot tell.

        Raises:
            EngineError: the worker is down, or refuses the chat.
        """
        key = (url, model, messages)
        if key in self._rendered:
            self._rendered.move_to_end(key)
            return self._rendered[key]
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)  # others may wait for it too

    async def _ask(self, key: _Key) -> str | None:
        url, model, messages = key
        chat = [{"role": message.role, "content": message.content} for message in messages]
        tokenize = {"model": model, "messages": chat, "add_generation_prompt": True}
        try:
            tokens = await self._fetch(url, "/tokenize", tokenize, _Tokenized)
            text = await self._fetch(url, "/detokenize", {"model": model, "tokens": tokens.tokens}, _Detokenized)
            again = {"model": model, "prompt": text.prompt, "add_special_tokens": False}
            is_faithful = (await self._fetch(url, "/tokenize", again, _Tokenized)).tokens == tokens.tokens
        except EngineError as error:
            if error.reason is EngineReason.MODEL_NOT_SERVED:
                # 404: it has no such path. If it is the model that is missing, the call itself will hear so.
                return None
            raise
        return text.prompt if is_faithful else None

    async def _fetch(self, url: str, path: str, body: dict[str, object], shape: type[_Reply]) -> _Reply:
        reply = await self._transport.fetch(url, path, body)
        try:
            return msgspec.json.decode(reply, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message = f"the engine at {url} answers {path} with what is no such answer: {reply[:120]!r}"
            raise EngineError(EngineReason.ENGINE_GARBAGE, message) from error

    def _keep(self, key: _Key, done: asyncio.Task[str | None]) -> None:
        del self._running[key]
        if done.cancelled() or done.exception() is not None:
            return
        text = done.result()
        self._rendered[key] = text
        self._characters += _characters(key, text)
        while len(self._rendered) > _MOST_PROMPTS or self._characters > _MOST_CHARACTERS:
            self._characters -= _characters(*self._rendered.popitem(last=False))


def _characters(key: _Key, text: str | None) -> int:
    return sum(len(message.content) for message in key[2]) + len(text or "")
