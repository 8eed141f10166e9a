"""The client of an engine: any OpenAI-compatible server, at its best with vLLM.

One `EngineCall` is one HTTP request for one branch, streamed with running usage so that a cancelled call's tokens are
known. Closing it closes the connection, which is how an engine is told to abort. `requests` says what is asked,
`rendering` how a chat reads as text, `transport` how it is sent, `reply` what comes of it. Used by `tracker.gang`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynasor_serve.engines import requests, reward_models, wire
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.http import HttpError, HttpResponse
from dynasor_serve.engines.rendering import PromptRenderer
from dynasor_serve.engines.reply import Completion, Reply
from dynasor_serve.engines.requests import Asked, CallRequest, Endpoint
from dynasor_serve.engines.transport import EngineTimeouts, Transport, fault, refusal
from dynasor_serve.programs.calls import Judge

__all__ = ["CallRequest", "Completion", "Endpoint", "EngineCall", "EngineClient", "EngineTimeouts"]

# Words in which servers refuse to go on with an assistant's turn.
_WORDS_ON_CONTINUING = ("continue_final_message", "add_generation_prompt", "assistant", "prefill")


class EngineClient:
    """Opens calls to any number of endpoints. Raises nothing itself; calls raise `EngineError`."""

    def __init__(self, timeouts: EngineTimeouts, api_key: str = "") -> None:
        self.transport = Transport(timeouts, api_key)
        self._renderer = PromptRenderer(self.transport)

    async def close(self) -> None:
        await self._renderer.close()
        await self.transport.close()

    def open(self, request: CallRequest) -> EngineCall:
        """A call that starts when its `completion` is awaited."""
        return EngineCall(self, request)

    async def asked(self, request: CallRequest) -> Asked:
        """What an engine is asked for a call. Raises `EngineError` where it cannot serve it."""
        requests.check(request)
        if request.plan.judge is Judge.MODEL:
            return reward_models.judgement(request)
        rendered = None
        if request.needs_rendering:
            rendered = await self._renderer.render(request.endpoint.url, request.query.model, request.messages)
        return requests.generation(request, rendered)

    async def send(self, request: CallRequest, asked: Asked) -> HttpResponse:
        """The open response to a call. Raises `EngineError`, `HttpError` and `OSError`."""
        url = request.endpoint.url
        try:
            return await self.transport.send(url, asked.path, asked.body, request.request_id)
        except EngineError as error:
            said = str(error)
            if asked.continues_chat and error.reason is EngineReason.ENGINE_REFUSED and _is_on_continuing(said):
                message = f"{said}; it cannot continue an assistant's turn in a chat, so ask with a prompt"
                raise EngineError(EngineReason.CALL_UNSUPPORTED, message) from error
            raise


class EngineCall:
    """One request to an engine.

    Attributes:
        tokens: completion tokens so far, as the engine last said; where it says nothing, one per event.
        prompt_tokens, cached_prompt_tokens: of the prompt, known from the first event on.
        token_ids: of the completion so far; only where they were asked for and the engine knows them.
        parts: the text so far.
        lowest_confidence: the lowest group confidence so far; None until a window of tokens was seen.
    """

    __slots__ = (
        "_client", "_request", "_response", "_until_response", "_url",
        "cached_prompt_tokens", "is_closed", "lowest_confidence", "parts", "prompt_tokens", "token_ids", "tokens",
    )  # fmt: skip

    def __init__(self, client: EngineClient, request: CallRequest) -> None:
        self._client = client
        self._request = request
        self._url = request.endpoint.url
        self._response: HttpResponse | None = None
        self._until_response: asyncio.Timeout | None = None
        self.tokens = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.token_ids: list[int] = []
        self.parts: list[str] = []
        self.lowest_confidence: float | None = None
        self.is_closed = False

    def close(self) -> None:
        """Closes the connection at once; the engine aborts. Safe at any time."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._response is not None:
            self._response.close()
        elif self._until_response is not None:
            self._until_response.reschedule(0)  # long ago, so `completion` is interrupted where it waits

    async def completion(self, on_progress: Callable[[str], None]) -> Completion:
        """Runs the call to its end.

        Args:
            on_progress: told the new text of each event, after the counts have been brought up to date.

        Raises:
            EngineError: whatever went wrong; nothing else but cancellation leaves here.
        """
        if self.is_closed:
            raise self._closed()
        try:
            async with asyncio.timeout(None) as self._until_response:
                asked = await self._client.asked(self._request)
                if self._request.plan.judge is Judge.MODEL:
                    return await self._judged(asked)
                self._response = await self._client.send(self._request, asked)
            if self.is_closed:  # just when the response had come
                raise self._closed()
            completion = await self._read(self._response, asked, on_progress)
            self._response.release()
            self._response = None
            return completion
        except (TimeoutError, HttpError, OSError) as error:
            if self.is_closed:
                raise self._closed() from error
            raise fault(error, self._url, self._client.transport.timeouts, self.tokens) from error
        finally:
            self._until_response = None
            if self._response is not None:
                self._response.close()

    async def _judged(self, asked: Asked) -> Completion:
        """The judgement of a reward model, which comes in one piece."""
        kind = self._request.endpoint.kind
        try:
            body = await self._client.transport.fetch(self._url, asked.path, asked.body, self._request.request_id)
        except EngineError as error:
            if error.reason is EngineReason.MODEL_NOT_SERVED:
                message = f"{error}; it lacks the model or {asked.path}, so check that it is of kind {kind}"
                raise EngineError(error.reason, message) from error
            raise
        reward, self.prompt_tokens = reward_models.read_reward(body, kind, self._url)
        return Completion(text="", finish_reason="stop", reward=reward)

    async def _read(self, response: HttpResponse, asked: Asked, on_progress: Callable[[str], None]) -> Completion:
        reader = wire.EventReader()
        reply = Reply(self._request, self.parts, asked.opened_thought)
        while not reader.done and (data := await response.read_some()):
            for chunk in reader.feed(data):
                if chunk.error is not None:
                    raise _failure(chunk.error, self._url)
                new = ""
                for choice in chunk.choices:
                    new = reply.take(choice)
                    self.token_ids += choice.token_ids or ()
                self._count(chunk)
                if reply.evidence is not None:
                    self.lowest_confidence = reply.evidence.lowest_confidence
                on_progress(new)
                if self.is_closed:  # by whoever was told
                    raise self._closed()
        if left_out := reply.end():
            on_progress(left_out)
        return reply.completion()

    def _count(self, chunk: wire.Chunk) -> None:
        usage = chunk.usage
        if usage is None:
            self.tokens += bool(chunk.choices)
            return
        self.tokens = usage.completion_tokens
        self.prompt_tokens = usage.prompt_tokens
        if usage.prompt_tokens_details is not None:
            self.cached_prompt_tokens = usage.prompt_tokens_details.cached_tokens or 0

    def _closed(self) -> EngineError:
        return EngineError(EngineReason.ENGINE_UNAVAILABLE, f"the call to the engine at {self._url} was closed")


def _failure(error: wire.ErrorBody, url: str) -> EngineError:
    """What an error within a stream means: vLLM refuses some requests only there."""
    if isinstance(error.code, int) and 400 <= error.code < 500:
        return refusal(error.code, error, url)
    return EngineError(EngineReason.ENGINE_FAILED, f"the engine reports: {error.message}")


def _is_on_continuing(said: str) -> bool:
    lowered = said.lower()
    return any(word in lowered for word in _WORDS_ON_CONTINUING)
