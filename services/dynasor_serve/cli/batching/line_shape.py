"""The shape of a batch's line, and what is said of one that has another. Pure.

A field of OpenAI's that has no meaning here is refused with what to use instead.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

CHAT_URL, COMPLETIONS_URL = "/v1/chat/completions", "/v1/completions"

_Shape = TypeVar("_Shape", bound=msgspec.Struct)
_PATH = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<name>.*)`")
_INDEX = re.compile(r"\[\d+\]")
_MOST_NAME_CHARACTERS = 60

_SAMPLES = 'leave it out; how many samples are drawn is for dynasor.algorithm: "self-consistency:max_samples=16"'
_TOOLS = "leave it out; programs vote on answers in text, and call no tools"
_LOGPROBS = "leave it out; tokens are not returned"
_PENALTY = "leave it out; samples are drawn by temperature, top_p and top_k alone"
_NAMES = "leave it out; dynasor.labels are returned with the query, and --tenant says who is billed"
_RIGHT = {
    "method": 'give "POST"',
    "url": f'give "{CHAT_URL}" or "{COMPLETIONS_URL}"',
    "body": "give an object, what a request to that URL would hold",
    "body.messages": "give a list of objects with role and content",
    "body.prompt": "give one text; a line asks one question",
}
_REMEDIES = {
    "body.prompt": f'with {CHAT_URL} give "messages"; a plain prompt is for {COMPLETIONS_URL}',
    "body.messages": f'with {COMPLETIONS_URL} give "prompt"; messages are for {CHAT_URL}',
    "body.n": _SAMPLES,
    "body.best_of": _SAMPLES,
    "body.stream": "leave it out; a batch has no listener, `dynasor run` shows a query's progress",
    "body.stream_options": "leave it out; usage is in every result",
    "body.tools": _TOOLS,
    "body.tool_choice": _TOOLS,
    "body.parallel_tool_calls": _TOOLS,
    "body.functions": _TOOLS,
    "body.function_call": _TOOLS,
    "body.response_format": "leave it out; dynasor.answer_type says how answers are read",
    "body.logprobs": _LOGPROBS,
    "body.top_logprobs": _LOGPROBS,
    "body.echo": "leave it out; the prompt is in the input file",
    "body.suffix": "leave it out; put all of the question into the prompt",
    "body.frequency_penalty": _PENALTY,
    "body.presence_penalty": _PENALTY,
    "body.logit_bias": _PENALTY,
    "body.reasoning_effort": "leave it out; dynasor.chain_rule says how long chains think",
    "body.user": _NAMES,
    "body.metadata": _NAMES,
    "body.dynasor.policy": "give dynasor.rule and dynasor.chain_rule",
    "body.dynasor.budget": "give dynasor.budget_tokens, completion tokens over all calls",
    "body.dynasor.deadline": "give dynasor.deadline_seconds",
    "body.dynasor.max_samples": 'put it into dynasor.algorithm: "self-consistency:max_samples=16"',
    "body.dynasor.width": 'put it into dynasor.algorithm: "self-consistency:width=4"',
    "body.dynasor.query_class": "leave it out; a batch is of the class batch",
    "body.dynasor.idempotency_key": "leave it out; custom_id and content make the key",
    "body.dynasor.tenant": "leave it out; --tenant says who is billed",
}


class LineProblem(StrEnum):
    """Why a line is no query. docs/batch.md lists all of them."""

    MALFORMED_LINE = "MALFORMED_LINE"
    LINE_TOO_LONG = "LINE_TOO_LONG"
    MISSING_CUSTOM_ID = "MISSING_CUSTOM_ID"
    DUPLICATE_CUSTOM_ID = "DUPLICATE_CUSTOM_ID"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    INVALID_FIELD = "INVALID_FIELD"


class BadLine(ValueError):
    """A line that cannot be asked; the message says what is wrong and what would be right."""

    def __init__(self, problem: LineProblem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


_Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Seconds = Annotated[float, Meta(gt=-1e9, lt=1e9)]  # what a Duration holds; the server allows less


class Named(msgspec.Struct):
    """The part of a line that names it."""

    custom_id: str


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Refuses what it does not know."""


class Line(_Strict):
    """One line."""

    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: msgspec.Raw


