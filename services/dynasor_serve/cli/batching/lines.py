"""One line of a batch, in the format of OpenAI's batches, as a query. Pure.

    {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "dynasor": {...}}}

Nothing that a line says is dropped: what cannot be honoured is refused by its name. What a query may hold is the
server's to decide; here only its shape is checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType

CHAT_URL, COMPLETIONS_URL = "/v1/chat/completions", "/v1/completions"

_Shape = TypeVar("_Shape")
_PATH = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING_FIELD = re.compile(r"Object missing required field `(?P<name>.*)`")
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


@dataclass(frozen=True, slots=True)
class Question:
    """What a line asks."""

    query: pb.Query
    is_chat: bool
    answer_type: str
    gold: str | None  # the right answer, where the line gives one


def custom_id_of(content: bytes) -> str:
    """The line's name. Raises `BadLine` where it has none; a line that has one may still be wrong."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        message = f"byte {error.start} is not UTF-8 ({error.reason}); write the file in UTF-8"
        raise BadLine(LineProblem.MALFORMED_LINE, message) from error
    try:
        custom_id = msgspec.json.decode(content, type=_Named).custom_id
    except msgspec.ValidationError as error:
        what, path = _problem(error)
        if path == "custom_id" or "`custom_id`" in what:
            message = f'custom_id: {_lowered(what)}; give a text of its own to every line, such as "q1"'
            raise BadLine(LineProblem.MISSING_CUSTOM_ID, message) from error
        message = f"the line is no JSON object ({_lowered(what)}); write one object per line"
        raise BadLine(LineProblem.MALFORMED_LINE, message) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _not_json(error) from error
    if not custom_id:
        raise BadLine(LineProblem.MISSING_CUSTOM_ID, "custom_id is empty; give a text of its own to every line")
    return custom_id


def question_of(content: bytes, default: pb.Query) -> Question:
    """The query of a line.

    Args:
        content: the line.
        default: a query without input. What the line does not say is taken from it; a line's `probe` and `reward`
            replace those of the default as a whole.

    Raises:
        BadLine: the line is no query.
    """
    line = _decoded(content, _Line, "")
    query = pb.Query()
    query.CopyFrom(default)
    body: _Body
    if line.url == CHAT_URL:
        body = chat = _decoded(line.body, _ChatBody, "body")
        if any(turn.role == "system" for turn in chat.messages):
            query.system_prompt = ""
        query.chat.messages.extend(pb.ChatMessage(role=turn.role, content=_text(turn)) for turn in chat.messages)
    else:
        body = completion = _decoded(line.body, _CompletionBody, "body")
        query.system_prompt = ""
        query.prompt = completion.prompt
    _set_sampling(query.sampling, body)
    _set_program(query, body)
    gold = body.dynasor.gold
    answer_type = query.answer_type or AnswerType.TEXT
    return Question(query, line.url == CHAT_URL, answer_type, None if gold is None else str(gold))


# --- the shape of a line ---

_Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Seconds = Annotated[float, Meta(gt=-1e9, lt=1e9)]  # what a Duration holds; the server allows less


class _Named(msgspec.Struct):
    custom_id: str


