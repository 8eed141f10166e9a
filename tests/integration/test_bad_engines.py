"""Engines that are down, hang, break off or talk nonsense: every query ends typed, and no call is left running."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.local.ports import free_port
from dynasor_serve.local.stack import ReplayReward
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import reason_of

from fakes.replay_process import SYNTHETIC_VOTES, ReplayProcess, running_replay
from fakes.running_stack import (
    FAST,
    PATIENCE_SECONDS,
    RunningStack,
    asking,
    final_of,
    outcome_of,
    refused,
    running_stack,
    until,
)
from fakes.synthetic_votes import recorded

pytestmark = [pytest.mark.fault, pytest.mark.asyncio(loop_scope="module")]

STALL_SECONDS = "1"
IMPATIENT = {
    "DYNASOR_TRACKER_ENGINE_STALL_SECONDS": STALL_SECONDS,
    "DYNASOR_TRACKER_RETRY_BASE_SECONDS": "0.05",
    "DYNASOR_SCHEDULER_PROBE_INTERVAL_SECONDS": "0.2",
    "DYNASOR_SCHEDULER_PROBE_TIMEOUT_SECONDS": "2",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """A stack without much patience; tests bring engines of their own beside its good one."""
    async with running_stack(environment=IMPATIENT) as running:
        yield running


@asynccontextmanager
async def pool_of(
    stack: RunningStack, model: str, directory: Path, *flags: str, port: int = 0
) -> AsyncIterator[ReplayProcess]:
    """A pool of its own with one engine, which serves the fixture under another model's name."""
    traces = directory / f"{model}.jsonl"
    traces.write_text(SYNTHETIC_VOTES.read_text().replace('"model":"replay-model"', f'"model":"{model}"'))
    async with running_replay(*FAST, *flags, *(("--port", str(port)) if port else ()), traces=traces) as engine:
        worker = scheduler_pb2.Worker(name="worker-0", url=engine.url, engine="replay", max_in_flight=8)
        request = scheduler_pb2.RegisterWorkerRequest(pool=model, model=model, worker=worker)
        async with open_channel(f"127.0.0.1:{stack.local.ports['scheduler']}") as channel:
            await SchedulerServiceStub(channel).RegisterWorker(request, timeout=PATIENCE_SECONDS)
        yield engine


async def calls_in(engine: ReplayProcess, model: str) -> float:
    return await engine.metric("vllm:num_requests_running", model_name=model) + await engine.metric(
        "vllm:num_requests_waiting", model_name=model
    )


