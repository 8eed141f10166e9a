"""Each of the four processes by itself: how it starts, what it shows, and how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.local.ports import free_port
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.telemetry.metrics import METRICS

from fakes.running_stack import (
    PATIENCE_SECONDS,
    RunningStack,
    asking,
    final_of,
    kinds_of,
    outcome_of,
    refused,
    running_stack,
    until,
)
from fakes.synthetic_votes import recorded

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROCESSES = ("gateway", "tracker", "scheduler", "evaluator")
STATEFUL = PROCESSES[:3]
SERVICES = {
    "gateway": "dynasor_serve.api.reasoning.v1.ReasoningService",
    "tracker": "dynasor_serve.api.tracker.v1.TrackerService",
    "scheduler": "dynasor_serve.api.scheduler.v1.SchedulerService",
    "evaluator": "dynasor_serve.api.evaluator.v1.EvaluatorService",
}
#: A sample takes 0.2 to 2 s.
UNHURRIED = ("--ttft-ms", "5", "--time-per-output-token-ms", "5", "--stream-interval", "1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """A stack whose processes are stopped and come back; it drains quickly."""
    drains = {f"DYNASOR_{process.upper()}_DRAIN_SECONDS": "2" for process in PROCESSES}
    async with running_stack(*UNHURRIED, environment=drains) as running:
        yield running


def name_in_stack(process: str) -> str:
    return "tracker-0" if process == "tracker" else process


async def ended(process: str, *flags: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Starts a process that cannot run; returns its exit status and what it said."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"dynasor_serve.{process}", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), PATIENCE_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise AssertionError(f"the {process} goes on with {flags} {environment}") from None
    assert child.returncode is not None
    return child.returncode, output.decode()


# --- start


@pytest.mark.parametrize("process", STATEFUL)
async def test_without_redis_it_says_so_and_exits_1(process: str) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"

    status, output = await ended(process, environment={f"DYNASOR_{process.upper()}_REDIS_URL": url})

    assert status == 1
    assert "cannot start: Redis does not answer" in output
    assert str(port) in output
    assert "redis_url" in output
    assert "Traceback" not in output
    assert "Unclosed" not in output


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_misspelt_variable_is_refused_with_the_right_one(process: str) -> None:
    prefix = f"DYNASOR_{process.upper()}_"

    status, output = await ended(process, environment={f"{prefix}LOG_LEVLE": "INFO"})

    assert status == 2
    assert f"unknown environment variable {prefix}LOG_LEVLE; did you mean {prefix}LOG_LEVEL?" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("process", "setting", "value", "hint"),
    [
        ("gateway", "DEFAULT_RULE", "beta-posteriour", "did you mean 'beta-posterior'"),
        ("scheduler", "ORDERING", "shortest", "known are fcfs, gang-shortest"),
    ],
)
async def test_an_unknown_type_string_is_refused_at_start(process: str, setting: str, value: str, hint: str) -> None:
    status, output = await ended(process, environment={f"DYNASOR_{process.upper()}_{setting}": value})

    assert status == 1
    assert f"DYNASOR_{process.upper()}_{setting}" in output
    assert hint in output
    assert "Traceback" not in output


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_port_that_is_taken_is_named(stack: RunningStack, process: str) -> None:
    taken = f"127.0.0.1:{stack.local.ports['gateway']}"
    settings = {f"DYNASOR_{process.upper()}_LISTEN": taken}
    if process in STATEFUL:
        settings[f"DYNASOR_{process.upper()}_REDIS_URL"] = stack.local.redis_url

    status, output = await ended(process, environment=settings)

    assert status == 1
    assert f"cannot listen on {taken}" in output


# --- what it shows


@pytest.mark.parametrize("process", PROCESSES)
async def test_it_answers_health_checks_and_reflection(stack: RunningStack, process: str) -> None:
    address = f"127.0.0.1:{stack.local.ports[name_in_stack(process)]}"
    async with open_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICES[process]):
            request = health_pb2.HealthCheckRequest(service=service)
            response = await health.Check(request, timeout=PATIENCE_SECONDS)  # type: ignore[attr-defined]
            assert response.status == health_pb2.HealthCheckResponse.SERVING

        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = reflection.ServerReflectionInfo(iter([question]), timeout=PATIENCE_SECONDS)  # type: ignore[operator]
        names = {service.name async for answer in answers for service in answer.list_services_response.service}

    assert {SERVICES[process], "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names


@pytest.mark.parametrize("process", PROCESSES)
async def test_it_shows_every_metric_of_its_catalogue(stack: RunningStack, process: str) -> None:
    outcome_of(await stack.run(asking("q00", samples=2, rule="majority-locked")))

    text = await stack.metrics_of(name_in_stack(process))

    for metric in METRICS:
        if metric.process == process:
            assert f"# HELP {metric.name.removesuffix('_total')}" in text, f"{metric.name} is not shown"
    assert "process_cpu_seconds_total" in text


@pytest.mark.parametrize("process", PROCESSES)
async def test_its_log_lines_are_json_and_carry_the_query(stack: RunningStack, process: str) -> None:
    query_id = (await stack.run(asking("q00", samples=1)))[0].query_id

    async def is_written() -> bool:
        return process != "tracker" or query_id in stack.log_of("tracker-0")

    await until(is_written, what="the tracker's log line")
    lines = [line for line in stack.log_of(name_in_stack(process)).splitlines() if line.startswith("{")]
    assert lines
    assert all(f'"process": "{process}"' in line for line in lines)


# --- stop


@asynccontextmanager
async def terminated(stack: RunningStack, process: str) -> AsyncIterator[None]:
    """Sends SIGTERM, and afterwards waits until the process has ended well and its successor is ready."""
    name = name_in_stack(process)
    supervised = stack.local.processes[name]
    stops, restarts = stack.log_of(name).count('"stopped"'), supervised.restarts
    stack.kill(name, signal.SIGTERM)
    yield

    async def is_replaced() -> bool:
        return supervised.restarts > restarts

    await until(is_replaced, what=f"the end of the {process}")
    assert supervised.last_exit_status == 0
    assert stack.log_of(name).count('"stopped"') == stops + 1
    await supervised.ready()


@pytest.mark.parametrize("process", PROCESSES)
async def test_sigterm_ends_it_with_0_and_loses_nothing(stack: RunningStack, process: str) -> None:
    query_id = await stack.submit(asking("q02", samples=8, width=2))
    await stack.until_seen(query_id, "sample_finished")

    async with terminated(stack, process):
        pass

    async def is_followed() -> bool:
        try:
            await stack.get(query_id)
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_followed, what="the gateway")
    outcome = outcome_of(await stack.watch(query_id))
    assert outcome.samples == 8
    assert outcome.answer == recorded("q02").gold
    finished = sum(recorded("q02").tokens[:8])
    assert outcome.ledger.tokens_spent == finished + outcome.ledger.tokens_lost
    assert (outcome.ledger.tokens_lost > 0) == (process == "tracker" and outcome.ledger.tokens_spent > finished)


async def test_a_tracker_hands_back_what_it_cannot_finish_and_books_what_is_lost(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q30", samples=16, width=4))
    await stack.until_seen(query_id, "sample_finished")

    async with terminated(stack, "tracker"):
        pass
    events = await stack.watch(query_id)

    outcome = outcome_of(events)
    assert [event.claimed.epoch for event in events if event.HasField("claimed")] == [1, 2]
    assert outcome.samples == 16
    assert 0 < outcome.ledger.tokens_lost < 4 * 400
    assert outcome.ledger.tokens_spent == sum(recorded("q30").tokens) + outcome.ledger.tokens_lost


async def test_a_tracker_lets_short_programs_finish_before_it_ends(stack: RunningStack) -> None:
    query_id = await stack.submit(asking("q03", samples=1))
    await stack.until_seen(query_id, "claimed")

    async with terminated(stack, "tracker"):
        pass

    events = await stack.watch(query_id)
    assert kinds_of(events) == ["accepted", "claimed", "sample_finished", "finished"]


async def test_a_run_goes_on_within_the_gateways_grace_and_beyond_it_with_watch(stack: RunningStack) -> None:
    seen: list[pb.QueryEvent] = []

    async def run() -> None:
        request = pb.RunRequest(query=asking("q31", samples=16, width=4))
        async for response in stack.stub.Run(request, timeout=PATIENCE_SECONDS):
            seen.append(response.event)  # noqa: PERF401 - it is looked at while it grows

    running = asyncio.create_task(refused(run()))

    async def has_begun() -> bool:
        return "sample_finished" in kinds_of(seen)

    await until(has_begun)
    so_far = len(seen)
    async with terminated(stack, "gateway"):
        broken = await running
    rest = await stack.watch(seen[0].query_id, seen[-1].sequence + 1)

    assert broken.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert len(seen) > so_far, "the stream ended at once"
    events = seen + rest
    assert [event.sequence for event in events] == list(range(len(events)))
    assert final_of(events).outcome.samples == 16
