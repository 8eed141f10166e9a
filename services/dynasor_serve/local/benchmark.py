"""What the control plane costs, measured on the real processes: CPU per query, added latency, CPU per streamed event,
calls per second, and the time from a verdict to the siblings' closed sockets.

CPU is that of the four processes alone, read from the kernel: client, Redis and engine are excluded.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.local.stack import ExternalOptions, LocalStack, ReplayOptions, StackOptions
from dynasor_serve.local.stalling_engine import BRANCHES, MODEL, SIBLINGS, Progress, StallingEngine
from dynasor_serve.local.vllm_options import Report

CONCURRENCY = 8
EVENTS = 4  # per sample
MANY_EVENTS = 204
SAMPLES = (1, 8)
_SERVICES = ("gateway", "tracker-0", "evaluator", "scheduler")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_AT_ONCE = ("--ttft-ms", "0", "--time-per-output-token-ms", "0")
_ONE_BY_ONE = ("--ttft-ms", "1", "--time-per-output-token-ms", "2")  # every event arrives by itself
_PROMPT = "[[trace:bench/number]] What is the number?"
MANY_QUERIES = 16  # at once, where calls per second are counted


@dataclass(frozen=True, slots=True)
class QueryCost:
    """CPU of one kind of query, in milliseconds per query."""

    samples: int
    gateway_ms: float
    tracker_ms: float
    evaluator_ms: float
    scheduler_ms: float

    @property
    def total_ms(self) -> float:
        return self.gateway_ms + self.tracker_ms + self.evaluator_ms + self.scheduler_ms


@dataclass(frozen=True, slots=True)
class Closing:
    """From a verdict to the closed socket of a sibling that was so far, in milliseconds."""

    progress: Progress
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """All figures; the design's targets are in docs/benchmarks.md."""

    query_costs: tuple[QueryCost, ...]
    bare_median_ms: float  # one call straight to the engine
    served_median_ms: float  # one query with one sample, from request to final event
    added_median_ms: float
    us_per_event: float  # tracker CPU
    calls_per_second: float  # client, Redis and engine on the same cores
    closings: tuple[Closing, ...]
    queries_per_run: int

    def as_json(self) -> str:
        values = asdict(self)
        for cost, of in zip(values["query_costs"], self.query_costs, strict=True):
            cost["total_ms"] = of.total_ms
        return json.dumps(values)


