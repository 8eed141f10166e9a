"""What is a path worth? Asked of a reward model in a vLLM, by the endpoint that its kind names.

| kind | endpoint | asked with | a value is |
|---|---|---|---|
| `vllm-classify` | /classify | the chat, or the text of a prompt | a probability, of one label or of two (bad, good) |
| `vllm-score` | /score | the question and the path | a probability |
| `vllm-pooling` | /pooling | the chat, or the text of a prompt | raw, of one label or of two; put into [0, 1] here |

/classify and /score are asked for activated values and /pooling for raw ones (`use_activation`), so that what a value
means follows from the kind and never from its size. A process reward model gives a value to each step: the last one's
is the path's, as in Rebase (arXiv 2408.00724), since a path is judged each time it grows; the lowest would punish a
branch for a step that it shares with its siblings. Where steps are told by a tag, the server's chat template puts it
there.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.requests import Asked, CallRequest, behind, messages_body
from dynasor_serve.engines.wire import Usage

_PATHS: Final = {
    EngineKind.VLLM_CLASSIFY: "/classify",
    EngineKind.VLLM_SCORE: "/score",
    EngineKind.VLLM_POOLING: "/pooling",
}
_ROUNDING = 1e-3  # of a probability in the model's number format


class _Value(msgspec.Struct):
    probs: list[float | None] | None = None  # /classify: of each label
    score: float | None = None  # /score
    data: list[float | list[float | None] | None] | None = None  # /pooling: of each label, or of each step's labels


class _Reply(msgspec.Struct):
    data: list[_Value]
    usage: Usage = msgspec.field(default_factory=Usage)


def judgement(request: CallRequest) -> Asked:
    """Asks for the reward of a path."""
    kind, path = request.endpoint.kind, request.plan.turn(request.prompt or "")
    body: dict[str, Any] = {"use_activation": kind is not EngineKind.VLLM_POOLING}
    if request.query.reward is not None and request.query.reward.model:
        body["model"] = request.query.reward.model  # without one the server takes the only one it has
    if request.priority:
        body["priority"] = request.priority
    if kind is EngineKind.VLLM_SCORE:
        question = "\n\n".join(message.content for message in request.messages)
        body |= {"text_1": question if request.prompt is None else request.prompt, "text_2": path}
    elif request.prompt is None:
        body["messages"] = [*messages_body(request), {"role": "assistant", "content": path}]
    else:
        body["input"] = behind(request.prompt, path)
    return Asked(_PATHS[kind], body)


def read_reward(body: bytes, kind: EngineKind, url: str) -> tuple[float, int]:
    """The reward in [0, 1], and the tokens that were read for it.

    Raises:
        EngineError: the answer is none, or holds no such value.
    """
    try:
        # Not every server keeps to JSON: the standard library reads NaN and Infinity, which are to be named.
        reply = msgspec.convert(json.loads(body), _Reply)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        message = f"the engine at {url} answers {_PATHS[kind]} with what is no such answer: {body[:120]!r}"
        raise EngineError(EngineReason.ENGINE_GARBAGE, message) from error
    if len(reply.data) != 1:
        message = f"the engine at {url} answers {_PATHS[kind]} with {len(reply.data)} values for one path"
        raise EngineError(EngineReason.ENGINE_GARBAGE, message)
    labels = _labels(reply.data[0], kind, url)
    reward = _raw_reward(labels) if kind is EngineKind.VLLM_POOLING else labels[-1]
    if not -_ROUNDING <= reward <= 1 + _ROUNDING:  # NaN fails too
        remedy = "; register a worker whose values are raw as vllm-pooling" if math.isfinite(reward) else ""
        raise _invalid(url, f"{_PATHS[kind]} gives {reward:g}, which is no probability{remedy}")
    return min(1.0, max(0.0, reward)), reply.usage.prompt_tokens


def _labels(value: _Value, kind: EngineKind, url: str) -> list[float]:
    """The values of the labels: of the whole, or of its last step."""
    path = _PATHS[kind]
    row: list[float | None] | None
    match kind, value.data:
        case EngineKind.VLLM_CLASSIFY, _:
            row = value.probs
        case EngineKind.VLLM_SCORE, _:
            row = [value.score]
        case _, []:
            raise _invalid(url, f"{path} finds no step in the path; let the server's chat template mark them")
        case _, [*_, list(last_step)]:
            row = last_step
        case _, whole:
            row = [each for each in whole or () if not isinstance(each, list)]
    labels = [each for each in row or () if each is not None]
    if not labels or len(labels) < len(row or ()):
        raise _invalid(url, f"{path} gives {row}, and a number is needed")
    if len(labels) > 2:
        raise _invalid(url, f"{path} gives {len(labels)} values; a reward model has one label, or two: bad and good")
    return labels


def _raw_reward(labels: list[float]) -> float:
    """A probability from raw values: the sigmoid of one, the softmax of two (bad, good)."""
    raw = labels[-1] - labels[0] if len(labels) == 2 else labels[0]
    return 0.5 * (1 + math.tanh(raw / 2)) if math.isfinite(raw) else raw


def _invalid(url: str, what: str) -> EngineError:
    return EngineError(EngineReason.REWARD_INVALID, f"the engine at {url} gives no reward: {what}")