class TextPart(_Strict):
    """A part of a turn."""

    type: Literal["text"]
    text: str


class Turn(_Strict):
    """One turn of a conversation."""

    role: str
    content: str | list[TextPart]


class ProbeFields(_Strict):
    """As `Probe` of the proto."""

    prompt: str = ""
    interval: _Int32 | None = None
    marks: bool | None = None
    max_tokens: _Int32 | None = None


class RewardFields(_Strict):
    """As `Reward` of the proto."""

    source: str = ""
    model: str = ""
    verifier: str = ""
    task: str = ""


class ProgramFields(_Strict):
    """What OpenAI's format has no place for; the words are those of the proto and the command line."""

    algorithm: str | None = None
    rule: str | None = None
    chain_rule: str | None = None
    answer_type: str | None = None
    compared_by: str | None = None
    budget_tokens: _Int64 | None = None
    deadline_seconds: _Seconds | None = None
    probe: ProbeFields | None = None
    reward: RewardFields | None = None
    labels: dict[str, str] = {}
    gold: str | int | float | None = None


class Body(_Strict):
    """What both kinds of request hold."""

    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Int32 | None = None
    max_tokens: _Int32 | None = None
    max_completion_tokens: _Int32 | None = None
    thinking_token_budget: _Int32 | None = None
    stop: str | list[str] | None = None
    seed: _Int64 | None = None
    dynasor: ProgramFields = msgspec.field(default_factory=ProgramFields)


class ChatBody(Body, kw_only=True):
    """A request for a chat completion."""

    messages: Annotated[list[Turn], Meta(min_length=1)]


class CompletionBody(Body, kw_only=True):
    """A request for a completion."""

    prompt: str


def decode(content: bytes | msgspec.Raw, shape: type[_Shape], path: str) -> _Shape:
    """JSON of this shape.

    Args:
        content: the JSON.
        shape: what it must hold, and nothing else.
        path: where it stands in the line; empty for the whole.

    Raises:
        BadLine: it has another shape, or is no JSON.
    """
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.ValidationError as error:
        what, inner = problem_of(error)
        raise _misshapen(what, ".".join(filter(None, (path, inner))), shape) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise not_json(error) from error


def problem_of(error: msgspec.ValidationError) -> tuple[str, str]:
    """What is wrong, and the path of the field: `messages[0].role`, empty for the whole."""
    match = _PATH.fullmatch(str(error))
    assert match is not None
    return match["what"], (match["path"] or "").removeprefix("$").removeprefix(".")


def _misshapen(what: str, path: str, shape: type[msgspec.Struct]) -> BadLine:
    unknown, missing = _UNKNOWN_FIELD.fullmatch(what), _MISSING_FIELD.fullmatch(what)
    if unknown is None:
        full = ".".join(filter(None, (path, missing["name"] if missing else "")))
        wrong = "is missing" if missing else lowered(what)
        right = f"; {_RIGHT[full]}" if full in _RIGHT else '; give "text"' if full.endswith(".type") else ""
        return BadLine(LineProblem.INVALID_FIELD, f"{full}: {wrong}{right}")
    name = unknown["name"]
    full = f"{path}.{name}" if path else name
    remedy = _REMEDIES.get(full) or _known(path, name, shape)
    return BadLine(LineProblem.UNKNOWN_FIELD, f"{full:.{_MOST_NAME_CHARACTERS}}: there is no such field; {remedy}")


def _known(path: str, name: str, shape: type[msgspec.Struct]) -> str:
    inner: dict[str, type[msgspec.Struct]] = {
        "body.dynasor": ProgramFields,
        "body.dynasor.probe": ProbeFields,
        "body.dynasor.reward": RewardFields,
        "body.messages[]": Turn,
        "body.messages[].content[]": TextPart,
    }
    names = [field.name for field in msgspec.structs.fields(inner.get(_INDEX.sub("[]", path), shape))]
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known are: {', '.join(names)}"


def not_json(error: Exception) -> BadLine:
    """What cannot be read as JSON at all."""
    cause = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).removeprefix("JSON is ")
    return BadLine(LineProblem.MALFORMED_LINE, f"the line is not valid JSON ({cause}); write one object per line")


def lowered(sentence: str) -> str:
    """A sentence that goes on another."""
    return sentence[:1].lower() + sentence[1:]
