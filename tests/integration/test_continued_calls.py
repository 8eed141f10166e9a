"""Calls that go on inside the assistant's turn, over real HTTP: how a chat is rendered, kept, shared and done without.

The fake engine has vLLM's formats; `tests/engine/test_continuations.py` asks a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.engines import rendering
from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.programs.calls import SAMPLE, CallPlan, Judge, Watch
from dynasor_serve.programs.query import Branch, Message, Query

from fakes.fake_engine import FakeEngine, FakeToken, fake_engine, rendered

CHAT = Query(model="model", rule="even", messages=(Message("user", "What is 6 × 7?"),))
RENDERED = rendered([{"role": "user", "content": "What is 6 × 7?"}])
CHAIN = CallPlan(watch=Watch(ProbeSchedule(interval=32), probe=None))
PROBE = CallPlan(
    continuation="<think>Let me see.", suffix="\\boxed{", closes_thinking=True, opened_box=True, asks_probability=True
)
PATIENCE_SECONDS = 10.0


@asynccontextmanager
async def opened(**timeouts: float) -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineTimeouts(**timeouts))
    try:
        yield client
    finally:
        await client.close()


async def run(
    client: EngineClient,
    engine: FakeEngine,
    plan: CallPlan,
    query: Query = CHAT,
    kind: EngineKind = EngineKind.VLLM,
    **fields: Any,
) -> Completion:
    request = CallRequest(Endpoint(engine.url, kind), query, plan, Branch(0), "query/0/1.1", **fields)
    return await client.open(request).completion(lambda _: None)


async def test_a_chain_and_its_probes_share_one_rendered_prefix() -> None:
    async with fake_engine() as engine, opened() as client:
        await run(client, engine, CHAIN)
        await run(client, engine, PROBE)
        await run(client, engine, replace(CHAIN, continuation="<think>Let me see. It"))

    assert [path for path, _ in engine.asked] == ["/tokenize", "/detokenize", "/tokenize", *["/v1/completions"] * 3]
    assert [body["prompt"] for body in engine.bodies("/v1/completions")] == [
        RENDERED,
        RENDERED + "<think>Let me see.\n</think>\n\n\\boxed{",
        RENDERED + "<think>Let me see. It",
    ]
    assert engine.bodies("/tokenize")[0] == {
        "model": "model",
        "messages": [{"role": "user", "content": "What is 6 × 7?"}],
        "add_generation_prompt": True,
    }


async def test_a_tree_is_rendered_from_its_first_step_on() -> None:
    first = CallPlan(stop=("\n\n",), keeps_stop=True)
    async with fake_engine() as engine, opened() as client:
        await run(client, engine, first)
        await run(client, engine, replace(first, continuation="<think>Six sevens.\n\n"))

    prompts = [body["prompt"] for body in engine.bodies("/v1/completions")]
    assert prompts == [RENDERED, RENDERED + "<think>Six sevens.\n\n"]
    assert not engine.bodies("/v1/chat/completions"), "a reasoning parser there would close the thought behind the step"


@pytest.fixture
def opens_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine's template opens the model's thought, as that of DeepSeek-R1 does."""
    monkeypatch.setattr("fakes.fake_engine.rendered", lambda messages: rendered(messages) + "<think>\n")


@pytest.mark.usefixtures("opens_thoughts")
@pytest.mark.parametrize("query", [CHAT, replace(CHAT, messages=(), prompt="What is 6 × 7?\n<think>\n")])
async def test_a_thought_that_the_prompt_opens_belongs_to_the_text_and_is_sent_once(query: Query) -> None:
    heard: list[str] = []
    async with fake_engine() as engine, opened() as client:
        request = CallRequest(Endpoint(engine.url, EngineKind.VLLM), query, CHAIN, Branch(0), "query/0/1.1")
        first = await client.open(request).completion(heard.append)
        rest = await run(client, engine, replace(CHAIN, continuation=first.text), query)
        await run(client, engine, replace(PROBE, continuation=first.text + rest.text), query)

    before = RENDERED + "<think>\n" if query.prompt is None else query.prompt
    assert first.text == "<think>\n7" == "".join(heard)
    assert rest.text == "7"
    assert [body["prompt"] for body in engine.bodies("/v1/completions")] == [
        before,
        before + "7",
        before + "77\n</think>\n\n\\boxed{",
    ]


@pytest.mark.usefixtures("opens_thoughts")
async def test_words_put_into_its_mouth_at_the_beginning_open_no_thought_in_the_reply() -> None:
    async with fake_engine() as engine, opened() as client:
        completion = await run(client, engine, replace(PROBE, continuation=""))

    assert engine.bodies("/v1/completions")[0]["prompt"].endswith("<think>\n\n</think>\n\n\\boxed{")
    assert completion.text == "7"


