"""What is read from log-probabilities."""

from __future__ import annotations

import json
from math import exp, isfinite, log

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.token_evidence import TokenEvidence, probability_of_yes
from dynasor_serve.engines.wire import SampledToken, sampled_tokens
from dynasor_serve.programs.calls import CallPlan

PROBE = CallPlan(suffix="\\boxed{", opened_box=True, asks_probability=True)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def heard(plan: CallPlan, *tokens: tuple[str, float]) -> TokenEvidence:
    evidence = TokenEvidence(plan)
    for text, probability in tokens:
        evidence.hear([SampledToken(text, log(probability), ())])
    return evidence


# --- the formats


def test_a_chat_and_a_completion_say_the_same() -> None:
    chat = {
        "content": [
            {"token": " 4", "logprob": -0.5, "bytes": [52], "top_logprobs": [{"token": " 4", "logprob": -0.5}]},
            {"token": "2", "logprob": -0.25, "top_logprobs": []},
        ]
    }
    completion = {
        "text_offset": [0, 2],
        "tokens": [" 4", "2"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{" 4": -0.5}, None],
    }
    expected = [SampledToken(" 4", -0.5, ((" 4", -0.5),)), SampledToken("2", -0.25, ())]

    assert sampled_tokens(raw(chat)) == sampled_tokens(raw(completion)) == expected


@pytest.mark.parametrize(
    "nothing", [msgspec.Raw(), raw(None), raw({}), raw({"content": None}), raw({"tokens": [], "token_logprobs": []})]
)
def test_an_event_may_say_nothing(nothing: msgspec.Raw) -> None:
    assert sampled_tokens(nothing) == []


@pytest.mark.parametrize(
    "garbage",
    [
        raw([1]),
        raw("x"),
        raw({"tokens": ["a", "b"], "token_logprobs": [-1]}),
        raw({"tokens": ["a"], "token_logprobs": [3.0]}),
        raw({"content": [{"token": "a", "logprob": "high"}]}),
        msgspec.Raw(b'{"tokens": ["a"], "token_logprobs": [-1e999]}'),
        msgspec.Raw(b'{"tokens": ["a"], "token_logprobs": [NaN]}'),
    ],
)
def test_garbage_is_named_as_such(garbage: msgspec.Raw) -> None:
    with pytest.raises(EngineError) as raised:
        sampled_tokens(garbage)
    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


# --- probability


def test_the_probability_is_the_mean_of_the_tokens() -> None:
    assert heard(CallPlan(asks_probability=True), ("a", 1.0), ("b", 0.5)).probability == pytest.approx(0.75)


def test_without_log_probabilities_there_is_none() -> None:
    evidence = TokenEvidence(PROBE)
    evidence.hear([SampledToken("7", None, ())])

    assert evidence.probability is None
    assert heard(CallPlan(), ("a", 0.5)).probability is None, "the plan did not ask"


@pytest.mark.parametrize(
    ("texts", "counted"),
    [
        (["4", "2", "}", "\\]", " so"], 3),
        (["4", "2}", " so"], 2),
        (["\\frac{", "1}{", "2}", "} ", "x"], 4),
        (["4", "2"], 2),
        (["}", "x"], 1),
    ],
)
def test_of_an_opened_box_the_tokens_up_to_its_end_count(texts: list[str], counted: int) -> None:
    tokens = [(text, 0.9 if number < counted else 0.1) for number, text in enumerate(texts)]

    assert heard(PROBE, *tokens).probability == pytest.approx(0.9)


@given(st.lists(st.floats(min_value=1e-9, max_value=1.0), min_size=1, max_size=50))
def test_a_probability_is_one(probabilities: list[float]) -> None:
    probability = heard(CallPlan(asks_probability=True), *(("x", each) for each in probabilities)).probability

    assert probability is not None
    assert 0 < probability <= 1


# --- confidence


