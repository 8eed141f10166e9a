"""The client of an engine: any OpenAI-compatible server, at its best with vLLM.

One `EngineCall` is one HTTP request for one branch, streamed with running usage so that a cancelled call's tokens are
known. Closing it closes the connection, which is how an engine is told to abort. Used by `tracker.calls`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from dynasor_serve.engines import wire
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind, authorization
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.query import Branch, Query

MAX_TEXT_CHARACTERS = 8_000_000
_DRAIN_SECONDS = 0.1
_NO_END = ("", "abort", "error")  # finish reasons of a completion that is none


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes."""

    url: str  # without /v1
    kind: EngineKind


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One branch's call, as an engine is asked for it."""

    endpoint: Endpoint
    query: Query
    plan: CallPlan
    branch: Branch
    request_id: str  # QUERY/BRANCH/ATTEMPT; a replay engine picks the sample by it
    priority: int = 0  # smaller first
    return_token_ids: bool = False  # costs a list of numbers per event


@dataclass(frozen=True, slots=True)
class EngineTimeouts:
    """How long an engine may be silent, in seconds."""

    connect: float = 5.0
    stall: float = (
        120.0  # without a byte, the first included: queueing in the engine and a long prefill are silence too
    )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call yields when it runs to its end.

    Attributes:
        text: of the completion; empty where a reward was asked for.
        finish_reason: in the engine's words: "stop", "length".
        stopped_at: the stop string that ended it; None where it ended by itself or by its length.
        probability: mean probability of the reply's tokens, in [0, 1]; None where the plan did not ask.
        confidence: the lowest group confidence of the call; None where the plan did not ask.
        reward: in [0, 1]; None where the plan asked for none.
    """

    text: str
    finish_reason: str
    stopped_at: str | None = None
    probability: float | None = None
    confidence: float | None = None
    reward: float | None = None


class EngineClient:
    """Opens calls to any number of endpoints. Raises nothing itself; calls raise `EngineError`."""

    def __init__(self, timeouts: EngineTimeouts, api_key: str = "") -> None:
        self.timeouts = timeouts
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=30),
            headers=authorization(api_key),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.stall),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            read_bufsize=1 << 18,
        )
        self._draining: set[asyncio.Task[None]] = set()
        self._without_priority: set[str] = set()  # urls that refuse priorities

    async def close(self) -> None:
        await asyncio.gather(*self._draining, return_exceptions=True)
        await self._session.close()

    def open(self, request: CallRequest) -> EngineCall:
        """A call that starts when its `completion` is awaited."""
        return EngineCall(self, request)

    def release(self, response: aiohttp.ClientResponse) -> None:
        """Gives a response's connection back, after its end where that is near; nobody waits for it."""
        if response.closed or response.content.at_eof():
            response.release()
            return
        draining = asyncio.create_task(_drain(response))
        self._draining.add(draining)
        draining.add_done_callback(self._draining.discard)

    async def send(self, request: CallRequest) -> aiohttp.ClientResponse:
        """The open response to a request. Raises `EngineError`, and what aiohttp raises."""
        url, kind, query = request.endpoint.url, request.endpoint.kind, request.query
        for name, is_set, is_honoured in (
            ("seed", query.sampling.seed is not None, kind.honours_seed),
            ("top_k", bool(query.sampling.top_k), kind.speaks_vllm),
        ):
            if is_set and not is_honoured:
                message = f"an engine of kind {kind} cannot honour a {name}; leave sampling.{name} unset"
                raise EngineError(EngineReason.PARAMETER_UNSUPPORTED, message)
        path = "/v1/completions" if query.prompt is not None else "/v1/chat/completions"
        body = request_body(request)
        if url in self._without_priority:
            body.pop("priority", None)
        headers = {"Content-Type": "application/json", "X-Request-Id": request.request_id}
        response = await self._session.post(url + path, data=wire.encode_body(body), headers=headers)
        if response.status == 200:
            return response
        error = wire.decode_error(await response.read())
        if response.status == 400 and "priority" in body and "priority" in error.message.lower():
            # vLLM without --scheduling-policy priority refuses any; the order is kept outside the engine anyway.
            self._without_priority.add(url)
            return await self.send(request)
        raise refusal(response.status, error, url)


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
        "_client", "_request", "_response",
        "cached_prompt_tokens", "is_closed", "lowest_confidence", "parts", "prompt_tokens", "token_ids", "tokens",
    )  # fmt: skip

    def __init__(self, client: EngineClient, request: CallRequest) -> None:
        self._client = client
        self._request = request
        self._response: aiohttp.ClientResponse | None = None
        self.tokens = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.token_ids: list[int] = []
        self.parts: list[str] = []
        self.lowest_confidence: float | None = None
        self.is_closed = False

    def close(self) -> None:
        """Closes the connection at once; the engine aborts. Safe at any time."""
        self.is_closed = True
        if self._response is not None:
            self._response.close()

    async def completion(self, on_progress: Callable[[str], None]) -> Completion:
        """Runs the call to its end.

        Args:
            on_progress: told the new text of each event, after the counts have been brought up to date.

        Raises:
            EngineError: whatever went wrong; nothing else but cancellation leaves here.
        """
        try:
            self._response = await self._client.send(self._request)
            if self.is_closed:
                self._response.close()
            completion = await self._read(self._response, on_progress)
            self._client.release(self._response)
            self._response = None
            return completion
        except EngineError:
            raise
        except TimeoutError as error:
            message = f"the engine at {self._request.endpoint.url} sent nothing for {self._client.timeouts.stall:g} s"
            raise EngineError(EngineReason.ENGINE_HUNG, message) from error
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError) as error:
            message = f"the engine at {self._request.endpoint.url} broke the stream off after {self.tokens} tokens"
            raise EngineError(EngineReason.ENGINE_BROKE_OFF, message) from error
        except aiohttp.ClientResponseError as error:
            said = " ".join(error.message.split())[:120]
            message = f"the engine at {self._request.endpoint.url} sent what is no HTTP: {said}"
            raise EngineError(EngineReason.ENGINE_GARBAGE, message) from error
        except (aiohttp.ClientError, OSError) as error:
            message = f"the engine at {self._request.endpoint.url} cannot be reached: {error}"
            raise EngineError(EngineReason.ENGINE_UNAVAILABLE, message) from error
        finally:
            if self._response is not None:
                self._response.close()

    async def _read(self, response: aiohttp.ClientResponse, on_progress: Callable[[str], None]) -> Completion:
        reader = wire.EventReader()
        finish_reason = ""
        is_reasoning = False
        characters = 0
        while not reader.done and (data := await response.content.readany()):
            for chunk in reader.feed(data):
                if chunk.error is not None:
                    raise EngineError(EngineReason.ENGINE_FAILED, f"the engine reports: {chunk.error.message}")
                new = ""
                for choice in chunk.choices:
                    new, is_reasoning = _text(choice, is_reasoning)
                    self.token_ids += choice.token_ids or ()
                    finish_reason = choice.finish_reason or finish_reason
                if new:
                    self.parts.append(new)
                    characters += len(new)
                    if characters > MAX_TEXT_CHARACTERS:
                        message = f"the engine sent more than {MAX_TEXT_CHARACTERS} characters in one completion"
                        raise EngineError(EngineReason.ENGINE_GARBAGE, message)
                self._count(chunk)
                on_progress(new)
        if finish_reason in _NO_END:
            how = f"with finish reason {finish_reason!r}" if finish_reason else "without a finish reason"
            message = f"the engine at {self._request.endpoint.url} ended the stream {how}"
            raise EngineError(EngineReason.ENGINE_BROKE_OFF, message)
        if is_reasoning:
            self.parts.append("</think>")
        return Completion(text="".join(self.parts), finish_reason=finish_reason)

    def _count(self, chunk: wire.Chunk) -> None:
        usage = chunk.usage
        if usage is None:
            self.tokens += bool(chunk.choices)
            return
        self.tokens = usage.completion_tokens
        self.prompt_tokens = usage.prompt_tokens
        if usage.prompt_tokens_details is not None:
            self.cached_prompt_tokens = usage.prompt_tokens_details.cached_tokens or 0


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads what follows `[DONE]`, nothing as a rule, so that the connection can be used again."""
    try:
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while await response.content.readany():
                    pass
    finally:
        response.release()  # keeps the connection only where the response was read to its end


def request_body(request: CallRequest) -> dict[str, Any]:
    """The JSON body of one branch's request. One request per branch: aborting an n > 1 request is all or nothing."""
    query, sampling = request.query, request.query.sampling
    stream_options = {"include_usage": True}
    body: dict[str, Any] = {"model": query.model, "stream": True, "stream_options": stream_options}
    if query.prompt is not None:
        body["prompt"] = query.prompt
    else:
        body["messages"] = [{"role": message.role, "content": message.content} for message in query.messages]
    body["temperature"] = sampling.temperature
    body["max_tokens"] = sampling.max_tokens
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed + request.branch
    if request.endpoint.kind.speaks_vllm:
        stream_options["continuous_usage_stats"] = True
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if request.priority:
            body["priority"] = request.priority
        if request.return_token_ids:
            body["return_token_ids"] = True
    return body


