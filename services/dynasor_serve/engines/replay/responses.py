"""The bytes that vLLM would send: chunks, bodies and errors, with the fields of vLLM 0.32.

One writer per endpoint (`ChatWriter`, `CompletionWriter`) with the same methods; `writer_for` picks. What is sent
per event is put together from parts prepared per request, since a busy replay sends thousands a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import msgspec

from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.errors import RequestRefused
from dynasor_serve.engines.replay.logprob_fields import chat_logprobs, completion_logprobs
from dynasor_serve.engines.replay.requests import Face

_json = msgspec.json.encode

DONE: Final = b"data: [DONE]\n\n"

#: Where vLLM names its build; there is none here, and clients use it only to tell builds apart.
FINGERPRINT: Final = "dynasor-replay"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole request; `created_cache_tokens` are those of new whole blocks in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    created_cache_tokens: int


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk and body of one response repeats."""

    request_id: str  # without the endpoint's prefix
    model: str
    created: int  # unix seconds
    continuous_usage: bool
    return_token_ids: bool
    logprobs: int | None = None  # entries per token, as requested


class ResponseWriter(Protocol):
    """Writes one endpoint's response; `index` is the choice's."""

    def opening(self, index: int, prompt_tokens: int) -> bytes:
        """Return what comes before a choice's first event."""

    def event(
        self, index: int, emission: Emission, first: int, last: int, prompt_tokens: int, *, is_last: bool
    ) -> bytes:
        """Return the event for the tokens after `first` up to `last`."""

    def usage_event(self, usage: Usage) -> bytes:
        """Return the event that closes a stream with `include_usage`."""

    def body(self, emissions: list[Emission], usage: Usage) -> bytes:
        """Return the whole response of a request that does not stream."""


def writer_for(face: Face, head: Head) -> ResponseWriter:
    """Return the writer of an endpoint."""
    return ChatWriter(head) if face is Face.CHAT else CompletionWriter(head)


class _Writer:
    """What both endpoints share."""

    id_prefix: ClassVar[str]
    chunk_object: ClassVar[str]
    running_details: ClassVar[bytes] = b""  # what this endpoint adds to the usage of each event
    face: ClassVar[Face]

    def __init__(self, head: Head) -> None:
        self._head = head
        self._id = f"{self.id_prefix}-{head.request_id}"
        self._chunk_head = b'data: {"id":%b,"object":%b,"created":%d,"model":%b,"choices":[' % (
            _json(self._id),
            _json(self.chunk_object),
            head.created,
            _json(head.model),
        )

    def usage_event(self, usage: Usage) -> bytes:
        chunk = {
            "id": self._id,
            "object": self.chunk_object,
            "created": self._head.created,
            "model": self._head.model,
            "choices": [],
            "usage": _usage_fields(usage, self._streamed_details(usage)),
            "system_fingerprint": FINGERPRINT,
        }
        return b"data: %b\n\n" % _json(chunk)

    def _streamed_details(self, usage: Usage) -> dict[str, int]:
        return {"cached_tokens": usage.cached_tokens}

    def _running_usage(self, prompt_tokens: int, completion_tokens: int) -> bytes:
        if not self._head.continuous_usage:
            return b""
        return b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
            prompt_tokens,
            prompt_tokens + completion_tokens,
            completion_tokens,
            self.running_details,
        )

    def _logprobs(self, emission: Emission, first: int, last: int) -> bytes:
        """Return the log-probabilities of the tokens after `first` up to `last`, as they were asked for."""
        if self._head.logprobs is None:
            return b"null"
        write = chat_logprobs if self.face is Face.CHAT else completion_logprobs
        return write(emission, first, last, self._head.logprobs)

    def _token_ids(self, first: int, last: int) -> list[int] | None:
        """Return stand-ins for token ids, numbered through; the recordings hold none."""
        return list(range(first, last)) if self._head.return_token_ids else None


def _usage_fields(usage: Usage, prompt_details: Mapping[str, int | None]) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens": usage.completion_tokens,
        "prompt_tokens_details": prompt_details,
    }


def _body_usage(usage: Usage, *, created_cache_tokens: int | None) -> dict[str, object]:
    details = {
        "cached_tokens": usage.cached_tokens,
        "created_cache_tokens": created_cache_tokens,
        "multimodal_tokens": None,
    }
    return {**_usage_fields(usage, details), "completion_tokens_details": None}


def _ending(emission: Emission, *, is_last: bool) -> bytes:
    return _json(emission.finish_reason) if is_last else b"null"