def test_the_lowest_confidence_is_that_of_the_least_certain_window() -> None:
    evidence = TokenEvidence(CallPlan(token_window=2))
    lowest = []
    for certainty in (5.0, 3.0, 1.0, 9.0):
        evidence.hear([SampledToken("x", -0.1, (("x", -certainty + 1), ("y", -certainty - 1)))])
        lowest.append(evidence.lowest_confidence)

    assert lowest == [None, pytest.approx(4.0), pytest.approx(2.0), pytest.approx(2.0)]
    assert evidence.confidence == pytest.approx(2.0)


def test_a_reply_shorter_than_its_window_has_the_confidence_of_all_its_tokens() -> None:
    evidence = TokenEvidence(CallPlan(token_window=10))
    evidence.hear([SampledToken("x", -1.0, (("x", -1.0),)), SampledToken("y", -3.0, (("y", -3.0),))])

    assert evidence.lowest_confidence is None
    assert evidence.confidence == pytest.approx(2.0)


def test_an_unlikely_token_beside_the_likeliest_does_not_count() -> None:
    evidence = TokenEvidence(CallPlan(token_window=1))
    likeliest = tuple((f"t{number}", -2.0) for number in range(20))
    evidence.hear([SampledToken("rare", -50.0, (("rare", -50.0), *likeliest))])

    assert evidence.lowest_confidence == pytest.approx(2.0)


def test_a_place_where_every_token_is_ruled_out_is_garbage() -> None:
    evidence = TokenEvidence(CallPlan(token_window=2))

    with pytest.raises(EngineError, match="of tokens ruled out") as raised:
        evidence.hear([SampledToken("x", -9999.0, (("x", -9999.0), ("y", -9999.0)))])
    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


# --- yes or no


def test_yes_is_weighed_against_no_in_every_spelling() -> None:
    likeliest = (
        (" Yes", log(0.3)),
        ("yes", log(0.1)),
        ("\u0120YES", log(0.1)),
        ("\u2581no", log(0.25)),
        ("Maybe", log(0.2)),
    )

    assert probability_of_yes(likeliest) == pytest.approx(0.5 / 0.75)


def test_one_of_them_is_enough() -> None:
    assert probability_of_yes([("No", -0.1), ("Perhaps", -3.0)]) == 0.0
    assert probability_of_yes([(" yes", -7.0)]) == 1.0


def test_words_that_only_begin_alike_say_nothing() -> None:
    assert probability_of_yes([("Yesterday", -0.1), ("Not", -1.0), ("None", -2.0), ("Yes", -9999.0)]) is None


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_a_reward_is_a_probability(yes: float, no: float) -> None:
    reward = probability_of_yes([("Yes", yes), ("No", no)])

    assert reward == pytest.approx(exp(yes) / (exp(yes) + exp(no)))


_WORDS = st.sampled_from(["Yes", " yes", "NO", "\u0120no", "The", ""])


@given(
    st.lists(
        st.tuples(_WORDS, st.floats() | st.sampled_from([0.0, 1e-3, -9999.0, -1e308])),
        max_size=25,
        unique_by=lambda each: each[0],
    )
)
def test_whatever_an_engine_says_the_evidence_is_within_its_bounds_or_named_garbage(
    likeliest: list[tuple[str, float]],
) -> None:
    said = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [dict(likeliest)]}
    evidence = TokenEvidence(CallPlan(token_window=1, asks_probability=True))
    logprobs = [logprob for _, logprob in likeliest]
    if not all(isfinite(each) and each <= 1e-3 for each in logprobs) or (logprobs and max(logprobs) <= -9999):
        with pytest.raises(EngineError) as raised:
            evidence.hear(sampled_tokens(raw(said)))
        assert raised.value.reason is EngineReason.ENGINE_GARBAGE
        return
    evidence.hear(sampled_tokens(raw(said)))

    reward = probability_of_yes(evidence.first or ())
    assert reward is None or 0 <= reward <= 1
    assert evidence.confidence is None or evidence.confidence >= 0
    assert evidence.probability == pytest.approx(exp(-1))
