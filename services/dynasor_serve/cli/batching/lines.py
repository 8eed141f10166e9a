"""One line of a batch, in the format of OpenAI's batches, as a query. Pure.

    {"custom_id": "q1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...], "dynasor": {...}}}

Nothing that a line says is dropped: what cannot be honoured is refused by its name. What a query may hold is the
server's to decide; here only its shape is checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.cli.batching.line_shape import (
    CHAT_URL,
    BadLine,
    Body,
    ChatBody,
    CompletionBody,
    Line,
    LineProblem,
    Named,
    Turn,
    decode,
    lowered,
    not_json,
    problem_of,
)


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
        custom_id = msgspec.json.decode(content, type=Named).custom_id
    except msgspec.ValidationError as error:
        what, path = problem_of(error)
        if path == "custom_id" or "`custom_id`" in what:
            message = f'custom_id: {lowered(what)}; give a text of its own to every line, such as "q1"'
            raise BadLine(LineProblem.MISSING_CUSTOM_ID, message) from error
        message = f"the line is no JSON object ({lowered(what)}); write one object per line"
        raise BadLine(LineProblem.MALFORMED_LINE, message) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_json(error) from error
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
    line = decode(content, Line, "")
    query = pb.Query()
    query.CopyFrom(default)
    body: Body
    if line.url == CHAT_URL:
        body = chat = decode(line.body, ChatBody, "body")
        if any(turn.role == "system" for turn in chat.messages):
            query.system_prompt = ""
        query.chat.messages.extend(pb.ChatMessage(role=turn.role, content=_text(turn)) for turn in chat.messages)
    else:
        body = completion = decode(line.body, CompletionBody, "body")
        query.system_prompt = ""
        query.prompt = completion.prompt
    _set_sampling(query.sampling, body)
    _set_program(query, body)
    gold = body.dynasor.gold
    answer_type = query.answer_type or AnswerType.TEXT
    return Question(query, line.url == CHAT_URL, answer_type, None if gold is None else str(gold))


def _set_sampling(sampling: pb.SamplingParameters, body: Body) -> None:
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


def _set_program(query: pb.Query, body: Body) -> None:
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
    if program.compared_by is not None:
        query.compared_by = program.compared_by
    if program.budget_tokens is not None:
        query.budget.max_tokens = program.budget_tokens
    if program.deadline_seconds is not None:
        query.deadline.FromNanoseconds(round(program.deadline_seconds * 1e9))
    if program.probe is not None:
        query.probe.CopyFrom(pb.Probe(**msgspec.structs.asdict(program.probe)))
    if program.reward is not None:
        query.reward.CopyFrom(pb.Reward(**msgspec.structs.asdict(program.reward)))
    query.labels.update(program.labels)


def _text(turn: Turn) -> str:
    return turn.content if isinstance(turn.content, str) else "".join(part.text for part in turn.content)
