"""Chains that lose their tracker or their worker's stream: they go on where their text is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb

from fakes.running_stack import RunningStack, kinds_of, outcome_of, running_stack, sample, until
from fakes.synthetic_chains import CHAINS, asking_chain, write_wandering_chain

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

TOKENS, INTERVAL = 4000, 128
NEVER = f"consensus-window:window=64,interval={INTERVAL}"
#: 4,000 tokens take some 8 s.
STREAMED = ("--ttft-ms", "2", "--time-per-output-token-ms", "2", "--stream-interval", "8")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningStack]:
    trace: Path = tmp_path_factory.mktemp("traces") / "long.jsonl"
    write_wandering_chain(trace, tokens=TOKENS, interval=INTERVAL)
    environment = {"DYNASOR_TRACKER_LEASE_SECONDS": "4"}
    flags = (*STREAMED, "--max-model-len", "8192")
    async with running_stack(*flags, trackers=2, environment=environment, traces=(CHAINS, trace)) as running:
        yield running


async def until_position(stack: RunningStack, query_id: str, position: int) -> str:
    """Waits until a chain has been checkpointed that far; returns its owner."""
    owner = ""
    request = pb.WatchRequest(query_id=query_id)
    call = stack.stub.Watch(request, timeout=60)
    async for response in call:
        event = response.event
        if event.HasField("claimed"):
            owner = event.claimed.tracker
        if event.HasField("checkpointed") and event.checkpointed.position >= position:
            call.cancel()
            return owner
    raise AssertionError("the chain ended first")


async def generated(stack: RunningStack) -> float:
    return sample(await stack.metrics(stack.local.engine.url), "vllm:generation_tokens_total")


async def test_a_chain_of_4000_tokens_outlives_its_tracker_and_repeats_no_more_than_an_interval(
    stack: RunningStack,
) -> None:
    before = await generated(stack)
    query_id = await stack.submit(asking_chain("wandering", rule=NEVER))
    owner = await until_position(stack, query_id, TOKENS // 2)
    stack.kill(owner)
    events = await stack.watch(query_id)
    outcome = outcome_of(events)

    owners = [event.claimed.tracker for event in events if event.HasField("claimed")]
    assert len(owners) >= 2
    assert (outcome.answer, outcome.stop_reason) == ("7", "cap")
    positions = [event.checkpointed.position for event in events if event.HasField("checkpointed")]
    assert positions == sorted(positions)
    assert positions[-1] <= TOKENS

    # What the engine generated beyond the chain and its probes was generated twice.
    ledger = outcome.ledger
    repeated = await generated(stack) - before - TOKENS - ledger.tokens_probes
    assert repeated <= INTERVAL + 4 * 8, "an interval, a probe that was cut off, and what was on its way"
    assert ledger.tokens_spent == TOKENS + ledger.tokens_probes + ledger.tokens_lost + ledger.tokens_cancelled
    assert ledger.tokens_lost <= INTERVAL + 4 * 8


async def test_the_text_of_a_chain_that_was_taken_over_is_that_of_one_that_was_not(stack: RunningStack) -> None:
    await asyncio.gather(*(process.ready() for process in stack.local.processes.values()))
    untouched = outcome_of(await stack.run(asking_chain("diverging", rule=NEVER)))
    query_id = await stack.submit(asking_chain("diverging", rule=NEVER))
    stack.kill(await until_position(stack, query_id, 256))
    taken_over = outcome_of(await stack.watch(query_id))
    assert taken_over.text == untouched.text
    assert taken_over.answer == untouched.answer


async def test_an_engine_that_dies_in_the_middle_costs_an_interval(stack: RunningStack) -> None:
    await asyncio.gather(*(process.ready() for process in stack.local.processes.values()))
    query_id = await stack.submit(asking_chain("wandering", rule=NEVER))
    await until_position(stack, query_id, 1000)
    stack.kill("engine")
    outcome = outcome_of(events := await stack.watch(query_id))
    assert outcome.answer == "7"
    assert "call_failed" in kinds_of(events)
    assert outcome.ledger.tokens_lost <= INTERVAL + 4 * 8


async def test_a_cancelled_chain_leaves_nothing_in_the_engine(stack: RunningStack) -> None:
    await asyncio.gather(*(process.ready() for process in stack.local.processes.values()))
    query_id = await stack.submit(asking_chain("wandering", rule=NEVER))
    await until_position(stack, query_id, 500)
    await stack.cancel(query_id)
    events = await stack.watch(query_id)
    assert events[-1].finished.phase == pb.QUERY_PHASE_CANCELLED
    assert events[-1].finished.outcome.answer, "the last probe's"

    async def is_quiet() -> bool:
        return await stack.calls_in_engine() == 0

    await until(is_quiet, within_seconds=5, what="the engine's rest")
