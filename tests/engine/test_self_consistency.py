"""Self-consistency end to end on a real vLLM: the four processes, a real Redis-protocol server, a real engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.engines.client import CallRequest, Endpoint, EngineClient, EngineTimeouts
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.local.questions.prompts import SHORT_ANSWER
from dynasor_serve.local.stack import ExternalOptions, LocalStack, StackOptions
from dynasor_serve.local.vllm_engine import ManagedVllm
from dynasor_serve.programs.calls import SAMPLE
from dynasor_serve.programs.query import Branch, Query, SamplingParameters

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300, func_only=True)]

MAX_SAMPLES, WIDTH = 16, 4


@dataclass(frozen=True, slots=True)
class Served:
    """A stack in front of the real engine."""

    stack: LocalStack
    stub: ReasoningServiceStub

    async def run(self, query: pb.Query) -> list[pb.QueryEvent]:
        """All events of a query."""
        return [response.event async for response in self.stub.Run(pb.RunRequest(query=query), timeout=240)]


@pytest_asyncio.fixture
async def served(vllm: ManagedVllm) -> AsyncIterator[Served]:
    options = StackOptions(ExternalOptions(vllm.base_url, vllm.model, EngineKind.VLLM_CPU))
    async with LocalStack(options) as stack, grpc.aio.insecure_channel(stack.gateway) as channel:
        yield Served(stack, ReasoningServiceStub(channel))


def vote_on(question: str, **fields: object) -> pb.Query:
    """A query as the demo asks it."""
    return pb.Query(
        prompt=SHORT_ANSWER.prompt(question),
        sampling=pb.SamplingParameters(
            temperature=SHORT_ANSWER.temperature, max_tokens=SHORT_ANSWER.max_tokens, stop=SHORT_ANSWER.stop
        ),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=MAX_SAMPLES, width=WIDTH)),
        **fields,  # type: ignore[arg-type]
    )


def long_story() -> pb.Query:
    """Calls that run for many seconds each."""
    return pb.Query(
        prompt="Once upon a time there was a river that",
        sampling=pb.SamplingParameters(max_tokens=1500),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=WIDTH, width=WIDTH)),
    )


async def running_requests(http: aiohttp.ClientSession) -> float:
    """What the engine itself says it is working on."""
    async with http.get("/metrics") as response:
        text = await response.text()
    return sum(map(float, re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)))


async def test_a_question_the_model_is_sure_of_stops_early(served: Served) -> None:
    events = await served.run(vote_on("What is 2 + 2?", answer_type="number"))
    finished = events[-1].finished
    outcome = finished.outcome
    samples = [event.sample_finished for event in events if event.HasField("sample_finished")]
    assert finished.phase == pb.QUERY_PHASE_SUCCEEDED
    assert [event.sequence for event in events] == list(range(len(events)))
    assert outcome.answer == "4"
    assert outcome.stop_reason == "stop-certain"
    assert outcome.samples < MAX_SAMPLES
    assert outcome.ledger.tokens_spent == sum(sample.tokens for sample in samples) + outcome.ledger.tokens_cancelled
    assert outcome.ledger.tokens_saved_estimate > 0
    assert sum(vote.count for vote in outcome.votes) == outcome.samples == len(samples)


async def test_the_fixed_budget_takes_every_sample(served: Served) -> None:
    events = await served.run(vote_on("What is 2 + 2?", answer_type="number", policy=pb.Policy(rule="even")))
    outcome = events[-1].finished.outcome
    assert (outcome.stop_reason, outcome.samples) == ("cap", MAX_SAMPLES)
    assert outcome.ledger.tokens_cancelled == 0
    assert outcome.ledger.cached_prompt_tokens > 0, "branches of one program share their prompt's prefix"


async def test_a_cancel_reaches_the_engine(served: Served, http: aiohttp.ClientSession) -> None:
    query_id = (await served.stub.Submit(pb.SubmitRequest(query=long_story()))).query_id
    while await running_requests(http) < WIDTH:  # noqa: ASYNC110 the engine is another process
        await asyncio.sleep(0.1)
    await asyncio.sleep(1.0)
    await served.stub.Cancel(pb.CancelRequest(query_id=query_id, reason="the test has seen enough"))
    async with asyncio.timeout(30):  # on a busy CPU vLLM aborts within about two seconds
        while await running_requests(http):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    watch = served.stub.Watch(pb.WatchRequest(query_id=query_id), timeout=60)
    finished = [response.event async for response in watch][-1].finished
    assert finished.phase == pb.QUERY_PHASE_CANCELLED
    assert 0 < finished.outcome.ledger.tokens_cancelled == finished.outcome.ledger.tokens_spent


async def test_live_text_is_what_the_engine_wrote(served: Served) -> None:
    query = pb.Query(
        prompt="The three primary colours are",
        sampling=pb.SamplingParameters(max_tokens=24),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=1)),
    )
    run = served.stub.Run(pb.RunRequest(query=query, include_text=True), timeout=240)
    events = [response.event async for response in run]
    deltas = [event.text_delta for event in events if event.HasField("text_delta")]
    text = events[-1].finished.outcome.text
    assert text
    # Listening begins after the claim, so the first deltas may be missed; what is heard is in its place.
    assert all(text[delta.offset : delta.offset + len(delta.text)] == delta.text for delta in deltas)


async def test_a_prompt_over_the_context_fails_with_its_reason(served: Served) -> None:
    events = await served.run(pb.Query(prompt="word " * 3000, sampling=pb.SamplingParameters(max_tokens=8)))
    finished = events[-1].finished
    assert finished.phase == pb.QUERY_PHASE_FAILED
    assert finished.outcome.error.reason == "PROMPT_TOO_LONG"
    assert "2048" in finished.outcome.error.message


async def test_a_seed_never_reaches_a_cpu_engine(served: Served, http: aiohttp.ClientSession) -> None:
    events = await served.run(pb.Query(prompt="Hello", sampling=pb.SamplingParameters(max_tokens=4, seed=7)))
    assert events[-1].finished.outcome.error.reason == "PARAMETER_UNSUPPORTED"
    async with http.get("/health") as response:
        assert response.status == 200


async def test_the_client_reads_token_ids_and_running_usage(vllm: ManagedVllm) -> None:
    client = EngineClient(EngineTimeouts())
    query = Query(model=vllm.model, rule="even", prompt="One, two,", sampling=SamplingParameters(max_tokens=12))
    request = CallRequest(
        Endpoint(vllm.base_url, EngineKind.VLLM_CPU),
        query,
        SAMPLE,
        Branch(0),
        request_id="test/0/1.1",
        priority=5,
        return_token_ids=True,
    )
    running_usage: list[int] = []
    try:
        call = client.open(request)
        completion = await call.completion(lambda _: running_usage.append(call.tokens))
    finally:
        await client.close()
    assert completion.text.strip()
    assert len(call.token_ids) == call.tokens > 0
    assert call.prompt_tokens > 0
    assert running_usage == sorted(running_usage), "usage only grows"
    assert len(set(running_usage)) > 2, "usage is told while the call runs"
