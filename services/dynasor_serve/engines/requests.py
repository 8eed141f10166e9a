"""What an engine is asked: a call of a program as path and body.

The assistant's unfinished turn, which a continued call goes on with, reaches an engine in one of two ways. Where the
text before it is known, a `prompt` or a chat that the worker itself rendered (`rendering`), the turn is put behind it
and /v1/completions goes on: the prefix stays what it was, to the character. Elsewhere it is the last message of a chat
(`continue_final_message`), which the templates of reasoning models may rewrite.

A `<think>` at the very end of the text before it is the model's, whoever has put it there: the assistant's turn begins
with it, as it does where the model writes it, so that whoever reads the turn knows a thought from an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.token_evidence import likeliest_tokens
from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.query import Branch, Message, Query

_OPENED_THOUGHT = re.compile(r"<think>\s*\Z")


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

    @property
    def messages(self) -> tuple[Message, ...]:
        """The chat before the assistant's turn; only the plan's turns where the query has a prompt."""
        return self.query.messages + self.plan.turns

    @property
    def prompt(self) -> str | None:
        """The text before the assistant's turn; None where the query is a chat.

        The model has gone on from the prompt directly, so what it said follows without a mark, and whatever else is
        said stands in a paragraph of its own.
        """
        if self.query.prompt is None:
            return None
        text = self.query.prompt
        for turn in self.plan.turns:
            text = behind(text, turn.content) if turn.role == "assistant" else f"{text}\n\n{turn.content}\n\n"
        return text

    @property
    def needs_rendering(self) -> bool:
        """Whether the chat's text must be known."""
        return self.query.prompt is None and self.plan.continues and self.endpoint.kind.speaks_vllm

    @property
    def max_tokens(self) -> int:
        """Most completion tokens."""
        return self.query.sampling.max_tokens if self.plan.max_tokens is None else self.plan.max_tokens


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to one path of an engine.

    Attributes:
        continues_chat: the last message is the assistant's, to be gone on with.
        opened_thought: what stands before the reply and belongs to it; empty unless the reply begins the turn.
    """

    path: str
    body: dict[str, Any]
    continues_chat: bool = False
    opened_thought: str = ""


def check(request: CallRequest) -> None:
    """Raises `EngineError` where an engine of this kind cannot serve the call."""
    kind, sampling = request.endpoint.kind, request.query.sampling
    judges = request.plan.judge is Judge.MODEL
    if judges != kind.is_reward:
        kinds = ", ".join(each for each in EngineKind if each.is_reward)
        wrong = "gives no rewards; register the reward model's workers as" if judges else "gives rewards only, being"
        message = f"the engine at {request.endpoint.url} is of kind {kind} and {wrong} one of {kinds}"
        raise EngineError(EngineReason.CALL_UNSUPPORTED, message)
    if judges:
        return
    for name, is_set, is_honoured in (
        ("seed", sampling.seed is not None, kind.honours_seed),
        ("top_k", bool(sampling.top_k), kind.speaks_vllm),
        ("thinking_token_budget", sampling.thinking_token_budget is not None, kind.speaks_vllm),
    ):
        if is_set and not is_honoured:
            message = f"an engine of kind {kind} cannot honour a {name}; leave sampling.{name} unset"
            raise EngineError(EngineReason.PARAMETER_UNSUPPORTED, message)


def generation(request: CallRequest, rendered: str | None = None) -> Asked:
    """Asks for one branch's text. One request per branch: aborting an n > 1 request is all or nothing.

    Args:
        rendered: the chat's text up to the assistant's turn, from the worker; None where it is not known.
    """
    body: dict[str, Any] = {"model": request.query.model}
    before = request.prompt if rendered is None else rendered
    turn = request.plan.turn(before or "")
    continues_chat = before is None and bool(turn)
    if before is not None:
        path = "/v1/completions"
        body["prompt"] = behind(before, turn)
        if rendered is not None:
            body["add_special_tokens"] = False  # the template has put them there
    else:
        path = "/v1/chat/completions"
        body["messages"] = [*messages_body(request), *([{"role": "assistant", "content": turn}] if turn else ())]
        if turn:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
    return Asked(
        path,
        body | _sampling(request) | _reporting(request, is_chat=before is None),
        continues_chat,
        opened_thought="" if turn else _opened_thought(before or ""),
    )


def behind(before: str, turn: str) -> str:
    """A text and the assistant's turn behind it; a `<think>` that ends the one and begins the other is written once."""
    return before + turn.removeprefix(_opened_thought(before))


def messages_body(request: CallRequest) -> list[dict[str, str]]:
    """The chat before the assistant's turn."""
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _opened_thought(before: str) -> str:
    """The `<think>` at the very end of a text, with the white space behind it; empty where there is none."""
    found = _OPENED_THOUGHT.search(before)
    return found.group() if found else ""


def _sampling(request: CallRequest) -> dict[str, Any]:
    plan, sampling, speaks_vllm = request.plan, request.query.sampling, request.endpoint.kind.speaks_vllm
    stop = sampling.stop if plan.stop is None else plan.stop
    body: dict[str, Any] = {
        "temperature": sampling.temperature if plan.temperature is None else plan.temperature,
        "max_tokens": request.max_tokens,
    }
    if sampling.top_p is not None:
        body["top_p"] = sampling.top_p
    if stop:
        body["stop"] = list(stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed + request.branch
    if not speaks_vllm:
        return body
    if stop and plan.keeps_stop:
        body["include_stop_str_in_output"] = True
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.thinking_token_budget is not None and not plan.suffix:
        # What has words put into its mouth is to speak, not to think.
        body["thinking_token_budget"] = sampling.thinking_token_budget
    if request.priority:
        body["priority"] = request.priority
    return body


def _reporting(request: CallRequest, *, is_chat: bool) -> dict[str, Any]:
    stream_options = {"include_usage": True}
    body: dict[str, Any] = {"stream": True, "stream_options": stream_options}
    if request.endpoint.kind.speaks_vllm:
        stream_options["continuous_usage_stats"] = True
        if request.return_token_ids:
            body["return_token_ids"] = True
    if likeliest := likeliest_tokens(request.plan):
        body |= {"logprobs": True, "top_logprobs": likeliest} if is_chat else {"logprobs": likeliest}
    return body
