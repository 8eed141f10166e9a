"""Calls that are lost with their worker, before or after their first token: made again once, counted once, booked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.local.ports import free_port
from dynasor_serve.rpc.channel import open_channel

from fakes.careless_worker import MODEL, TOKENS, Carelessness, CarelessWorker, careless_worker
from fakes.replay_process import SYNTHETIC_VOTES, running_replay
from fakes.running_stack import FAST, PATIENCE_SECONDS, RunningStack, asking, outcome_of, running_stack, until
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

SAMPLES = 4
ENVIRONMENT = {
    "DYNASOR_TRACKER_RETRY_BASE_SECONDS": "0.05",
    "DYNASOR_SCHEDULER_PROBE_INTERVAL_SECONDS": "0.2",
    "DYNASOR_SCHEDULER_PROBE_TIMEOUT_SECONDS": "2",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """Tests bring workers of their own beside its good one."""
    async with running_stack(environment=ENVIRONMENT) as running:
        yield running


async def register(stack: RunningStack, model: str, url: str, engine: str) -> None:
    worker = scheduler_pb2.Worker(name="worker-0", url=url, engine=engine, max_in_flight=SAMPLES)
    request = scheduler_pb2.RegisterWorkerRequest(pool=model, model=model, worker=worker)
    async with open_channel(f"127.0.0.1:{stack.local.ports['scheduler']}") as channel:
        await SchedulerServiceStub(channel).RegisterWorker(request, timeout=PATIENCE_SECONDS)


async def check_places_are_free(stack: RunningStack, model: str) -> None:
    """Nothing that was granted is believed to run still."""

    async def is_idle() -> bool:
        async with open_channel(f"127.0.0.1:{stack.local.ports['scheduler']}") as channel:
            pools = (await SchedulerServiceStub(channel).ListPools(scheduler_pb2.ListPoolsRequest(), timeout=5.0)).pools
        (pool,) = (pool for pool in pools if pool.name == model)
        return pool.waiting_calls == 0 and all(worker.in_flight == 0 for worker in pool.workers)

    await until(is_idle, what="the return of every place")


def counted(events: list[pb.QueryEvent]) -> list[int]:
    """The branches whose evidence counts, once for each time that it does."""
    return sorted(event.sample_finished.branch for event in events if event.HasField("sample_finished"))


def lost(events: list[pb.QueryEvent]) -> list[pb.CallFailed]:
    return [event.call_failed for event in events if event.HasField("call_failed")]


async def answered(stack: RunningStack, worker: CarelessWorker) -> list[pb.QueryEvent]:
    """The events of a query that the worker has answered in the end."""
    await register(stack, MODEL, worker.url, "external")
    events = await stack.run(asking("q00", samples=SAMPLES, model=MODEL))
    outcome = outcome_of(events)
    assert (outcome.answer, outcome.samples) == ("7", SAMPLES)
    assert counted(events) == list(range(SAMPLES)), "a branch counted twice, or not at all"
    await check_places_are_free(stack, MODEL)
    return events


@pytest.mark.parametrize(
    ("carelessness", "tokens"), [(Carelessness.VANISHES, 0), (Carelessness.BREAKS_OFF, len(TOKENS) - 1)]
)
async def test_a_call_that_is_lost_is_granted_again_under_a_new_attempt(
    stack: RunningStack, carelessness: Carelessness, tokens: int
) -> None:
    async with careless_worker(carelessness) as worker:
        events = await answered(stack, worker)

    query_id, attempts = events[0].query_id, ("1.1", "1.2")
    assert worker.asked == {f"{query_id}/{branch}/{attempt}": 1 for branch in range(SAMPLES) for attempt in attempts}
    assert sorted((call.branch, call.attempt, call.tokens) for call in lost(events)) == [
        (branch, "1.1", tokens) for branch in range(SAMPLES)
    ]
    ledger = outcome_of(events).ledger
    assert (ledger.tokens_lost, ledger.tokens_spent) == (SAMPLES * tokens, SAMPLES * (tokens + len(TOKENS)))


async def test_an_engine_that_says_everything_twice_counts_once(stack: RunningStack) -> None:
    async with careless_worker(Carelessness.REPEATS) as worker:
        events = await answered(stack, worker)

    assert worker.asked == {f"{events[0].query_id}/{branch}/1.1": 1 for branch in range(SAMPLES)}
    assert not lost(events)
    ledger = outcome_of(events).ledger
    assert (ledger.tokens_lost, ledger.tokens_spent) == (0, SAMPLES * len(TOKENS))


async def test_a_worker_that_is_killed_before_its_first_token_costs_nothing_but_time(
    stack: RunningStack, tmp_path: Path
) -> None:
    model, port = "mortal", free_port()
    traces = tmp_path / "mortal.jsonl"
    traces.write_text(SYNTHETIC_VOTES.read_text().replace('"model":"replay-model"', f'"model":"{model}"'))
    async with running_replay("--ttft-ms", "60000", "--port", str(port), traces=traces) as worker:
        await register(stack, model, worker.url, "replay")
        asked = asyncio.create_task(stack.run(asking("q01", samples=SAMPLES, model=model)))

        async def all_are_granted() -> bool:
            return await worker.metric("vllm:num_requests_running", model_name=model) == SAMPLES

        await until(all_are_granted, what="the grant of every call")
        worker.process.send_signal(signal.SIGKILL)
        await worker.process.wait()
    async with running_replay(*FAST, "--port", str(port), traces=traces):
        events = await asked

    outcome = outcome_of(events)
    assert outcome.answer in recorded("q01").winners(SAMPLES)
    assert counted(events) == list(range(SAMPLES))
    assert {call.branch for call in lost(events) if call.attempt == "1.1"} == set(range(SAMPLES))
    assert outcome.ledger.tokens_lost == 0
    assert outcome.ledger.tokens_spent == sum(recorded("q01").tokens[:SAMPLES])
    await check_places_are_free(stack, model)
