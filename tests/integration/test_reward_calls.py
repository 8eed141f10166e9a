"""Calls to reward models over real HTTP: answers, faults, closing. The fake engine has vLLM's formats;
`tests/engine/test_rewards.py` asks a real one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.engines.client import CallRequest, Endpoint, EngineCall, EngineClient, EngineTimeouts
from dynasor_serve.engines.errors import EngineError, EngineReason
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.local.stack import ExternalOptions, LocalStack, ReplayOptions, StackOptions
from dynasor_serve.programs.calls import CallPlan, Judge
from dynasor_serve.programs.query import Branch, Message, Query, RewardParameters
from dynasor_serve.rpc.channel import open_channel

from fakes.fake_engine import FakeEngine, fake_engine
from fakes.running_stack import FAST, TRACES, asking, outcome_of

QUERY = Query(model="model", rule="even", messages=(Message("user", "2 + 2?"),), reward=RewardParameters(model="judge"))
PATH = CallPlan(continuation="It is 4.", judge=Judge.MODEL, max_tokens=1)
PATIENCE_SECONDS = 10.0


def answer(**value: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"index": 0, **value}], "usage": {"prompt_tokens": 21, "total_tokens": 21}}


@asynccontextmanager
async def judged(
    engine: FakeEngine, kind: EngineKind = EngineKind.VLLM_CLASSIFY, **timeouts: float
) -> AsyncIterator[EngineCall]:
    """A call that is not yet awaited."""
    client = EngineClient(EngineTimeouts(**timeouts))
    try:
        yield client.open(CallRequest(Endpoint(engine.url, kind), QUERY, PATH, Branch(0), "query/0/1.1"))
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        (EngineKind.VLLM_CLASSIFY, "/classify", {"label": "yes", "probs": [0.2, 0.8], "num_classes": 2}),
        (EngineKind.VLLM_SCORE, "/score", {"object": "score", "score": 0.8}),
        (EngineKind.VLLM_POOLING, "/pooling", {"object": "pooling", "data": [[-2.0], [1.3862943611198906]]}),
    ],
)
async def test_a_reward_model_judges_a_path(kind: EngineKind, path: str, value: dict[str, Any]) -> None:
    async with fake_engine(answers={path: answer(**value)}) as engine, judged(engine, kind) as call:
        completion = await call.completion(lambda _: None)

    assert completion.reward == pytest.approx(0.8)
    assert (completion.text, completion.finish_reason) == ("", "stop")
    assert (call.tokens, call.prompt_tokens) == (0, 21)
    assert [asked for asked, _ in engine.asked] == [path]


async def test_a_value_that_is_no_probability_fails_the_call() -> None:
    async with fake_engine(answers={"/classify": '{"data": [{"probs": [NaN]}]}'}) as engine, judged(engine) as call:
        with pytest.raises(EngineError, match="gives nan") as raised:
            await call.completion(lambda _: None)

    assert raised.value.reason is EngineReason.REWARD_INVALID
    assert engine.url in str(raised.value)


async def test_a_worker_without_the_endpoint_is_named() -> None:
    async with fake_engine() as engine, judged(engine) as call:
        with pytest.raises(EngineError, match="answers 404: Not Found; it lacks the model or /classify") as raised:
            await call.completion(lambda _: None)

    assert raised.value.reason is EngineReason.MODEL_NOT_SERVED


async def test_a_judgement_that_hangs_is_given_up_sooner_than_a_stream() -> None:
    async with fake_engine(held={"/classify": asyncio.Event()}) as engine, judged(engine, reply=0.2) as call:
        with pytest.raises(EngineError, match=r"did not answer /classify within 0\.2 s") as raised:
            await call.completion(lambda _: None)

        assert raised.value.reason is EngineReason.ENGINE_HUNG
        assert raised.value.is_retryable
        await asyncio.wait_for(engine.hung_up.wait(), PATIENCE_SECONDS)


async def test_closing_hangs_up_on_a_reward_model() -> None:
    async with fake_engine(held={"/classify": asyncio.Event()}) as engine, judged(engine) as call:
        running = asyncio.create_task(call.completion(lambda _: None))
        while not engine.asked:  # noqa: ASYNC110 - what it awaits is another coroutine's list
            await asyncio.sleep(0.005)
        call.close()

        await asyncio.wait_for(engine.hung_up.wait(), PATIENCE_SECONDS)
        with pytest.raises(EngineError, match="was closed"):
            await running


async def test_a_reward_model_that_is_down_is_unavailable() -> None:
    async with fake_engine() as engine:
        pass
    async with judged(engine) as call:
        with pytest.raises(EngineError, match="cannot be reached") as raised:
            await call.completion(lambda _: None)

    assert raised.value.reason is EngineReason.ENGINE_UNAVAILABLE


async def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynasor_serve.engines.transport.MAX_REPLY_BYTES", 1000)
    async with fake_engine(answers={"/classify": "9" * 100_000}) as engine, judged(engine) as call:
        with pytest.raises(EngineError, match="more than 1000 bytes in one answer") as raised:
            await call.completion(lambda _: None)

    assert raised.value.reason is EngineReason.ENGINE_GARBAGE


@asynccontextmanager
async def guarded_judge(api_key: str) -> AsyncIterator[str]:
    """The URL of a reward model that answers those with the key only."""

    async def answered(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {api_key}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [{"id": "judge", "owned_by": "vllm"}]})
        return web.json_response(answer(probs=[0.2, 0.8]))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answered)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_local_stack_has_the_key_of_its_reward_model() -> None:
    async with guarded_judge("secret") as url:
        reward = ExternalOptions(url, kind=EngineKind.VLLM_CLASSIFY, api_key="secret")
        async with (
            LocalStack(StackOptions(ReplayOptions(TRACES, flags=FAST), reward=reward)) as stack,
            open_channel(stack.gateway) as channel,
        ):
            algorithm = pb.Algorithm(type_string="best-of-n:max_samples=1")
            query = asking("q00", algorithm=algorithm, policy=pb.Policy(rule="reward-threshold:max=0.7,detect=1"))
            call = ReasoningServiceStub(channel).Run(pb.RunRequest(query=query), timeout=PATIENCE_SECONDS)
            outcome = outcome_of([response.event async for response in call])

    assert outcome.certaindex == pytest.approx(0.8)