async def run_patiently(stack: RunningStack, query: pb.Query) -> list[pb.QueryEvent]:
    """Asks again while the engine is in quarantine, as the refusal says."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await stack.run(query)
            except grpc.aio.AioRpcError as error:
                if reason_of(error) != "NO_READY_WORKER":
                    raise
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("error-500", "ENGINE_FAILED", "500"),
        ("garbage", "ENGINE_GARBAGE", "no completion event"),
        ("cut-stream", "ENGINE_BROKE_OFF", "broke the stream off"),
        ("hang", "ENGINE_HUNG", f"sent nothing for {STALL_SECONDS} s"),
    ],
)
async def test_an_engine_that_always_fails_fails_the_query_with_its_reason(
    stack: RunningStack, tmp_path: Path, fault: str, reason: str, words: str
) -> None:
    async with pool_of(stack, fault, tmp_path, "--fault", f"{fault}:1") as engine:
        events = await stack.run(asking("q00", samples=2, width=2, model=fault))

        final = final_of(events)
        failures = [event.call_failed for event in events if event.HasField("call_failed")]
        assert final.phase == pb.QUERY_PHASE_FAILED
        assert final.outcome.error.reason == reason
        assert words in final.outcome.error.message
        assert engine.url in final.outcome.error.message or reason == "ENGINE_GARBAGE"
        assert len(failures) == 10, "each branch has five attempts"
        assert {failure.error.reason for failure in failures} == {reason}
        assert final.outcome.ledger.tokens_lost == final.outcome.ledger.tokens_spent
        assert await calls_in(engine, fault) == 0


async def test_an_engine_that_fails_now_and_then_costs_tokens_and_no_answer(
    stack: RunningStack, tmp_path: Path
) -> None:
    faults = ("error-500:0.04", "garbage:0.04", "cut-stream:0.04", "hang:0.01")
    flags = [part for fault in faults for part in ("--fault", fault)]
    names = [f"q{number:02}" for number in range(20)]
    async with pool_of(stack, "flaky", tmp_path, *flags) as engine:
        queries = [asking(name, samples=6, width=3, model="flaky") for name in names]
        ends = await asyncio.gather(*(run_patiently(stack, query) for query in queries))

        failures = 0
        for name, events in zip(names, ends, strict=True):
            outcome, question = outcome_of(events), recorded(name)
            failed = [event.call_failed for event in events if event.HasField("call_failed")]
            failures += len(failed)
            attempts = Counter(each.branch for each in failed)
            abandoned = [branch for branch, number in attempts.items() if number == 5]  # one in a thousand runs
            counted = [branch for branch in range(6) if branch not in abandoned]
            assert outcome.samples == len(counted)
            assert abandoned or outcome.answer in question.winners(6)
            assert outcome.ledger.tokens_lost == sum(each.tokens for each in failed)
            finished = sum(question.tokens[branch] for branch in counted)
            assert outcome.ledger.tokens_spent == finished + outcome.ledger.tokens_lost
        assert failures > 0, "nothing failed"
        assert await calls_in(engine, "flaky") == 0


async def test_an_engine_that_is_down_refuses_queries_until_it_is_back(stack: RunningStack, tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as lives:
        engine = await lives.enter_async_context(pool_of(stack, "mortal", tmp_path, port=port))
        outcome_of(await stack.run(asking("q00", samples=1, model="mortal")))
        engine.process.send_signal(signal.SIGKILL)
        await engine.process.wait()

        async def is_refused() -> bool:
            try:
                await stack.submit(asking("q00", samples=1, model="mortal"))
            except grpc.aio.AioRpcError:
                return True
            return False

        await until(is_refused, what="the quarantine")
        error = await refused(stack.submit(asking("q00", model="mortal")))

        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error) == "NO_READY_WORKER"
        assert f"127.0.0.1:{port}" in (error.details() or "")

        await lives.enter_async_context(pool_of(stack, "mortal", tmp_path, port=port))

        async def is_answered() -> bool:
            try:
                final_of(await stack.run(asking("q00", samples=1, model="mortal")))
            except grpc.aio.AioRpcError:
                return False
            return True

        await until(is_answered, what="the end of the quarantine")


async def test_a_query_whose_only_judge_is_down_is_refused_and_may_judge_itself(stack: RunningStack) -> None:
    best_of_two = pb.Algorithm(type_string="best-of-n:max_samples=2,width=2")
    query = asking("q00", model="replay-model", algorithm=best_of_two, policy=pb.Policy())
    query.deadline.FromSeconds(5)  # of those that are accepted before the judge is known to be down
    worker = scheduler_pb2.Worker(name="worker-0", url=f"http://127.0.0.1:{free_port()}", engine="vllm-classify")
    request = scheduler_pb2.RegisterWorkerRequest(pool="judges", model="judge", worker=worker)
    async with open_channel(f"127.0.0.1:{stack.local.ports['scheduler']}") as channel:
        await SchedulerServiceStub(channel).RegisterWorker(request, timeout=PATIENCE_SECONDS)

    async def is_refused() -> bool:
        try:
            await stack.submit(query)
        except grpc.aio.AioRpcError:
            return True
        return False

    await until(is_refused, what="the quarantine")
    error = await refused(stack.submit(query))
    query.reward.source = "own"
    own = outcome_of(await stack.run(query))

    assert reason_of(error) == "NO_READY_WORKER"
    assert worker.url in (error.details() or "")
    assert "reward.source own" in (error.details() or "")
    assert own.samples == 2


async def test_a_query_waits_for_an_engine_that_dies_and_comes_back(stack: RunningStack, tmp_path: Path) -> None:
    port, slow = free_port(), ("--time-per-output-token-ms", "5")
    async with AsyncExitStack() as lives:
        engine = await lives.enter_async_context(pool_of(stack, "lazarus", tmp_path, *slow, port=port))
        query_id = await stack.submit(asking("q01", samples=8, width=4, model="lazarus"))
        await stack.until_seen(query_id, "sample_finished")
        engine.process.send_signal(signal.SIGKILL)
        await engine.process.wait()
        await stack.until_seen(query_id, "call_failed")
        await asyncio.sleep(1.0)  # dead for a while: attempts must not run out on a worker known to be down

        await lives.enter_async_context(pool_of(stack, "lazarus", tmp_path, *slow, port=port))
        outcome = outcome_of(await stack.watch(query_id))

        assert outcome.samples == 8
        assert outcome.answer == recorded("q01").gold


async def test_a_query_whose_engine_stays_down_ends_at_its_deadline_and_says_why(
    stack: RunningStack, tmp_path: Path
) -> None:
    async with pool_of(stack, "gone", tmp_path, "--time-per-output-token-ms", "50") as engine:
        query = asking("q01", samples=8, model="gone")
        query.deadline.FromSeconds(4)
        query_id = await stack.submit(query)
        await stack.until_seen(query_id, "claimed")
        engine.process.send_signal(signal.SIGKILL)
        await engine.process.wait()

        final = final_of(await stack.watch(query_id))

        assert final.phase == pb.QUERY_PHASE_FAILED
        assert final.outcome.error.reason == "DEADLINE_EXCEEDED"
        assert final.outcome.error.retryable
        assert "last error: the engine at" in final.outcome.error.message


async def test_a_reward_model_that_never_answers_is_given_up_in_time() -> None:
    environment = {
        **IMPATIENT,
        "DYNASOR_TRACKER_ENGINE_STALL_SECONDS": "60",
        "DYNASOR_TRACKER_ENGINE_REPLY_SECONDS": "0.2",
    }
    reward = ReplayReward((SYNTHETIC_VOTES,), flags=("--fault", "hang:1"))
    algorithm = pb.Algorithm(type_string="best-of-n:max_samples=1")
    async with running_stack(environment=environment, reward=reward) as slow:
        events = await slow.run(asking("q00", algorithm=algorithm))

    failures = [event.call_failed.error for event in events if event.HasField("call_failed")]
    assert {failure.reason for failure in failures} == {"ENGINE_HUNG"}
    assert all("within 0.2 s" in failure.message for failure in failures)
    assert final_of(events).phase == pb.QUERY_PHASE_SUCCEEDED, "what cannot be judged counts as nothing"


@pytest.mark.parametrize(
    ("url", "says"), [("worker-0:8000", "is no URL"), ("http://me:secret@worker-0:8000", "engine_api_key")]
)
async def test_a_worker_that_cannot_be_asked_as_it_says_is_refused(stack: RunningStack, url: str, says: str) -> None:
    worker = scheduler_pb2.Worker(name="worker-9", url=url, engine="vllm")
    request = scheduler_pb2.RegisterWorkerRequest(pool="nowhere", model="none", worker=worker)
    async with open_channel(f"127.0.0.1:{stack.local.ports['scheduler']}") as channel:
        error = await refused(SchedulerServiceStub(channel).RegisterWorker(request, timeout=PATIENCE_SECONDS))

    assert reason_of(error) == "MALFORMED_REQUEST"
    assert says in (error.details() or "")