def refusal(status: int, error: wire.ErrorBody, url: str) -> EngineError:
    """The error that an HTTP status and its body mean."""
    message = error.message
    lowered = message.lower()
    if status == 404 and error.param == "prompt":
        return EngineError(EngineReason.PROMPT_NOT_RECORDED, message)
    if status in (401, 403):
        message = f"the engine at {url} answers {status}: {message}; check its key (engine_api_key)"
        return EngineError(EngineReason.ENGINE_UNAUTHORIZED, message)
    if status == 404:
        return EngineError(EngineReason.MODEL_NOT_SERVED, f"the engine at {url} answers 404: {message}")
    if status in (400, 422) and ("context length" in lowered or "max_model_len" in lowered or "too long" in lowered):
        return EngineError(EngineReason.PROMPT_TOO_LONG, f"{message}; shorten the prompt or ask for fewer tokens")
    if status in (429, 503):
        return EngineError(EngineReason.ENGINE_OVERLOADED, f"the engine at {url} answers {status}: {message}")
    if 400 <= status < 500 and status != 408:
        return EngineError(EngineReason.ENGINE_REFUSED, f"the engine at {url} answers {status}: {message}")
    return EngineError(EngineReason.ENGINE_FAILED, f"the engine at {url} answers {status}: {message}")


def _text(choice: wire.Choice, is_reasoning: bool) -> tuple[str, bool]:
    """New text of a choice, reasoning put between `<think>` tags, and whether reasoning is open after it."""
    delta = choice.delta
    if delta is None:
        return choice.text or "", False
    thought = delta.reasoning or delta.reasoning_content or ""
    content = delta.content or ""
    if thought:
        opened = "" if is_reasoning else "<think>"
        return (f"{opened}{thought}</think>{content}", False) if content else (f"{opened}{thought}", True)
    if content and is_reasoning:
        return f"</think>{content}", False
    return content, is_reasoning
