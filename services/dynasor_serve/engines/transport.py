"""How bytes reach an engine: one HTTP client for all of them, and what goes wrong on the way as an `EngineError`.

Used by `client` for what is streamed, and by `rendering` and the rewards for what is answered in one piece.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from dynasor_serve.engines import wire
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.http import (
    ConnectTimeout,
    Disconnected,
    HttpClient,
    HttpError,
    HttpResponse,
    NoHttp,
    Stalled,
)
from dynasor_serve.engines.probe import authorization

MAX_REPLY_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineTimeouts:
    """How long an engine may be silent, in seconds."""

    connect: float = 5.0
    stall: float = (
        120.0  # without a byte, the first included: queueing in the engine and a long prefill are silence too
    )
    reply: float = 60.0  # until the end of what is not streamed: a reward, a rendered prompt


class Transport:
    """Sends requests to any number of endpoints."""

    def __init__(self, timeouts: EngineTimeouts, api_key: str = "") -> None:
        self.timeouts = timeouts
        self._http = HttpClient(
            connect_seconds=timeouts.connect,
            stall_seconds=timeouts.stall,
            headers={"Content-Type": "application/json", **authorization(api_key)},
        )
        self._without_priority: set[str] = set()  # urls that refuse priorities

    async def close(self) -> None:
        await self._http.close()

    async def send(self, url: str, path: str, body: dict[str, Any], request_id: str = "") -> HttpResponse:
        """The open response to a request. Raises `EngineError`, `HttpError` and `OSError`."""
        if url in self._without_priority:
            body.pop("priority", None)
        headers = {"X-Request-Id": request_id} if request_id else {}
        response = await self._http.post(url + path, wire.encode_body(body), headers)
        if response.status == 200:
            return response
        error = wire.decode_error(await _whole(response, url))
        if response.status == 400 and "priority" in body and "priority" in error.message.lower():
            # vLLM without --scheduling-policy priority refuses any; the order is kept outside the engine anyway.
            self._without_priority.add(url)
            return await self.send(url, path, body, request_id)
        raise refusal(response.status, error, url)

    async def fetch(self, url: str, path: str, body: dict[str, Any], request_id: str = "") -> bytes:
        """The whole answer to a request. Raises `EngineError`; when cancelled, the connection is closed."""
        try:
            async with asyncio.timeout(self.timeouts.reply):
                response = await self.send(url, path, body, request_id)
                return await _whole(response, url)
        except HttpError as error:
            raise fault(error, url, self.timeouts) from error
        except TimeoutError as error:
            message = f"the engine at {url} did not answer {path} within {self.timeouts.reply:g} s"
            raise EngineError(EngineReason.ENGINE_HUNG, message) from error
        except OSError as error:
            raise fault(error, url, self.timeouts) from error


def fault(error: Exception, url: str, timeouts: EngineTimeouts, tokens: int = 0) -> EngineError:
    """What a failure on the way means.

    Args:
        error: an `HttpError` or an `OSError`.
        tokens: that had been received.
    """
    match error:
        case ConnectTimeout():
            message = f"the engine at {url} cannot be reached within {timeouts.connect:g} s"
            return EngineError(EngineReason.ENGINE_UNAVAILABLE, message)
        case Stalled():
            message = f"the engine at {url} sent nothing for {timeouts.stall:g} s"
            return EngineError(EngineReason.ENGINE_HUNG, message)
        case Disconnected():
            message = f"the engine at {url} broke the stream off after {tokens} tokens"
            return EngineError(EngineReason.ENGINE_BROKE_OFF, message)
        case NoHttp():
            message = f"the engine at {url} sent what is no HTTP: {' '.join(str(error).split())[:120]}"
            return EngineError(EngineReason.ENGINE_GARBAGE, message)
        case _:
            return EngineError(EngineReason.ENGINE_UNAVAILABLE, f"the engine at {url} cannot be reached: {error}")


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
    if status == 400 and "thinking_token_budget" in lowered:
        message = f"the engine at {url} bounds no thinking: {message}"
        remedy = "start it with --reasoning-parser, or leave sampling.thinking_token_budget unset"
        return EngineError(EngineReason.PARAMETER_UNSUPPORTED, f"{message.rstrip('.')}; {remedy}")
    if status == 501:
        return EngineError(EngineReason.CALL_UNSUPPORTED, f"the engine at {url} answers 501: {message}")
    if status in (429, 503):
        return EngineError(EngineReason.ENGINE_OVERLOADED, f"the engine at {url} answers {status}: {message}")
    if 400 <= status < 500 and status != 408:
        return EngineError(EngineReason.ENGINE_REFUSED, f"the engine at {url} answers {status}: {message}")
    return EngineError(EngineReason.ENGINE_FAILED, f"the engine at {url} answers {status}: {message}")


async def _whole(response: HttpResponse, url: str) -> bytes:
    """Reads a response to its end; hangs up where that does not come."""
    parts: list[bytes] = []
    size = 0
    try:
        while data := await response.read_some():
            parts.append(data)
            size += len(data)
            if size > MAX_REPLY_BYTES:
                message = f"the engine at {url} sent more than {MAX_REPLY_BYTES} bytes in one answer"
                raise EngineError(EngineReason.ENGINE_GARBAGE, message)
    except BaseException:
        response.close()
        raise
    response.release()
    return b"".join(parts)