class _Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Refuses what it does not know."""


class _Line(_Strict):
    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions", "/v1/completions"]
    body: msgspec.Raw


class _TextPart(_Strict):
    type: Literal["text"]
    text: str


class _Turn(_Strict):
    role: str
    content: str | list[_TextPart]


class _Probe(_Strict):
    prompt: str = ""
    interval: _Int32 | None = None
    marks: bool | None = None
    max_tokens: _Int32 | None = None


class _Reward(_Strict):
    source: str = ""
    model: str = ""
    verifier: str = ""
    task: str = ""


class _Dynasor(_Strict):
    algorithm: str | None = None
    rule: str | None = None
    chain_rule: str | None = None
    answer_type: str | None = None
    budget_tokens: _Int64 | None = None
    deadline_seconds: _Seconds | None = None
    probe: _Probe | None = None
    reward: _Reward | None = None
    labels: dict[str, str] = {}
    gold: str | int | float | None = None


class _Body(_Strict):
    model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: _Int32 | None = None
    max_tokens: _Int32 | None = None
    max_completion_tokens: _Int32 | None = None
    thinking_token_budget: _Int32 | None = None
    stop: str | list[str] | None = None
    seed: _Int64 | None = None
    dynasor: _Dynasor = msgspec.field(default_factory=_Dynasor)


class _ChatBody(_Body, kw_only=True):
    messages: Annotated[list[_Turn], Meta(min_length=1)]


class _CompletionBody(_Body, kw_only=True):
    prompt: str


# --- steps ---


def _decoded(content: bytes | msgspec.Raw, shape: type[_Shape], path: str) -> _Shape:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.ValidationError as error:
        what, inner = _problem(error)
        raise _misshapen(what, ".".join(filter(None, (path, inner)))) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(error) from error


def _set_sampling(sampling: pb.SamplingParameters, body: _Body) -> None:
    older, newer = body.max_tokens, body.max_completion_tokens
    if older is not None and newer is not None and older != newer:
        message = f"body.max_completion_tokens is {newer} and body.max_tokens is {older}; give one of them"
        raise BadLine(LineProblem.INVALID_FIELD, message)
    said = pb.SamplingParameters(
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        max_tokens=older if newer is None else newer,
        seed=body.seed,
        thinking_token_budget=body.thinking_token_budget,
    )
    sampling.MergeFrom(said)
    if body.stop is not None:
        sampling.stop[:] = [body.stop] if isinstance(body.stop, str) else body.stop


def _set_program(query: pb.Query, body: _Body) -> None:
    program = body.dynasor
    if body.model is not None:
        query.model = body.model
    if program.algorithm is not None:
        query.algorithm.type_string = program.algorithm
    if program.rule is not None:
        query.policy.rule = program.rule
    if program.chain_rule is not None:
        query.policy.chain_rule = program.chain_rule
    if program.answer_type is not None:
        query.answer_type = program.answer_type
    if program.budget_tokens is not None:
        query.budget.max_tokens = program.budget_tokens
    if program.deadline_seconds is not None:
        query.deadline.FromNanoseconds(round(program.deadline_seconds * 1e9))
    if program.probe is not None:
        query.probe.CopyFrom(pb.Probe(**msgspec.structs.asdict(program.probe)))
    if program.reward is not None:
        query.reward.CopyFrom(pb.Reward(**msgspec.structs.asdict(program.reward)))
    query.labels.update(program.labels)


def _text(turn: _Turn) -> str:
    return turn.content if isinstance(turn.content, str) else "".join(part.text for part in turn.content)


def _problem(error: msgspec.ValidationError) -> tuple[str, str]:
    """What is wrong, and the path of the field: `messages[0].role`, empty for the whole."""
    match = _PATH.fullmatch(str(error))
    assert match is not None
    return match["what"], (match["path"] or "").removeprefix("$").removeprefix(".")


def _misshapen(what: str, path: str) -> BadLine:
    unknown, missing = _UNKNOWN_FIELD.fullmatch(what), _MISSING_FIELD.fullmatch(what)
    if unknown is None:
        full = ".".join(filter(None, (path, missing["name"] if missing else "")))
        wrong = "is missing" if missing else _lowered(what)
        right = f"; {_RIGHT[full]}" if full in _RIGHT else '; give "text"' if full.endswith(".type") else ""
        return BadLine(LineProblem.INVALID_FIELD, f"{full}: {wrong}{right}")
    name = unknown["name"]
    full = f"{path}.{name}" if path else name
    message = f"{full:.{_MOST_NAME_CHARACTERS}}: there is no such field; {_REMEDIES.get(full) or _known(path, name)}"
    return BadLine(LineProblem.UNKNOWN_FIELD, message)


def _known(path: str, name: str) -> str:
    shapes: dict[str, type[msgspec.Struct]] = {
        "": _Line,
        "body.dynasor": _Dynasor,
        "body.dynasor.probe": _Probe,
        "body.dynasor.reward": _Reward,
    }
    shape = _Turn if path.startswith("body.messages") else shapes.get(path, _ChatBody)
    names = [field.name for field in msgspec.structs.fields(shape)]
    close = get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known are: {', '.join(names)}"


def _not_json(error: Exception) -> BadLine:
    cause = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).removeprefix("JSON is ")
    return BadLine(LineProblem.MALFORMED_LINE, f"the line is not valid JSON ({cause}); write one object per line")


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
