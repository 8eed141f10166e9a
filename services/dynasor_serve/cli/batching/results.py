"""One line of output, in the format of OpenAI's batches: what became of one line of input. Pure.

`id` names the batch, the line and the attempt, and is the idempotency key of the line's query: a broken run finds its
queries again by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType, canonical
from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.line_shape import BadLine
from dynasor_serve.cli.batching.lines import Question
from dynasor_serve.cli.standing import PHASES

OK, UNPROCESSABLE, UNAVAILABLE = 200, 422, 503
"""HTTP statuses of answered queries, of those that failed for good, and of those that may succeed later."""

NO_ANSWER, CANCELLED = "NO_ANSWER", "CANCELLED"

_ID = re.compile(r"(?P<batch>batch-[0-9a-f]{16})-(?P<key>[0-9a-f]{32})-(?P<attempt>\d{1,6})")
_Known = TypeVar("_Known")
# Inside strings only; written out, they end a line for some readers.
_LINE_ENDS = {"\x85".encode(): b"\\u0085", "\u2028".encode(): b"\\u2028", "\u2029".encode(): b"\\u2029"}


@dataclass(frozen=True, slots=True)
class ResultId:
    """Which attempt at which line of which batch."""

    batch: str
    key: LineKey
    attempt: int  # from 0

    def __str__(self) -> str:
        return f"{self.batch}-{self.key.hex()}-{self.attempt}"


def parse_id(text: str) -> ResultId | None:
    """The parts of a result's id; None where it is none of ours."""
    match = _ID.fullmatch(text)
    return ResultId(match["batch"], LineKey(bytes.fromhex(match["key"])), int(match["attempt"])) if match else None


# --- the shape of a line ---


class Error(msgspec.Struct, frozen=True):
    """Why a line has no answer."""

    code: str  # a `LineProblem`, or a reason of docs/errors.md
    message: str
    retryable: bool = False  # whether the same line may succeed later


class Vote(msgspec.Struct, frozen=True):
    """One cluster of equal answers."""

    answer: str | None
    count: int


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """How the query ended and what it cost; tokens are completion tokens."""

    query_id: str
    phase: str
    answer: str | None
    certaindex: float
    rule: str
    stop_reason: str
    stop_detail: str
    samples: int
    votes: list[Vote]
    tokens_spent: int
    tokens_saved_estimate: int | None  # None where nobody can tell
    tokens_lost: int
    tokens_probes: int
    latency_seconds: float
    gold: str | UnsetType = UNSET
    correct: bool | UnsetType = UNSET  # set where the line has a gold answer and the query was worked to its end


class PromptTokens(msgspec.Struct, frozen=True):
    """Where prompt tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens over all calls of the program."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Message(msgspec.Struct, frozen=True):
    """The assistant's turn."""

    role: str
    content: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer: a message of a chat, or text."""

    index: int = 0
    message: Message | UnsetType = UNSET
    text: str | UnsetType = UNSET
    logprobs: None = None
    finish_reason: str = "stop"


class Body(msgspec.Struct, frozen=True, kw_only=True, rename={"program": "dynasor"}):
    """A `chat.completion` or `text_completion` object; of a query that failed only what it cost, and why."""

    id: str | UnsetType = UNSET
    object: str | UnsetType = UNSET
    created: int | UnsetType = UNSET  # Unix seconds
    model: str | UnsetType = UNSET
    choices: list[Choice] | UnsetType = UNSET
    error: Error | UnsetType = UNSET
    usage: Usage
    program: Program


class Response(msgspec.Struct, frozen=True):
    """What became of a query that was accepted."""

    status_code: int
    request_id: str  # the query's id
    body: Body


class Result(msgspec.Struct, frozen=True):
    """One line of output."""

    id: str
    custom_id: str
    response: Response | None
    error: Error | None


_decoder = msgspec.json.Decoder(Result)


def encoded(result: Result) -> bytes:
    """The line, with the line feed at its end and no other."""
    line = msgspec.json.encode(result)
    for character, escape in _LINE_ENDS.items():
        line = line.replace(character, escape)
    return line + b"\n"


def decoded(line: bytes) -> Result | None:
    """What `encoded` wrote; None where it did not write this."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


