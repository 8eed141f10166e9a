"""Rewards from a real vLLM that serves a reward model: the packaged model as a classifier of its next token, "no" or
"yes" (vLLM's recipe for rerankers), behind all three endpoints.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio

from dynasor_serve.engines.client import CallRequest, Completion, Endpoint, EngineCall, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind, probe
from dynasor_serve.local.vllm_engine import ManagedVllm, VllmOptions
from dynasor_serve.programs.calls import SAMPLE, CallPlan
from dynasor_serve.programs.query import Branch, Message, Query, RewardParameters, RewardSource
from dynasor_serve.programs.rewards import reward_call

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300, func_only=True)]

NO_OR_YES = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
REWARD = RewardParameters(source=RewardSource.MODEL, pool="judges", model="judge")
PROMPT = Query(model="policy", rule="even", prompt="Is Paris in France? Answer yes or no:", reward=REWARD)
CHAT = Query(model="policy", rule="even", messages=(Message("user", "Is Paris in France?"),), reward=REWARD)
KINDS = [kind for kind in EngineKind if kind.is_reward]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def judge(request: pytest.FixtureRequest) -> AsyncIterator[ManagedVllm]:
    """The reward model; slow to start, so shared."""
    classifier = ("--runner", "pooling", "--convert", "classify", "--hf-overrides", json.dumps(NO_OR_YES))
    async with ManagedVllm(VllmOptions(served_model_name="judge", extra_args=classifier)) as engine:
        yield engine


@pytest_asyncio.fixture
async def client() -> AsyncIterator[EngineClient]:
    opened = EngineClient(EngineTimeouts(stall=240, reply=240))
    yield opened
    await opened.close()


async def judged(
    client: EngineClient, judge: ManagedVllm, kind: EngineKind, query: Query, plan: CallPlan
) -> tuple[Completion, EngineCall]:
    call = client.open(CallRequest(Endpoint(judge.base_url, kind), query, plan, Branch(0), "test/0/1.1", priority=7))
    return await call.completion(lambda _: None), call


async def test_a_reward_model_is_well(judge: ManagedVllm) -> None:
    async with aiohttp.ClientSession() as session:
        profile = await probe(session, judge.base_url, timeout_seconds=60)

    assert profile.models == ("judge",)
    assert profile.is_vllm
    assert profile.max_model_len == 2048


@pytest.mark.parametrize("query", [PROMPT, CHAT], ids=["prompt", "chat"])
async def test_all_endpoints_of_one_model_agree(client: EngineClient, judge: ManagedVllm, query: Query) -> None:
    plan = reward_call(REWARD, " Yes, it is.", is_complete=True)
    rewards = {}
    for kind in KINDS:
        completion, call = await judged(client, judge, kind, query, plan)
        rewards[kind] = completion.reward
        assert completion.text == ""
        assert call.prompt_tokens > 5
        assert call.tokens == 0

    classified = rewards[EngineKind.VLLM_CLASSIFY]
    assert classified is not None
    assert 0 < classified < 1
    # One is put into [0, 1] by the engine, the other here.
    assert rewards[EngineKind.VLLM_POOLING] == pytest.approx(classified, abs=1e-4)
    if query is PROMPT:
        assert rewards[EngineKind.VLLM_SCORE] == pytest.approx(classified, abs=1e-4)


async def test_a_better_path_has_a_higher_reward(client: EngineClient, judge: ManagedVllm) -> None:
    rewards = []
    for country in ("France", "Japan"):
        query = replace(PROMPT, prompt=f"Is Paris in France? yes\nIs Rome in Japan? no\nIs Paris in {country}?")
        completion, _ = await judged(
            client, judge, EngineKind.VLLM_CLASSIFY, query, reward_call(REWARD, "", is_complete=True)
        )
        rewards.append(completion.reward or 0.0)

    assert rewards[0] > rewards[1]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_path_over_the_context_fails_with_its_reason(
    client: EngineClient, judge: ManagedVllm, kind: EngineKind
) -> None:
    with pytest.raises(EngineError) as raised:
        await judged(client, judge, kind, PROMPT, reward_call(REWARD, "word " * 3000, is_complete=False))

    assert raised.value.reason is EngineReason.PROMPT_TOO_LONG


async def test_a_reward_model_generates_nothing(client: EngineClient, judge: ManagedVllm) -> None:
    with pytest.raises(EngineError, match="answers 404"):
        await judged(client, judge, EngineKind.VLLM, replace(PROMPT, model="judge"), SAMPLE)
