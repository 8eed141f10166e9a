"""Log-probabilities: the recorded figures come back, and what is made up is the same at every play."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.token_confidence import mean_probability
from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.logprob_fields import chat_logprobs, completion_logprobs
from dynasor_serve.engines.replay.token_odds import LOWEST, AsRecorded, Even, Judgement, MadeUp, TokenOdds
from dynasor_serve.engines.token_evidence import probability_of_yes

shares = st.floats(min_value=0, max_value=1)


@given(confidence=shares, tokens=st.integers(min_value=1, max_value=40), data=st.data())
def test_a_recorded_mean_is_the_mean_over_any_part(confidence: float, tokens: int, data: st.DataObject) -> None:
    odds = Even(confidence).after(data.draw(st.integers(0, 5)))

    logprobs = [odds.logprob(token) for token in range(tokens)]

    assert mean_probability(logprobs) == pytest.approx(confidence, abs=1e-9)
    assert all(LOWEST <= logprob <= 0 for logprob in logprobs)


@given(reward=shares, count=st.integers(min_value=2, max_value=20))
def test_a_judgement_tells_its_reward_as_a_share_of_yes_and_no(reward: float, count: int) -> None:
    odds = Judgement(reward)

    likeliest = [(odds.text, odds.logprob(0)), *odds.alternatives(0, count - 1)]

    assert len(likeliest) == count
    assert probability_of_yes(likeliest) == pytest.approx(reward, abs=1e-9)
    assert max(likeliest, key=lambda each: each[1]) == likeliest[0]


@pytest.mark.parametrize("odds", [MadeUp.of("a chain"), Even(0.1654), Even(1.0), AsRecorded((-0.1, -2.0, -9.0))])
def test_alternatives_are_distinct_no_likelier_than_the_token_and_leave_it_its_share(odds: TokenOdds) -> None:
    for token in range(3):
        own = odds.logprob(token)
        others = odds.alternatives(token, 19)
        assert len({text for text, _ in others}) == 19
        assert all(logprob <= max(own, math.log(1e-9)) for _, logprob in others)
        assert math.exp(own) + sum(math.exp(logprob) for _, logprob in others) <= 1 + 1e-6


@given(name=st.text(max_size=10), done=st.integers(0, 50), token=st.integers(0, 50))
def test_what_is_made_up_follows_from_the_name_and_goes_on_behind_a_part(name: str, done: int, token: int) -> None:
    whole = MadeUp.of(name)

    assert MadeUp.of(name) == whole
    assert whole.after(done).logprob(token) == whole.logprob(done + token)
    assert math.log(0.5) <= whole.logprob(token) <= 0


def test_recorded_logprobs_go_on_behind_a_part() -> None:
    assert AsRecorded((-1.0, -2.0, -3.0)).after(1).logprob(1) == -3.0


def read(written: bytes) -> Any:
    return json.loads(written)


EMISSION = Emission("seven}.", tokens=3, finish_reason="stop", odds=AsRecorded((-0.5, -0.25, -0.125)))


def test_completions_have_the_log_probabilities_of_vllm() -> None:
    first = read(completion_logprobs(EMISSION, 0, 2, 3))
    last = read(completion_logprobs(EMISSION, 2, 3, 0))

    assert first.keys() == {"text_offset", "token_logprobs", "tokens", "top_logprobs"}
    assert first["tokens"] + last["tokens"] == ["se", "ve", "n}."]
    assert first["text_offset"] + last["text_offset"] == [0, 2, 4]
    assert first["token_logprobs"] == [-0.5, -0.25]
    assert [len(top) for top in first["top_logprobs"]] == [3, 3]
    assert first["top_logprobs"][0]["se"] == -0.5
    assert last["top_logprobs"] == [{"n}.": -0.125}], "logprobs=0 tells the token itself"


def test_chats_have_the_log_probabilities_of_vllm() -> None:
    content = read(chat_logprobs(EMISSION, 0, 2, 2))["content"]

    assert [entry["token"] for entry in content] == ["se", "ve"]
    assert content[0].keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert content[0]["bytes"] == list(b"se")
    assert [entry["top_logprobs"][0]["token"] for entry in content] == ["se", "ve"]
    assert [len(entry["top_logprobs"]) for entry in content] == [2, 2]
    assert read(chat_logprobs(EMISSION, 0, 1, 0))["content"][0]["top_logprobs"] == []


def test_not_a_number_is_written_as_engines_write_it_that_do_not_check() -> None:
    judged = Emission(" No", 1, "length", odds=Judgement(math.nan))

    assert b'"token_logprobs": [NaN]' in completion_logprobs(judged, 0, 1, 20)
