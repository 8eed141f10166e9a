"""The bytes of the OpenAI-compatible protocol, as far as a reasoning program needs it: requests out, SSE events in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec

from dynasor_serve.engines.errors import EngineError, EngineReason


class Delta(msgspec.Struct):
    """New text of a chat completion. Reasoning has two names: vLLM renamed it."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class Choice(msgspec.Struct):
    """One choice of a chunk; chat carries `delta`, completions carry `text`."""

    delta: Delta | None = None
    text: str | None = None
    token_ids: list[int] | None = None  # vLLM's, on request
    finish_reason: str | None = None
    # vLLM's: the stop string, or the id of a stop token; null at the end of the sequence, absent where nothing is said
    stop_reason: int | str | msgspec.UnsetType | None = msgspec.UNSET
    matched_stop: int | str | msgspec.UnsetType | None = msgspec.UNSET  # SGLang's word for it
    logprobs: msgspec.Raw = msgspec.Raw()  # read by those who asked for them: `sampled_tokens`

    @property
    def stopped_by(self) -> int | str | msgspec.UnsetType | None:
        """What ended it: a stop string, a token's id, or neither; unset where the engine does not say."""
        said = [each for each in (self.stop_reason, self.matched_stop) if each is not msgspec.UNSET]
        return next((each for each in said if each is not None), None) if said else msgspec.UNSET


# What an engine claims is bounded here: a count that no wire can carry would stop more than its own call.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class PromptTokensDetails(msgspec.Struct):
    """Where prompt tokens came from."""

    cached_tokens: Count | None = None


class Usage(msgspec.Struct):
    """Running or final usage of a call, in tokens."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: PromptTokensDetails | None = None


class ErrorBody(msgspec.Struct):
    """An error in OpenAI's shape."""

    message: str = ""
    param: str | None = None
    code: int | str | None = None  # the HTTP status in vLLM, also within a stream; a word elsewhere


class Chunk(msgspec.Struct):
    """One SSE event."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: ErrorBody | None = None


class SampledToken(NamedTuple):
    """A token with what else was likely in its place."""

    text: str
    logprob: float | None  # None where it is unknown
    top: tuple[tuple[str, float], ...]  # (token, log-probability) of the likeliest, this one among them


# What a rounded logarithm may have above 0.
_LogProbability = Annotated[float, msgspec.Meta(le=1e-3)]


class _LikelyToken(msgspec.Struct):
    token: str
    logprob: _LogProbability


class _ChatToken(_LikelyToken):
    top_logprobs: list[_LikelyToken] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_ChatToken] | None = None  # of a chat
    tokens: list[str] = []  # of a completion, and the next two beside it
    token_logprobs: list[_LogProbability | None] = []
    top_logprobs: list[dict[str, _LogProbability] | None] | None = None


class _ErrorEnvelope(msgspec.Struct):
    error: ErrorBody | str | None = None
    message: str = ""  # older vLLM puts the error at the root
    detail: object = None  # FastAPI's own, of a path that is not there; a list where a body was no such request


_chunk_decoder = msgspec.json.Decoder(Chunk)
_error_decoder = msgspec.json.Decoder(_ErrorEnvelope)
_logprobs_decoder = msgspec.json.Decoder(_Logprobs | None)
_encoder = msgspec.json.Encoder()
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventReader:
    """Cuts a byte stream into SSE events and decodes them. Raises `EngineError` on what is no event."""

    def __init__(self) -> None:
        self._rest = b""
        self.done = False  # `[DONE]` was seen

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The events that the new bytes complete."""
        data = self._rest + data if self._rest else data
        *lines, self._rest = data.split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EngineError(EngineReason.ENGINE_GARBAGE, f"the engine sent an event over {MAX_EVENT_BYTES} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                if line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                    raise _garbage(line)
                continue
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.done = True
                return
            try:
                yield _chunk_decoder.decode(payload)
            except _UNDECODABLE as error:
                raise _garbage(payload) from error


def sampled_tokens(logprobs: msgspec.Raw) -> list[SampledToken]:
    """The tokens of one event, in order; none where it has no log-probabilities. Raises `EngineError` on garbage."""
    if not logprobs:
        return []
    try:
        said = _logprobs_decoder.decode(logprobs)
        if said is None:
            return []
        if said.content is not None:
            return [
                SampledToken(
                    each.token, each.logprob, tuple((top.token, top.logprob) for top in each.top_logprobs or ())
                )
                for each in said.content
            ]
        tops = [tuple(top.items()) if top else () for top in said.top_logprobs or [None] * len(said.tokens)]
        return [SampledToken(*each) for each in zip(said.tokens, said.token_logprobs, tops, strict=True)]
    except (*_UNDECODABLE, ValueError) as error:
        raise _garbage(bytes(logprobs)) from error


def encode_body(body: dict[str, Any]) -> bytes:
    """A request body as JSON."""
    return _encoder.encode(body)


def decode_error(body: bytes) -> ErrorBody:
    """The error in a body, or the start of the body as its message where it is none."""
    try:
        envelope = _error_decoder.decode(body)
    except _UNDECODABLE:
        return ErrorBody(body[:200].decode(errors="replace").strip() or "no message")
    if isinstance(envelope.error, ErrorBody):
        return envelope.error
    detail = envelope.detail if isinstance(envelope.detail, str) else ""
    return ErrorBody(envelope.error or envelope.message or detail or "no message")


def _garbage(data: bytes) -> EngineError:
    return EngineError(
        EngineReason.ENGINE_GARBAGE,
        f"the engine sent what is no completion event: {data[:120].decode(errors='replace')!r}",
    )