class ChatWriter(_Writer):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    chunk_object = "chat.completion.chunk"
    running_details = b',"completion_tokens_details":null'
    face = Face.CHAT

    def opening(self, index: int, prompt_tokens: int) -> bytes:
        return (
            b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%b,%b}\n\n'
            % (
                self._chunk_head,
                index,
                self._running_usage(prompt_tokens, 0),
                b'"prompt_token_ids":%b,"prompt_text":null' % _json(self._token_ids(0, prompt_tokens)),
            )
        )

    def event(
        self, index: int, emission: Emission, first: int, last: int, prompt_tokens: int, *, is_last: bool
    ) -> bytes:
        return b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":%b%b,"token_ids":%b}]%b}\n\n' % (
            self._chunk_head,
            index,
            _json(emission.piece(first, last)),
            self._logprobs(emission, first, last),
            _ending(emission, is_last=is_last),
            b',"stop_reason":%b' % _json(emission.stop_reason) if is_last else b"",
            _json(self._token_ids(first, last)),
            self._running_usage(prompt_tokens, last),
        )

    def body(self, emissions: list[Emission], usage: Usage) -> bytes:
        empty = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": emission.text, **empty},
                "logprobs": msgspec.Raw(self._logprobs(emission, 0, emission.tokens)),
                "finish_reason": emission.finish_reason,
                "stop_reason": emission.stop_reason,
                "token_ids": self._token_ids(0, emission.tokens),
                "routed_experts": None,
            }
            for index, emission in enumerate(emissions)
        ]
        return _json(
            {
                "id": self._id,
                "object": "chat.completion",
                "created": self._head.created,
                "model": self._head.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": _body_usage(usage, created_cache_tokens=usage.created_cache_tokens),
                "prompt_logprobs": None,
                "prompt_token_ids": self._token_ids(0, usage.prompt_tokens),
                "prompt_text": None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    def _streamed_details(self, usage: Usage) -> dict[str, int]:
        return {**super()._streamed_details(usage), "created_cache_tokens": usage.created_cache_tokens}


class CompletionWriter(_Writer):
    """`/v1/completions`."""

    id_prefix = "cmpl"
    chunk_object = "text_completion"
    face = Face.COMPLETION

    def opening(self, index: int, prompt_tokens: int) -> bytes:
        return b""

    def event(
        self, index: int, emission: Emission, first: int, last: int, prompt_tokens: int, *, is_last: bool
    ) -> bytes:
        prompt_token_ids = self._token_ids(0, prompt_tokens) if first == 0 else None
        return (
            b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,'
            b'"prompt_token_ids":%b,"token_ids":%b}]%b}\n\n'
        ) % (
            self._chunk_head,
            index,
            _json(emission.piece(first, last)),
            self._logprobs(emission, first, last),
            _ending(emission, is_last=is_last),
            _json(emission.stop_reason) if is_last else b"null",
            _json(prompt_token_ids),
            _json(self._token_ids(first, last)),
            self._running_usage(prompt_tokens, last),
        )

    def body(self, emissions: list[Emission], usage: Usage) -> bytes:
        choices = [
            {
                "index": index,
                "text": emission.text,
                "logprobs": msgspec.Raw(self._logprobs(emission, 0, emission.tokens)),
                "finish_reason": emission.finish_reason,
                "stop_reason": emission.stop_reason,
                "token_ids": self._token_ids(0, emission.tokens),
                "prompt_logprobs": None,
                "prompt_token_ids": self._token_ids(0, usage.prompt_tokens),
                "routed_experts": None,
            }
            for index, emission in enumerate(emissions)
        ]
        return _json(
            {
                "id": self._id,
                "object": "text_completion",
                "created": self._head.created,
                "model": self._head.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": _body_usage(usage, created_cache_tokens=None),
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )


def error_body(refusal: RequestRefused) -> bytes:
    """Return vLLM's error body."""
    error = {"message": refusal.message, "type": refusal.type, "param": refusal.param, "code": refusal.status}
    return _json({"error": error})


_PERMISSION: Final[Mapping[str, object]] = {
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}


def models_body(models: Iterable[str], *, created: int, max_model_len: int) -> bytes:
    """Return the body of `/v1/models`."""
    cards: list[dict[str, object]] = [
        {
            "id": model,
            "object": "model",
            "created": created,
            "owned_by": "dynasor-replay",
            "root": model,
            "parent": None,
            "max_model_len": max_model_len,
            "permission": [
                {"id": f"modelperm-{model}", "object": "model_permission", "created": created, **_PERMISSION}
            ],
        }
        for model in models
    ]
    return _json({"object": "list", "data": cards})
