"""What reward models are asked, and what their values mean. The shapes are vLLM 0.32's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.requests import CallRequest, Endpoint
from dynasor_serve.engines.reward_models import judgement, read_reward
from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.query import Branch, Message, Query, RewardParameters

URL = "http://engine"
CLASSIFY, SCORE, POOLING = EngineKind.VLLM_CLASSIFY, EngineKind.VLLM_SCORE, EngineKind.VLLM_POOLING
CHAT = Query(
    model="model",
    rule="even",
    messages=(Message("system", "Be brief."), Message("user", "2 + 2?")),
    reward=RewardParameters(model="judge"),
)
PROMPT = replace(CHAT, messages=(), prompt="2 + 2 =")
PATH = CallPlan(continuation="It is 4.", judge=Judge.MODEL, max_tokens=1)


def asked(kind: EngineKind, query: Query = CHAT, plan: CallPlan = PATH) -> tuple[str, dict[str, Any]]:
    asked = judgement(CallRequest(Endpoint(URL, kind), query, plan, Branch(0), "query/0/1.1", priority=3))
    return asked.path, asked.body


def reward(kind: EngineKind, **value: Any) -> float:
    body = {"data": [{"index": 0, **value}], "usage": {"prompt_tokens": 13, "total_tokens": 13}}
    got, prompt_tokens = read_reward(json.dumps(body).encode(), kind, URL)
    assert prompt_tokens == 13
    return got


def refused(body: bytes | dict[str, Any], kind: EngineKind = CLASSIFY) -> EngineError:
    with pytest.raises(EngineError) as raised:
        read_reward(body if isinstance(body, bytes) else json.dumps(body).encode(), kind, URL)
    assert URL in str(raised.value)
    return raised.value


# --- what is asked


@pytest.mark.parametrize(("kind", "path"), [(CLASSIFY, "/classify"), (POOLING, "/pooling")])
def test_a_chat_is_judged_with_its_path_as_the_last_turn(kind: EngineKind, path: str) -> None:
    assert asked(kind) == (
        path,
        {
            "model": "judge",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "content": "It is 4."},
            ],
            "use_activation": kind is CLASSIFY,
            "priority": 3,
        },
    )


@pytest.mark.parametrize("kind", [CLASSIFY, POOLING])
def test_a_prompt_is_judged_as_text(kind: EngineKind) -> None:
    _, body = asked(kind, PROMPT, replace(PATH, continuation=" 4."))

    assert body["input"] == "2 + 2 = 4."
    assert "messages" not in body


def test_a_thought_that_the_prompt_opened_is_judged_once() -> None:
    path = replace(PATH, continuation="<think>\nTwo pairs.</think>4")
    _, body = asked(CLASSIFY, replace(PROMPT, prompt="2 + 2 = <think>\n"), path)

    assert body["input"] == "2 + 2 = <think>\nTwo pairs.</think>4"


@pytest.mark.parametrize(("query", "question"), [(CHAT, "Be brief.\n\n2 + 2?"), (PROMPT, "2 + 2 =")])
def test_a_score_is_of_a_question_and_a_path(query: Query, question: str) -> None:
    path, body = asked(SCORE, query)

    assert path == "/score"
    assert (body["text_1"], body["text_2"], body["use_activation"]) == (question, "It is 4.", True)


def test_a_pool_with_one_model_need_not_name_it() -> None:
    _, body = asked(CLASSIFY, replace(CHAT, reward=RewardParameters()))

    assert "model" not in body


# --- what a value means


def test_probabilities_stay_as_they_are() -> None:
    assert reward(CLASSIFY, label="LABEL_0", probs=[0.775], num_classes=1) == 0.775
    assert reward(CLASSIFY, label="LABEL_0", probs=[0.9, 0.1], num_classes=2) == 0.1
    assert reward(SCORE, object="score", score=0.25) == 0.25
    assert reward(CLASSIFY, probs=[1.0002]) == 1.0, "rounded in bfloat16"


def test_raw_values_become_probabilities_whatever_their_size() -> None:
    assert reward(POOLING, object="pooling", data=[1.2382078]) == pytest.approx(0.7752519)
    assert reward(POOLING, object="pooling", data=[0.3]) == pytest.approx(1 / (1 + math.exp(-0.3)))
    assert reward(POOLING, object="pooling", data=[-1.0, 2.0]) == pytest.approx(1 / (1 + math.exp(-3)))


def test_of_steps_the_last_counts() -> None:
    assert reward(POOLING, data=[[9.0], [-9.0], [0.0]]) == 0.5
    assert reward(POOLING, data=[[5.0, -5.0], [-4.0, 4.0]]) == pytest.approx(1 / (1 + math.exp(-8)))


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_a_raw_value_keeps_its_order(one: float, other: float) -> None:
    low, high = sorted((one, other))

    assert 0 <= reward(POOLING, data=[low]) <= reward(POOLING, data=[high]) <= 1


# --- what is none


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (CLASSIFY, {"probs": [1.7]}, "/classify gives 1.7, which is no probability; register a worker whose values"),
        (SCORE, {"score": -0.2}, "/score gives -0.2"),
        (CLASSIFY, {"probs": [math.nan]}, "gives nan, which is no probability"),
        (SCORE, {"score": math.inf}, "gives inf"),
        (POOLING, {"data": [math.nan]}, "gives nan"),
        (POOLING, {"data": [-math.inf, math.inf]}, "gives inf"),
        (CLASSIFY, {"probs": [None]}, "a number is needed"),
        (SCORE, {"score": None}, "a number is needed"),
        (CLASSIFY, {"probs": []}, "a number is needed"),
        (CLASSIFY, {"score": 0.5}, "a number is needed"),
        (CLASSIFY, {"probs": [0.1, 0.2, 0.7]}, "gives 3 values; a reward model has one label, or two"),
        (POOLING, {"data": []}, "finds no step in the path"),
        (POOLING, {"data": [[1.0], [None]]}, "a number is needed"),
        (POOLING, {"data": [0.0] * 768}, "gives 768 values"),
    ],
)
def test_what_is_no_reward_is_named_with_value_and_endpoint(
    kind: EngineKind, value: dict[str, Any], words: str
) -> None:
    error = refused({"data": [value]}, kind)

    assert error.reason is EngineReason.REWARD_INVALID
    assert not error.is_retryable
    assert words in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[1]",
        b'{"data": 7}',
        b'{"data": []}',
        b'{"data": [{"probs": [0.5]}, {"probs": [0.5]}]}',
        b'{"data": [{"probs": "high"}]}',
        b"[" * 100_000,
        b'{"data": [{"probs": [0.5]}], "usage": {"prompt_tokens": -4}}',
        b"\xff\xfe",
    ],
)
def test_garbage_is_named_as_such(body: bytes) -> None:
    error = refused(body)

    assert error.reason is EngineReason.ENGINE_GARBAGE
    assert error.is_retryable
    assert len(str(error)) < 400