# --- what becomes of a line ---


def bad_line_result(result_id: ResultId, custom_id: str, number: int, problem: BadLine) -> Result:
    """Of a line that could not be asked."""
    error = Error(problem.problem.value, f"line {number}: {problem}")
    return Result(str(result_id), custom_id, None, error)


def result_of(result_id: ResultId, custom_id: str, question: Question, answer: pb.RunBatchResponse) -> Result:
    """Of a line that the server answered."""
    if answer.WhichOneof("result") == "refused":
        refused = answer.refused
        return Result(str(result_id), custom_id, None, Error(refused.reason, refused.message, refused.retryable))
    state = answer.state
    error = _error(state)
    program, usage = _program(state, question), _usage(state.outcome.ledger)
    if error is not None:
        status = UNAVAILABLE if error.retryable else UNPROCESSABLE
        response = Response(status, state.query_id, Body(error=error, usage=usage, program=program))
        return Result(str(result_id), custom_id, response, error)
    text = state.outcome.text or state.outcome.answer
    body = Body(
        id=("chatcmpl-" if question.is_chat else "cmpl-") + state.query_id,
        object="chat.completion" if question.is_chat else "text_completion",
        created=state.accepted_at.seconds,
        model=state.query.model,
        choices=[Choice(message=Message("assistant", text)) if question.is_chat else Choice(text=text)],
        usage=usage,
        program=program,
    )
    return Result(str(result_id), custom_id, Response(OK, state.query_id, body), None)


def _error(state: pb.QueryState) -> Error | None:
    if state.phase == pb.QUERY_PHASE_SUCCEEDED:
        return None
    if state.outcome.HasField("error"):
        error = state.outcome.error
        return Error(error.reason, error.message, error.retryable)
    return Error(CANCELLED, f"somebody cancelled the query: {state.outcome.stop_detail}", retryable=True)


def _program(state: pb.QueryState, question: Question) -> Program:
    outcome = state.outcome
    ledger = outcome.ledger
    has_saving = ledger.HasField("tokens_saved_estimate")
    is_judged = state.phase == pb.QUERY_PHASE_SUCCEEDED or outcome.error.reason == NO_ANSWER
    return Program(
        query_id=state.query_id,
        phase=PHASES[state.phase],
        answer=outcome.answer or None,
        certaindex=outcome.certaindex,
        rule=outcome.rule,
        stop_reason=outcome.stop_reason,
        stop_detail=outcome.stop_detail,
        samples=outcome.samples,
        votes=[Vote(vote.answer or None, vote.count) for vote in outcome.votes],
        tokens_spent=ledger.tokens_spent,
        tokens_saved_estimate=ledger.tokens_saved_estimate if has_saving else None,
        tokens_lost=ledger.tokens_lost,
        tokens_probes=ledger.tokens_probes,
        latency_seconds=outcome.latency_seconds,
        gold=_known(question.gold),
        correct=_known(_is_correct(outcome.answer, question) if is_judged else None),
    )


def _is_correct(answer: str, question: Question) -> bool | None:
    """Whether the answer equals the gold one by its canonical form; None where the line has none."""
    if question.gold is None:
        return None
    kind = AnswerType(question.answer_type)
    return bool(answer) and canonical(answer, kind).key == canonical(question.gold, kind).key


def _usage(ledger: pb.Ledger) -> Usage:
    total = ledger.prompt_tokens + ledger.tokens_spent
    return Usage(ledger.prompt_tokens, ledger.tokens_spent, total, PromptTokens(ledger.cached_prompt_tokens))


def _known(value: _Known | None) -> _Known | UnsetType:
    return UNSET if value is None else value
