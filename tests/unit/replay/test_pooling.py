"""Reward models: bodies in, vLLM's bodies out, and what faults make of rewards."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.replay.emission import Emission
from dynasor_serve.engines.replay.errors import BadRequest, InvalidBody, RequestRefused
from dynasor_serve.engines.replay.faults import Fault, spoiled
from dynasor_serve.engines.replay.pooling import FACES, RewardFace, parse_pooling, pooling_body, raw
from dynasor_serve.engines.reward_models import read_reward

KINDS = {
    RewardFace.CLASSIFY: EngineKind.VLLM_CLASSIFY,
    RewardFace.SCORE: EngineKind.VLLM_SCORE,
    RewardFace.POOLING: EngineKind.VLLM_POOLING,
}


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def written(face: RewardFace, *rewards: tuple[float, ...], by_step: bool = False) -> bytes:
    return pooling_body(
        face, rewards, by_step=by_step, request_id="q/3/1.1", model="judge", created=1, prompt_tokens=42
    )


# --- requests


def test_a_text_is_a_prompt_with_the_path_behind_it() -> None:
    request = parse_pooling(RewardFace.CLASSIFY, body(model="judge", input="What is 3 + 4? It is 7.", priority=-2))

    (prompt,) = request.prompts
    assert (prompt.text, prompt.reply_at) == ("What is 3 + 4? It is 7.", None)
    assert (request.model, request.priority, request.is_raw) == ("judge", -2, False)
    assert len(parse_pooling(RewardFace.POOLING, body(input=["a", "b"])).prompts) == 2
    assert parse_pooling(RewardFace.POOLING, body(input="a", use_activation=False)).is_raw


def test_of_a_chat_the_assistants_last_turn_is_the_path() -> None:
    chat = [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "It is 7."}]

    (judged,) = parse_pooling(RewardFace.CLASSIFY, body(messages=chat)).prompts
    (unanswered,) = parse_pooling(RewardFace.CLASSIFY, body(messages=chat[:1])).prompts

    assert judged.text[judged.reply_at :] == "It is 7."
    assert judged.questions == ("What is 3 + 4?",)
    assert unanswered.text[unanswered.reply_at :] == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"text_1": "3 + 4?", "text_2": "It is 7."},
        {"text_1": ["3 + 4?"], "text_2": ["It is 7."]},
        {"queries": "3 + 4?", "documents": ["It is 7."]},
        {"queries": "3 + 4?", "items": "It is 7."},
        {"data_1": "3 + 4?", "data_2": "It is 7."},
    ],
)
def test_a_pair_is_a_question_and_a_path(fields: dict[str, Any]) -> None:
    (prompt,) = parse_pooling(RewardFace.SCORE, body(**fields)).prompts

    assert (prompt.questions, prompt.text[prompt.reply_at :]) == (("3 + 4?",), "It is 7.")


def test_one_question_may_have_many_paths() -> None:
    prompts = parse_pooling(RewardFace.SCORE, body(text_1="q", text_2=["a", "b", "c"])).prompts

    assert [prompt.text for prompt in prompts] == ["qa", "qb", "qc"]


@pytest.mark.parametrize(
    ("face", "fields", "refusal", "complaint"),
    [
        (RewardFace.CLASSIFY, {}, InvalidBody, "give `input` or `messages`"),
        (RewardFace.POOLING, {"input": []}, InvalidBody, "give `input` or `messages`"),
        (RewardFace.CLASSIFY, {"input": [1, 2]}, BadRequest, "give `input` as text, not as token ids"),
        (RewardFace.CLASSIFY, {"input": 7}, InvalidBody, "Expected"),
        (RewardFace.SCORE, {"text_1": "q"}, InvalidBody, "give `text_1` and `text_2`"),
        (RewardFace.SCORE, {"text_1": [], "text_2": ["a"]}, BadRequest, "At least one text element"),
        (RewardFace.SCORE, {"text_1": "q", "text_2": []}, BadRequest, "At least one text_pair element"),
        (RewardFace.SCORE, {"text_1": ["q", "r"], "text_2": ["a"]}, BadRequest, "1:1, 1:N or N:N"),
    ],
)
def test_what_is_no_question_with_a_path_is_refused(
    face: RewardFace, fields: dict[str, Any], refusal: type[RequestRefused], complaint: str
) -> None:
    with pytest.raises(refusal, match=complaint):
        parse_pooling(face, body(**fields))


# --- responses


def test_bodies_have_the_fields_of_vllm() -> None:
    common = {"id", "object", "created", "model", "data", "usage"}
    items = {}
    for face in RewardFace:
        fields = json.loads(written(face, (0.25, 0.75)))
        assert fields.keys() == common
        assert (fields["id"], fields["object"]) == (f"{face}-q/3/1.1", "list")
        assert fields["usage"] == {
            "prompt_tokens": 42,
            "total_tokens": 42,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        }
        (items[face],) = fields["data"]

    assert items[RewardFace.CLASSIFY] == {"index": 0, "label": "LABEL_0", "probs": [0.75], "num_classes": 1}
    assert items[RewardFace.SCORE] == {"index": 0, "object": "score", "score": 0.75}
    assert items[RewardFace.POOLING] == {"index": 0, "object": "pooling", "data": [0.75]}


def test_a_process_reward_model_tells_every_step_in_a_row_of_its_own() -> None:
    (item,) = json.loads(written(RewardFace.POOLING, (0.25, 0.75), by_step=True))["data"]

    assert item["data"] == [[0.25], [0.75]]


@given(reward=st.floats(min_value=0, max_value=1))
@pytest.mark.parametrize("face", list(RewardFace))
def test_the_projects_own_client_reads_the_recorded_reward(face: RewardFace, reward: float) -> None:
    value = raw(reward) if face is RewardFace.POOLING else reward  # the client asks /pooling for raw values

    told, tokens = read_reward(written(face, (0.1, value)), KINDS[face], "http://worker")

    assert told == pytest.approx(reward, abs=1e-9)
    assert tokens == 42


def test_a_kind_of_reward_model_has_the_endpoints_that_vllm_gives_it() -> None:
    assert set(FACES[RewardFace.SCORE]) == set(RewardFace)
    assert set(FACES[RewardFace.CLASSIFY]) == {RewardFace.CLASSIFY, RewardFace.POOLING}
    assert set(FACES[RewardFace.POOLING]) == {RewardFace.POOLING}


# --- faults


EMISSION = Emission("seven}.", tokens=3, finish_reason="stop")


def test_a_probe_may_be_empty_or_huge() -> None:
    empty = spoiled(Fault.EMPTY_PROBE, EMISSION, limit=20, characters_per_token=4)
    huge = spoiled(Fault.HUGE_PROBE, EMISSION, limit=20, characters_per_token=4)

    assert (empty.text, empty.tokens, empty.finish_reason) == ("", 1, "stop")
    assert len(huge.text) > 10 * 2**20
    assert huge.text.startswith(EMISSION.text)
    assert huge.tokens == EMISSION.tokens


def test_a_judgement_may_be_no_number_or_no_probability() -> None:
    no_number = spoiled(Fault.NAN_REWARD, EMISSION, limit=1, characters_per_token=4)
    wild = spoiled(Fault.WILD_REWARD, EMISSION, limit=1, characters_per_token=4)

    assert math.isnan(no_number.odds.logprob(0))
    assert wild.odds.logprob(0) > 0


@given(
    text=st.text(max_size=300),
    tokens=st.integers(0, 80),
    limit=st.integers(1, 500),
    characters_per_token=st.sampled_from([0, 1, 4]),
)
def test_an_endless_chain_goes_on_to_the_limit(text: str, tokens: int, limit: int, characters_per_token: int) -> None:
    begun = Emission(text, tokens, "stop").trimmed(max_tokens=limit)

    endless = spoiled(Fault.ENDLESS_CHAIN, begun, limit=limit, characters_per_token=characters_per_token)

    assert (endless.tokens, endless.finish_reason) == (limit, "length")
    assert endless.text.startswith(begun.text[: begun.offset(begun.tokens // 2)])
    assert len(endless.text) >= limit - begun.tokens // 2
    assert "".join(endless.piece(token, token + 1) for token in range(limit)) == endless.text


@pytest.mark.parametrize("fault", [None, Fault.HANG, Fault.CUT_STREAM, Fault.GARBAGE, Fault.HANG_REWARD])
def test_other_faults_leave_the_text_alone(fault: Fault | None) -> None:
    assert spoiled(fault, EMISSION, limit=20, characters_per_token=4) is EMISSION