async def test_a_plain_sample_is_a_chat_like_any_other() -> None:
    async with fake_engine() as engine, opened() as client:
        await run(client, engine, SAMPLE)

    assert [path for path, _ in engine.asked] == ["/v1/chat/completions"]


async def test_further_turns_are_rendered_too() -> None:
    async with fake_engine() as engine, opened() as client:
        await run(client, engine, CHAIN)
        await run(client, engine, replace(CHAIN, turns=(Message("assistant", "41"), Message("user", "Sure?"))))

    assert engine.bodies("/v1/completions")[1]["prompt"].endswith(
        "assistant\n41<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_calls_that_start_together_share_one_rendering_and_one_may_leave() -> None:
    gate = asyncio.Event()
    async with fake_engine(held={"/tokenize": gate}) as engine, opened() as client:
        calls = [asyncio.create_task(run(client, engine, CHAIN)) for _ in range(5)]
        while not engine.asked:  # noqa: ASYNC110 - what it awaits is another coroutine's list
            await asyncio.sleep(0.005)
        calls[0].cancel()  # the one that began it
        await asyncio.sleep(0)
        gate.set()
        ends = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1:] == [Completion("7", "stop")] * 4
    assert len(engine.bodies("/detokenize")) == 1


async def test_rendered_chats_are_kept_within_bounds_the_last_used_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_MOST_PROMPTS", 2)
    queries = [replace(CHAT, messages=(Message("user", f"question {number}"),)) for number in range(3)]
    async with fake_engine() as engine, opened() as client:
        for number in (0, 1, 0, 2, 0, 1):  # 2 drives 1 out, since 0 was used after it
            await run(client, engine, CHAIN, queries[number])

    assert len(engine.bodies("/detokenize")) == 4


async def test_rendered_chats_are_bounded_by_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_MOST_CHARACTERS", 1000)
    long = replace(CHAT, messages=(Message("user", "x" * 600),))
    async with fake_engine() as engine, opened() as client:
        for query in (long, CHAT, CHAT, long):
            await run(client, engine, CHAIN, query)

    assert len(engine.bodies("/detokenize")) == 3


@pytest.mark.parametrize("behaviour", [{"has_tokenizer": False}, {"forgets_specials": True}])
async def test_without_a_faithful_tokenizer_the_last_message_is_continued(behaviour: dict[str, bool]) -> None:
    async with fake_engine(**behaviour) as engine, opened() as client:
        await run(client, engine, CHAIN)
        completion = await run(client, engine, PROBE)
        rendering_requests = [path for path, _ in engine.asked if "tokenize" in path]
        await run(client, engine, PROBE)

    first, second, _ = engine.bodies("/v1/chat/completions")
    assert completion.text == "7"
    assert [message["role"] for message in first["messages"]] == ["user"]
    assert second["messages"][1] == {"role": "assistant", "content": "<think>Let me see.\n</think>\n\n\\boxed{"}
    assert second["continue_final_message"] is True
    assert second["add_generation_prompt"] is False
    assert [path for path, _ in engine.asked if "tokenize" in path] == rendering_requests, "it is not asked twice"


async def test_a_server_that_cannot_continue_a_turn_says_so() -> None:
    refusal = "Unrecognized request argument supplied: continue_final_message"
    async with fake_engine(refusal=refusal) as engine, opened() as client:
        with pytest.raises(EngineError, match="so ask with a prompt") as raised:
            await run(client, engine, PROBE, kind=EngineKind.EXTERNAL)
        plain = await run(client, engine, CHAIN, kind=EngineKind.EXTERNAL)
        prompt = await run(client, engine, PROBE, replace(CHAT, messages=(), prompt="6 × 7 ="), EngineKind.EXTERNAL)

    assert raised.value.reason is EngineReason.CALL_UNSUPPORTED
    assert refusal in str(raised.value)
    assert not raised.value.is_retryable
    assert plain.text == prompt.text == "7"


async def test_what_is_refused_for_another_reason_keeps_it() -> None:
    async with fake_engine(refusal="temperature must be at most 1") as engine, opened() as client:
        with pytest.raises(EngineError) as raised:
            await run(client, engine, PROBE, kind=EngineKind.EXTERNAL)

    assert raised.value.reason is EngineReason.ENGINE_REFUSED


@pytest.mark.parametrize("tokens", [{"tokens": "many"}, "<html>", {}])
async def test_a_rendering_that_is_none_is_garbage(tokens: Any) -> None:
    async with fake_engine(has_tokenizer=False, answers={"/tokenize": tokens}) as engine, opened() as client:
        with pytest.raises(EngineError, match="answers /tokenize with what is no such answer") as raised:
            await run(client, engine, CHAIN)

    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


