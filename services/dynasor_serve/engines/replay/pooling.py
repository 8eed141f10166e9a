"""What does a reward model answer? Bodies in and out of vLLM's pooling endpoints: `/classify`, `/score`, `/pooling`.

As of vLLM 0.32 (vllm/entrypoints/pooling). Which of them a server has follows from what its model is trained for: one
with a class head of one label (`score`) has all three, one with more labels (`classify`) does not score, and one that
scores each step of a text (`pooling`, a process reward model) has `/pooling` alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from dynasor_serve.engines.replay.chat_template import Prompt, Turn, parse, render
from dynasor_serve.engines.replay.errors import BadRequest, InvalidBody
from dynasor_serve.engines.replay.requests import Message, decode


class RewardFace(StrEnum):
    """An endpoint, and the kind of reward model that is named for it."""

    CLASSIFY = "classify"
    SCORE = "score"
    POOLING = "pooling"


#: Kind of reward model -> its endpoints.
FACES: Final[Mapping[RewardFace, Sequence[RewardFace]]] = {
    RewardFace.CLASSIFY: (RewardFace.CLASSIFY, RewardFace.POOLING),
    RewardFace.SCORE: (RewardFace.SCORE, RewardFace.CLASSIFY, RewardFace.POOLING),
    RewardFace.POOLING: (RewardFace.POOLING,),
}


_FAR_OUT: Final = 40.0  # its sigmoid is 1 in every number format


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """A request for rewards of some paths, each a question with the path as the assistant's turn."""

    model: str | None
    prompts: tuple[Prompt, ...]
    priority: int
    request_id: str | None
    is_raw: bool  # asked for values before the activation


class _Body(msgspec.Struct, kw_only=True):
    model: str | None = None
    priority: int = 0
    request_id: str | None = None
    use_activation: bool | None = None


class _InputBody(_Body, kw_only=True):
    input: str | list[str | int | list[int]] | None = None
    messages: list[Message] | None = None


class _PairsBody(_Body, kw_only=True):
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None

    @property
    def pair(self) -> tuple[str | list[str] | None, str | list[str] | None]:
        if self.queries is not None:
            return self.queries, self.documents if self.documents is not None else self.items
        return (self.text_1, self.text_2) if self.text_1 is not None else (self.data_1, self.data_2)


def parse_pooling(face: RewardFace, body: bytes) -> PoolingRequest:
    """Read a request body.

    Raises:
        InvalidBody: It is not JSON, or fields are missing or have the wrong type.
        BadRequest: It asks for what a replay cannot do.
    """
    if face is RewardFace.SCORE:
        pairs = decode(body, _PairsBody)
        return _request(pairs, _pairs(*pairs.pair))
    single = decode(body, _InputBody)
    return _request(single, _inputs(single))


def raw(reward: float) -> float:
    """Return a reward as it was before the activation, the sigmoid; that of 0 or 1 is far out, and finite."""
    if not 0 < reward < 1:
        return reward if math.isnan(reward) else math.copysign(_FAR_OUT, reward - 0.5)
    return math.log(reward / (1 - reward))


def pooling_body(
    face: RewardFace,
    rewards: Sequence[Sequence[float]],
    *,
    by_step: bool,
    request_id: str,
    model: str,
    created: int,
    prompt_tokens: int,
) -> bytes:
    """Return the response; NaN is written as engines write it that do not check, which is no JSON.

    Args:
        face: The endpoint.
        rewards: Those of the steps of each path, the last that of the path.
        by_step: The model scores every step: `/pooling` tells each in a row of its own.
        request_id: Without the endpoint's prefix.
        model: As served.
        created: Unix seconds.
        prompt_tokens: Of all paths.
    """
    usage = {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    return json.dumps(
        {
            "id": f"{face}-{request_id}",
            "object": "list",
            "created": created,
            "model": model,
            "data": [_item(face, index, steps, by_step=by_step) for index, steps in enumerate(rewards)],
            "usage": usage,
        }
    ).encode()


def _item(face: RewardFace, index: int, steps: Sequence[float], *, by_step: bool) -> dict[str, object]:
    match face:
        case RewardFace.CLASSIFY:
            return {"index": index, "label": "LABEL_0", "probs": [steps[-1]], "num_classes": 1}
        case RewardFace.SCORE:
            return {"index": index, "object": "score", "score": steps[-1]}
        case RewardFace.POOLING:
            data = [[reward] for reward in steps] if by_step else [steps[-1]]
            return {"index": index, "object": "pooling", "data": data}


def _request(body: _Body, prompts: tuple[Prompt, ...]) -> PoolingRequest:
    return PoolingRequest(body.model, prompts, body.priority, body.request_id, is_raw=body.use_activation is False)


def _inputs(body: _InputBody) -> tuple[Prompt, ...]:
    if body.messages:
        return (_chat(body.messages),)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts:
        raise InvalidBody("1 validation error:\n  give `input` or `messages`", param="body.input")
    prompts = tuple(parse(text) for text in texts if isinstance(text, str))
    if len(prompts) < len(texts):
        raise BadRequest(
            "the replay engine finds a trace by the prompt's text; give `input` as text, not as token ids",
            param="input",
        )
    return prompts


def _chat(messages: Sequence[Message]) -> Prompt:
    """Return a chat whose last turn, if it is the assistant's, is the path."""
    turns = [Turn(message.role, message.text) for message in messages]
    is_answered = turns[-1].role == "assistant"
    return render(turns, add_generation_prompt=not is_answered, continue_final_message=is_answered)


def _pairs(first: str | list[str] | None, second: str | list[str] | None) -> tuple[Prompt, ...]:
    if first is None or second is None:
        raise InvalidBody("1 validation error:\n  give `text_1` and `text_2`", param="body.text_1")
    questions, paths = ([each] if isinstance(each, str) else each for each in (first, second))
    if not questions:
        raise BadRequest("At least one text element must be given")
    if not paths:
        raise BadRequest("At least one text_pair element must be given")
    if len(questions) > 1 and len(questions) != len(paths):
        raise BadRequest("Input lengths must be either 1:1, 1:N or N:N")
    if len(questions) == 1:
        questions = questions * len(paths)
    return tuple(_pair(question, path) for question, path in zip(questions, paths, strict=True))


def _pair(question: str, path: str) -> Prompt:
    return parse(question)._replace(text=question + path, reply_at=len(question))
