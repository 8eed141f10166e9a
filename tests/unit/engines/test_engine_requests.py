"""What an engine is asked for a call plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.engines.requests import CallRequest, Endpoint, check, generation
from dynasor_serve.programs.calls import SAMPLE, CallPlan, Judge, Watch
from dynasor_serve.programs.query import Branch, Message, Query, SamplingParameters

CHAT = Query(model="model", rule="even", messages=(Message("user", "What is it?"),))
PROMPT = replace(CHAT, messages=(), prompt="Once upon a time")
RENDERED = "<|user|>What is it?<|assistant|>"
WATCH = Watch(ProbeSchedule(interval=32), probe=None)


def request(plan: CallPlan, query: Query = CHAT, kind: EngineKind = EngineKind.VLLM) -> CallRequest:
    return CallRequest(Endpoint("http://engine", kind), query, plan, Branch(2), "query/2/1.1")


# --- the assistant's turn


def test_a_rendered_chat_goes_on_as_text_and_gets_no_second_beginning() -> None:
    asked = generation(request(CallPlan(continuation="It is", suffix=" \\boxed{")), RENDERED)

    assert asked.path == "/v1/completions"
    assert asked.body["prompt"] == RENDERED + "It is \\boxed{"
    assert asked.body["add_special_tokens"] is False
    assert "messages" not in asked.body
    assert not asked.continues_chat


def test_a_prompt_goes_on_as_text_and_begins_as_a_prompt_does() -> None:
    asked = generation(request(CallPlan(continuation=" there was", suffix=" a"), PROMPT))

    assert asked.body["prompt"] == "Once upon a time there was a"
    assert "add_special_tokens" not in asked.body


def test_a_chat_whose_text_is_unknown_goes_on_in_its_last_message() -> None:
    asked = generation(request(CallPlan(continuation="It is", suffix=" 7"), kind=EngineKind.EXTERNAL))

    assert asked.path == "/v1/chat/completions"
    assert asked.body["messages"] == [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "It is 7"},
    ]
    assert asked.body["add_generation_prompt"] is False
    assert asked.body["continue_final_message"] is True
    assert asked.continues_chat


def test_a_watched_chain_begins_as_a_plain_chat_where_its_text_is_unknown() -> None:
    assert generation(request(CallPlan(watch=WATCH))) == generation(request(SAMPLE))


@pytest.mark.parametrize(
    ("plan", "query", "kind", "is_needed"),
    [
        (CallPlan(watch=WATCH), CHAT, EngineKind.VLLM, True),
        (CallPlan(suffix="x"), CHAT, EngineKind.VLLM_CPU, True),
        (CallPlan(turns=(Message("user", "Sure?"),)), CHAT, EngineKind.VLLM, False),
        (SAMPLE, CHAT, EngineKind.VLLM, False),
        (CallPlan(watch=WATCH), PROMPT, EngineKind.VLLM, False),
        (CallPlan(watch=WATCH), CHAT, EngineKind.EXTERNAL, False),
    ],
)
def test_a_chat_is_rendered_where_its_turn_is_or_may_be_continued(
    plan: CallPlan, query: Query, kind: EngineKind, is_needed: bool
) -> None:
    assert request(plan, query, kind).needs_rendering is is_needed


@pytest.mark.parametrize(
    ("before", "said", "closing"),
    [
        ("", "<think>Let me", "\n</think>\n\n"),
        ("<|assistant|><think>\n", "Let me", "\n</think>\n\n"),
        ("<|assistant|><think>\n", "Let me.</think>It is", ""),
        ("<|assistant|>", "<think>No.</think>Yes <think>", "\n</think>\n\n"),
        ("<|assistant|><think>\n\n</think>\n\n", "It is", ""),
        ("", "It is", ""),
    ],
)
def test_open_thinking_is_closed_where_the_plan_says_so(before: str, said: str, closing: str) -> None:
    plan = CallPlan(continuation=said, suffix="so: ", closes_thinking=True)

    assert plan.turn(before) == f"{said}{closing}so: "
    assert replace(plan, closes_thinking=False).turn(before) == f"{said}so: "


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "\n"]), max_size=12).map("".join), st.text(max_size=8)
)
def test_a_turn_begins_with_what_was_said_and_never_ends_thinking(said: str, suffix: str) -> None:
    plan = CallPlan(continuation=said, suffix=suffix.replace("<", ""), closes_thinking=True)
    turn = plan.turn()

    assert turn.startswith(said)
    assert turn.endswith(plan.suffix)
    assert turn.rfind("<think>") <= turn.rfind("</think>")


# --- further turns


TURNS = (Message("assistant", " It is 7."), Message("user", "Are you sure?"))


def test_further_turns_of_a_chat_are_messages() -> None:
    asked = generation(request(CallPlan(turns=TURNS)))

    assert [message["role"] for message in asked.body["messages"]] == ["user", "assistant", "user"]
    assert "continue_final_message" not in asked.body


def test_a_thought_that_a_prompt_opens_is_written_once_where_its_text_is_shown_again() -> None:
    prompt = replace(PROMPT, prompt="What is it?\n<think>\n")
    asked = generation(request(CallPlan(turns=(Message("assistant", "<think>\nIt is 7."), *TURNS[1:])), prompt))

    assert asked.body["prompt"] == "What is it?\n<think>\nIt is 7.\n\nAre you sure?\n\n"
    assert asked.opened_thought == "", "that thought is an earlier turn's"


@given(st.text(max_size=8), st.sampled_from(["", " ", "\n", "\n\n"]), st.text(max_size=8))
def test_what_the_model_said_follows_the_thought_that_was_opened(before: str, space: str, said: str) -> None:
    prompt = replace(PROMPT, prompt=f"{before}<think>{space}")
    first = generation(request(SAMPLE, prompt))
    then = generation(request(CallPlan(continuation=first.opened_thought + said), prompt))

    assert first.body["prompt"] == prompt.prompt
    assert then.body["prompt"] == f"{prompt.prompt}{said}"


def test_further_turns_of_a_prompt_are_paragraphs_behind_what_the_model_said() -> None:
    asked = generation(request(CallPlan(turns=TURNS, continuation="Yes"), PROMPT))

    assert asked.body["prompt"] == "Once upon a time It is 7.\n\nAre you sure?\n\nYes"


# --- sampling


def test_a_plan_overrides_the_query() -> None:
    query = replace(CHAT, sampling=SamplingParameters(temperature=0.8, max_tokens=500, stop=("a", "b")))
    plan = CallPlan(suffix="x", max_tokens=20, temperature=0.0, stop=("\n",), keeps_stop=True)
    body = generation(request(plan, query), RENDERED).body

    assert (body["max_tokens"], body["temperature"], body["stop"]) == (20, 0.0, ["\n"])
    assert body["include_stop_str_in_output"] is True
    plain = generation(request(SAMPLE, query)).body
    assert (plain["max_tokens"], plain["temperature"], plain["stop"]) == (500, 0.8, ["a", "b"])
    assert "include_stop_str_in_output" not in plain
    assert "stop" not in generation(request(CallPlan(stop=()), query)).body


def test_an_unknown_server_hears_no_words_of_vllm() -> None:
    plan = CallPlan(stop=("\n",), keeps_stop=True, asks_probability=True)
    body = generation(request(plan, kind=EngineKind.EXTERNAL)).body

    openai = {"model", "messages", "temperature", "max_tokens", "stop", "stream", "stream_options"}
    assert body.keys() == openai | {"logprobs", "top_logprobs"}


@pytest.mark.parametrize("plan", [SAMPLE, CallPlan(watch=WATCH), CallPlan(continuation="so far")])
def test_a_thinking_budget_goes_with_calls_that_think(plan: CallPlan) -> None:
    query = replace(CHAT, sampling=SamplingParameters(thinking_token_budget=100))

    assert generation(request(plan, query), RENDERED).body["thinking_token_budget"] == 100
    probe = replace(plan, suffix="\\boxed{")
    assert "thinking_token_budget" not in generation(request(probe, query), RENDERED).body


@pytest.mark.parametrize(
    ("plan", "likeliest"),
    [
        (SAMPLE, None),
        (CallPlan(asks_probability=True), 1),
        (CallPlan(token_window=64), 20),
        (CallPlan(token_window=64, asks_probability=True), 20),
        (CallPlan(judge=Judge.OWN, suffix="?"), 20),
    ],
)
def test_log_probabilities_are_asked_for_in_the_words_of_each_endpoint(plan: CallPlan, likeliest: int | None) -> None:
    chat = generation(request(plan)).body
    completion = generation(request(plan, PROMPT)).body

    assert (chat.get("logprobs"), chat.get("top_logprobs")) == (None if likeliest is None else True, likeliest)
    assert (completion.get("logprobs"), completion.get("top_logprobs")) == (likeliest, None)


# --- what an engine cannot serve


@pytest.mark.parametrize(
    ("plan", "kind", "words"),
    [
        (CallPlan(judge=Judge.MODEL), EngineKind.VLLM, "gives no rewards; register"),
        (CallPlan(judge=Judge.MODEL), EngineKind.EXTERNAL, "gives no rewards; register"),
        (SAMPLE, EngineKind.VLLM_SCORE, "gives rewards only"),
        (CallPlan(judge=Judge.OWN), EngineKind.VLLM_CLASSIFY, "gives rewards only"),
    ],
)
def test_rewards_come_from_reward_models_and_nothing_else_does(plan: CallPlan, kind: EngineKind, words: str) -> None:
    with pytest.raises(EngineError, match=words) as raised:
        check(request(plan, kind=kind))

    assert raised.value.reason is EngineReason.CALL_UNSUPPORTED
    assert not raised.value.is_retryable
    assert "vllm-pooling" in str(raised.value)


def test_a_reward_model_is_not_asked_to_honour_what_the_samples_need() -> None:
    query = replace(CHAT, sampling=SamplingParameters(seed=1, top_k=5, thinking_token_budget=9))

    check(request(CallPlan(judge=Judge.MODEL), query, EngineKind.VLLM_POOLING))


def test_an_unknown_server_bounds_no_thinking() -> None:
    query = replace(CHAT, sampling=SamplingParameters(thinking_token_budget=9))

    with pytest.raises(EngineError, match=r"leave sampling\.thinking_token_budget unset") as raised:
        check(request(SAMPLE, query, EngineKind.EXTERNAL))
    assert raised.value.reason is EngineReason.PARAMETER_UNSUPPORTED