async def test_a_rendering_that_hangs_is_given_up_and_tried_again() -> None:
    gate = asyncio.Event()
    async with fake_engine(held={"/detokenize": gate}) as engine, opened(reply=0.2) as client:
        with pytest.raises(EngineError, match=r"did not answer /detokenize within 0\.2 s") as raised:
            await run(client, engine, CHAIN)
        gate.set()
        completion = await run(client, engine, CHAIN)

    assert raised.value.reason is EngineReason.ENGINE_HUNG
    assert raised.value.is_retryable
    assert completion.text == "7"


async def test_a_call_closed_while_its_chat_is_rendered_ends_at_once() -> None:
    async with fake_engine(held={"/tokenize": asyncio.Event()}) as engine, opened() as client:
        call = client.open(CallRequest(Endpoint(engine.url, EngineKind.VLLM), CHAT, CHAIN, Branch(0), "query/0/1.1"))
        running = asyncio.create_task(call.completion(lambda _: None))
        while not engine.asked:  # noqa: ASYNC110 - what it awaits is another coroutine's list
            await asyncio.sleep(0.005)
        call.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(EngineError, match="was closed"):
                await running


# --- log-probabilities, in the format of each endpoint

ANSWER = (
    FakeToken("4", -0.1, (("4", -0.1), ("5", -2.5))),
    FakeToken("2", -0.2, (("2", -0.2), ("3", -1.8))),
    FakeToken("}", -0.3, (("}", -0.3), (".", -1.7))),
    FakeToken(" so", -9.0, ((" so", -9.0), (" as", -11.0))),
)


@pytest.mark.parametrize("kind", [EngineKind.VLLM, EngineKind.EXTERNAL])
async def test_a_probe_knows_how_sure_its_answer_is(kind: EngineKind) -> None:
    async with fake_engine(reply=ANSWER) as engine, opened() as client:
        completion = await run(client, engine, PROBE, kind=kind)

    assert completion.text == "42} so"
    assert completion.probability == pytest.approx((0.904837 + 0.818731 + 0.740818) / 3, abs=1e-5)
    assert completion.confidence is None


@pytest.mark.parametrize("kind", [EngineKind.VLLM, EngineKind.EXTERNAL])
async def test_a_chain_knows_how_sure_it_is_while_it_runs(kind: EngineKind) -> None:
    lowest: list[float | None] = []
    async with fake_engine(reply=ANSWER) as engine, opened() as client:
        plan = replace(CHAIN, token_window=2)
        call = client.open(CallRequest(Endpoint(engine.url, kind), CHAT, plan, Branch(0), "query/0/1.1"))
        completion = await call.completion(lambda _: lowest.append(call.lowest_confidence))

    assert lowest == [None, pytest.approx(1.15), pytest.approx(1.0), pytest.approx(1.0)]
    assert completion.confidence == call.lowest_confidence == pytest.approx(1.0)


async def test_a_server_without_log_probabilities_leaves_the_probability_open() -> None:
    finish = {"finish_reason": "stop", "logprobs": None}
    async with fake_engine(finish=finish) as engine, opened() as client:
        completion = await run(client, engine, PROBE)

    assert completion == Completion("7", "stop")


# --- the model's own judgement

OWN = CallPlan(continuation="It is 42.", suffix=" Correct?", max_tokens=1, temperature=0.0, stop=(), judge=Judge.OWN)


@pytest.mark.parametrize("kind", [EngineKind.VLLM, EngineKind.EXTERNAL])
async def test_a_model_judges_by_its_probability_of_yes(kind: EngineKind) -> None:
    token = FakeToken(" Yes", -0.5, ((" Yes", -0.5), (" no", -1.5), ("The", -1.6)))
    async with fake_engine(reply=(token,)) as engine, opened() as client:
        completion = await run(client, engine, OWN, kind=kind)

    assert completion.reward == pytest.approx(0.731059, abs=1e-5)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (
            FakeToken("The", -0.5, (("The", -0.5), ("It", -1.5))),
            "neither yes nor no is among its likeliest tokens 'The', 'It'",
        ),
        (FakeToken("Yes"), "it sent no log-probabilities"),
    ],
)
async def test_a_model_that_says_neither_yes_nor_no_gives_no_reward(token: FakeToken, words: str) -> None:
    async with fake_engine(reply=(token,)) as engine, opened() as client:
        with pytest.raises(EngineError, match=words) as raised:
            await run(client, engine, OWN)

    assert raised.value.reason is EngineReason.REWARD_INVALID
    assert not raised.value.is_retryable
    assert engine.url in str(raised.value)
