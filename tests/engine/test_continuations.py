"""Continued turns, log-probabilities and the model's own judgement, asked of a real vLLM through the engine client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineCall, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.local.vllm_engine import ManagedVllm
from dynasor_serve.programs.calls import SAMPLE, CallPlan, Watch
from dynasor_serve.programs.query import Branch, Message, Query, RewardParameters, SamplingParameters
from dynasor_serve.programs.rewards import reward_call

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300, func_only=True)]

BLOCK_TOKENS = 32
QUESTION = Message("user", "Explain in three sentences why the sky is blue.")
GREEDY = SamplingParameters(max_tokens=96, temperature=0.0)
CHAIN = CallPlan(watch=Watch(ProbeSchedule(interval=32), probe=None))
PROBE = CallPlan(
    suffix="\n**Final Answer**\n\\boxed{", opened_box=True, max_tokens=12, temperature=0.0, asks_probability=True
)


@pytest_asyncio.fixture
async def client() -> AsyncIterator[EngineClient]:
    opened = EngineClient(EngineTimeouts(stall=240))
    yield opened
    await opened.close()


@pytest.fixture
def chat(vllm: ManagedVllm) -> Query:
    return Query(model=vllm.model, rule="even", messages=(QUESTION,), sampling=GREEDY)


async def run(
    client: EngineClient, vllm: ManagedVllm, query: Query, plan: CallPlan
) -> tuple[Completion, EngineCall, list[str]]:
    """The completion, its call, and the text of each event."""
    heard: list[str] = []
    call = client.open(CallRequest(Endpoint(vllm.base_url, EngineKind.VLLM_CPU), query, plan, Branch(0), "test/0/1.1"))
    completion = await call.completion(heard.append)
    return completion, call, [text for text in heard if text]


async def test_a_rendered_chat_is_the_prompt_that_a_chat_has(
    client: EngineClient, vllm: ManagedVllm, chat: Query
) -> None:
    plain, plain_call, _ = await run(client, vllm, chat, SAMPLE)
    chain, chain_call, _ = await run(client, vllm, chat, CHAIN)

    assert chain.text[:20] == plain.text[:20]
    assert chain_call.prompt_tokens == plain_call.prompt_tokens
    assert chain_call.cached_prompt_tokens == chain_call.prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS


async def test_a_chain_goes_on_where_it_was(client: EngineClient, vllm: ManagedVllm, chat: Query) -> None:
    first = client.open(CallRequest(Endpoint(vllm.base_url, EngineKind.VLLM_CPU), chat, CHAIN, Branch(0), "test/0/1.1"))
    text_at: dict[int, str] = {}  # tokens -> text
    chain = await first.completion(lambda _: text_at.update({first.tokens: "".join(first.parts)}))
    position = min(tokens for tokens in text_at if tokens >= BLOCK_TOKENS)
    so_far = text_at[position]
    continued, second, _ = await run(client, vllm, chat, replace(CHAIN, continuation=so_far, max_tokens=8))

    assert second.prompt_tokens == first.prompt_tokens + position, "the text has the tokens that were generated"
    assert second.cached_prompt_tokens > first.prompt_tokens, "what was generated is cached too"
    assert chain.text.startswith(so_far)
    assert continued.text


async def test_a_probe_shares_the_chains_prefix_and_knows_its_probability(
    client: EngineClient, vllm: ManagedVllm, chat: Query
) -> None:
    _, chain, heard = await run(client, vllm, chat, CHAIN)
    probe, call, _ = await run(client, vllm, chat, replace(PROBE, continuation="".join(heard[:64])))

    assert call.cached_prompt_tokens > chain.prompt_tokens
    assert 0 < call.tokens <= 12
    assert probe.probability is not None
    assert 0 < probe.probability <= 1


async def test_thinking_is_closed_before_the_suffix(
    client: EngineClient, vllm: ManagedVllm, chat: Query, http: aiohttp.ClientSession
) -> None:
    plan = CallPlan(continuation="<think>Light scatters", suffix="The sky", closes_thinking=True, max_tokens=4)
    _, call, _ = await run(client, vllm, chat, plan)
    message = {"role": "user", "content": QUESTION.content}
    said = "<think>Light scatters\n</think>\n\nThe sky"
    body = {
        "model": vllm.model,
        "messages": [message, {"role": "assistant", "content": said}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    async with http.post("/tokenize", json=body) as response:
        assert call.prompt_tokens == (await response.json())["count"]


async def test_a_chain_knows_its_confidence_while_it_runs(client: EngineClient, vllm: ManagedVllm, chat: Query) -> None:
    request = CallRequest(
        Endpoint(vllm.base_url, EngineKind.VLLM_CPU), chat, replace(CHAIN, token_window=16), Branch(0), "test/0/1.1"
    )
    call = client.open(request)
    lowest: list[float | None] = []
    completion = await call.completion(lambda _: lowest.append(call.lowest_confidence))
    known = [each for each in lowest if each is not None]

    assert lowest[0] is None
    assert known == sorted(known, reverse=True)
    assert 0 < known[-1] == completion.confidence


@pytest.mark.parametrize("keeps_stop", [True, False])
async def test_the_stop_string_that_ended_a_step_is_known(
    client: EngineClient, vllm: ManagedVllm, chat: Query, keeps_stop: bool
) -> None:
    plain, _, _ = await run(client, vllm, chat, SAMPLE)
    word = plain.text.split()[4]
    before = plain.text[: plain.text.index(word)]
    plan = CallPlan(stop=("an impossible phrase", word), keeps_stop=keeps_stop)
    stopped, _, _ = await run(client, vllm, chat, plan)

    assert stopped.finish_reason == "stop"
    assert stopped.stopped_at == word
    assert stopped.text == before + (word if keeps_stop else "")


async def test_an_end_of_its_own_is_no_stop_string(client: EngineClient, vllm: ManagedVllm, chat: Query) -> None:
    cut, _, _ = await run(client, vllm, chat, CallPlan(max_tokens=3, stop=("an impossible phrase",)))
    short = replace(chat, messages=(Message("user", "Say hello."),), sampling=replace(GREEDY, max_tokens=200))
    ended, _, _ = await run(client, vllm, short, SAMPLE)

    assert (cut.finish_reason, cut.stopped_at) == ("length", None)
    assert (ended.finish_reason, ended.stopped_at) == ("stop", None)


async def test_a_prompt_goes_on_as_text(client: EngineClient, vllm: ManagedVllm) -> None:
    query = Query(model=vllm.model, rule="even", prompt="One, two, three,", sampling=replace(GREEDY, max_tokens=6))
    completion, _, _ = await run(client, vllm, query, CallPlan(continuation=" four, five,", suffix=" six,"))

    assert completion.text.startswith(" seven")


@pytest.mark.parametrize("is_complete", [True, False])
async def test_the_model_judges_its_own_path(
    client: EngineClient, vllm: ManagedVllm, chat: Query, is_complete: bool
) -> None:
    _, _, heard = await run(client, vllm, chat, CHAIN)
    plan = reward_call(RewardParameters(), "".join(heard), is_complete=is_complete)
    completion, call, _ = await run(client, vllm, chat, plan)

    assert completion.reward is not None
    assert 0 < completion.reward < 1
    assert call.tokens == 1
    assert call.cached_prompt_tokens > 0


async def test_a_judgement_follows_what_the_model_would_say(client: EngineClient, vllm: ManagedVllm) -> None:
    rewards = {}
    for word in ("Yes", "No"):
        query = Query(model=vllm.model, rule="even", prompt=f"Answer: {word}\n" * 8, sampling=GREEDY)
        plan = replace(reward_call(RewardParameters(), "", is_complete=True), suffix="Answer:")
        completion, _, _ = await run(client, vllm, query, plan)
        rewards[word] = completion.reward or 0.0

    assert rewards["No"] < 0.1 < rewards["Yes"]


async def test_a_thinking_budget_needs_a_reasoning_configuration(
    client: EngineClient, vllm: ManagedVllm, chat: Query
) -> None:
    bounded = replace(chat, sampling=replace(GREEDY, thinking_token_budget=16))
    with pytest.raises(EngineError, match="--reasoning-parser") as raised:
        await run(client, vllm, bounded, SAMPLE)

    assert raised.value.reason is EngineReason.PARAMETER_UNSUPPORTED
    assert not raised.value.is_retryable


async def test_a_chat_can_be_continued_in_its_last_message(
    client: EngineClient, vllm: ManagedVllm, chat: Query
) -> None:
    """As an unknown server is asked; it happens to be a vLLM."""
    endpoint = Endpoint(vllm.base_url, EngineKind.EXTERNAL)
    plan = CallPlan(continuation="One, two, three,", suffix=" four,", max_tokens=6, asks_probability=True)
    call = client.open(CallRequest(endpoint, chat, plan, Branch(0), "test/0/1.1"))
    completion = await call.completion(lambda _: None)

    assert completion.text.strip().startswith("five")
    assert completion.probability is not None