async def measure(queries: int, report: Report) -> BenchReport:
    """Runs all measurements with that many queries each."""
    with tempfile.TemporaryDirectory(prefix="dynasor-bench-") as directory:
        traces = Path(directory) / "bench.jsonl"
        traces.write_text(_trace_record() + "\n")
        async with _stack(traces, EVENTS, _AT_ONCE, report) as (stack, stub):
            costs = []
            for samples in SAMPLES:
                report(f"CPU per query, {samples} sample{'s'[: samples > 1]}, concurrency {CONCURRENCY}")
                costs.append(await _query_cost(stack, stub, samples, queries))
            report("added latency")
            bare, served = await _latencies(stack, stub, min(queries, 300))
            report(f"calls per second, {SAMPLES[-1]} samples, concurrency {MANY_QUERIES}")
            calls_per_second = await _calls_per_second(stub, queries)
        seconds = []
        for events in (EVENTS, MANY_EVENTS):
            async with _stack(traces, events, _ONE_BY_ONE, report) as (stack, stub):
                report(f"CPU per streamed event, {events} events")
                seconds.append(await _tracker_seconds(stack, stub, queries // 2))
    report("verdict to closed socket")
    closings = await _closings(max(50, queries // 2))
    return BenchReport(
        query_costs=tuple(costs),
        bare_median_ms=1e3 * statistics.median(bare),
        served_median_ms=1e3 * statistics.median(served),
        added_median_ms=1e3 * (statistics.median(served) - statistics.median(bare)),
        us_per_event=1e6 * (seconds[1] - seconds[0]) / (MANY_EVENTS - EVENTS),
        calls_per_second=calls_per_second,
        closings=closings,
        queries_per_run=queries,
    )


def _trace_record() -> str:
    samples = [{"answer": "42", "correct": True, "tokens": 2 * MANY_EVENTS, "finished": True} for _ in range(8)]
    record = {"dataset": "bench", "model": "bench-model", "question_id": "number", "gold": "42"}
    return json.dumps({**record, "tokens_kind": "exact", "samples": samples})


@asynccontextmanager
async def _stack(
    traces: Path, events: int, timing: tuple[str, ...], report: Report
) -> AsyncIterator[tuple[LocalStack, ReasoningServiceStub]]:
    flags = (*timing, "--events-per-response", str(events))
    options = StackOptions(ReplayOptions((traces,), flags, max_in_flight=256), log_level="WARNING")
    async with LocalStack(options, report) as stack, grpc.aio.insecure_channel(stack.gateway) as channel:
        stub = ReasoningServiceStub(channel)
        await _run_all(stub, _query(1), 50)  # warm: imports, connections, scripts
        yield stack, stub


def _query(samples: int) -> pb.Query:
    return pb.Query(
        prompt=_PROMPT,
        answer_type="number",
        policy=pb.Policy(rule="even"),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=samples, width=samples)),
    )


async def _run_one(stub: ReasoningServiceStub, query: pb.Query) -> float:
    began = time.perf_counter()
    finished = None
    async for response in stub.Run(pb.RunRequest(query=query), timeout=60.0):
        if response.event.HasField("finished"):
            finished = response.event.finished
    if finished is None or finished.phase != pb.QUERY_PHASE_SUCCEEDED:
        raise RuntimeError(f"a benchmark query was not answered: {finished}")
    return time.perf_counter() - began


async def _run_all(stub: ReasoningServiceStub, query: pb.Query, queries: int, concurrency: int = CONCURRENCY) -> None:
    left = iter(range(queries))

    async def client() -> None:
        for _ in left:
            await _run_one(stub, query)

    await asyncio.gather(*(client() for _ in range(concurrency)))


async def _query_cost(stack: LocalStack, stub: ReasoningServiceStub, samples: int, queries: int) -> QueryCost:
    before = {name: _cpu_seconds(stack, name) for name in _SERVICES}
    await _run_all(stub, _query(samples), queries)
    spent = [1e3 * (_cpu_seconds(stack, name) - before[name]) / queries for name in _SERVICES]
    return QueryCost(samples, *spent)


async def _calls_per_second(stub: ReasoningServiceStub, queries: int) -> float:
    began = time.perf_counter()
    await _run_all(stub, _query(SAMPLES[-1]), queries, MANY_QUERIES)
    return queries * SAMPLES[-1] / (time.perf_counter() - began)


async def _tracker_seconds(stack: LocalStack, stub: ReasoningServiceStub, queries: int) -> float:
    """CPU seconds of the tracker per query with one sample."""
    before = _cpu_seconds(stack, "tracker-0")
    await _run_all(stub, _query(1), queries)
    return (_cpu_seconds(stack, "tracker-0") - before) / queries


async def _latencies(stack: LocalStack, stub: ReasoningServiceStub, queries: int) -> tuple[list[float], list[float]]:
    """Seconds of single calls to the engine and of single queries with one sample, taken in turns, one at a time."""
    bare, served = [], []
    body = {"model": "bench-model", "prompt": _PROMPT, "stream": True, "max_tokens": 512}
    async with aiohttp.ClientSession() as session:
        for number in range(queries):
            began = time.perf_counter()
            headers = {"X-Request-Id": f"bench/0/{number}"}
            async with session.post(f"{stack.engine.url}/v1/completions", json=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            bare.append(time.perf_counter() - began)
            served.append(await _run_one(stub, _query(1)))
    return bare, served


async def _closings(queries: int) -> tuple[Closing, ...]:
    query = pb.Query(
        prompt="What is the number?",
        answer_type="number",
        policy=pb.Policy(rule="beta-posterior:confidence=0.95"),
        algorithm=pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=BRANCHES, width=BRANCHES)),
    )
    async with StallingEngine() as engine:
        options = StackOptions(ExternalOptions(engine.url, MODEL, max_in_flight=256), log_level="WARNING")
        async with LocalStack(options) as stack, grpc.aio.insecure_channel(stack.gateway) as channel:
            await _run_all(ReasoningServiceStub(channel), query, queries)
            await asyncio.sleep(0.5)
    return tuple(_closing(progress, engine.closing_seconds(progress)) for progress in SIBLINGS)


def _closing(progress: Progress, seconds: list[float]) -> Closing:
    return Closing(progress, 1e3 * seconds[len(seconds) // 2], 1e3 * seconds[int(len(seconds) * 0.99)])


def _cpu_seconds(stack: LocalStack, name: str) -> float:
    """User and system time of a process and of the children that it has waited for."""
    pid = stack.processes[name].pid
    if pid is None:
        raise RuntimeError(f"the {name} is not running; its log is {stack.data / 'logs' / name}.log")
    fields: Iterable[str] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return sum(map(int, fields)) / _TICKS_PER_SECOND
