"""The whole system in processes of its own, and a client of it, for tests.

async with running_stack() as stack:
    outcome = outcome_of(await stack.run(asking("q20")))
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from redis.asyncio import Redis

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.local.stack import LocalStack, ReplayOptions, ReplayReward, StackOptions
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.state.redis_client import connect

from fakes.replay_process import SYNTHETIC_VOTES
from fakes.synthetic_votes import recorded

TRACES = (SYNTHETIC_VOTES, SYNTHETIC_VOTES.with_name("synthetic-algebra.jsonl"))

#: A sample of 40 to 400 tokens takes 12 to 80 ms.
FAST = ("--ttft-ms", "5", "--time-per-output-token-ms", "0.2")
#: A sample takes 1 to 8 s: long enough to be interrupted.
SLOW = ("--ttft-ms", "5", "--time-per-output-token-ms", "20", "--stream-interval", "1")

PATIENCE_SECONDS = 30.0  # for one query, on a machine that is busy with other tests


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running stack.

    Attributes:
        local: the processes.
        channel: to its gateway.
        stub: of its gateway.
        redis: its state.
        http: a client session.
    """

    local: LocalStack
    channel: grpc.aio.Channel
    stub: ReasoningServiceStub
    redis: Redis
    http: aiohttp.ClientSession

    async def run(self, query: pb.Query, **fields: Any) -> list[pb.QueryEvent]:
        """Asks and returns all events."""
        request = pb.RunRequest(query=query, **fields)
        return [response.event async for response in self.stub.Run(request, timeout=PATIENCE_SECONDS)]

    async def submit(self, query: pb.Query) -> str:
        """Asks and returns the query's id."""
        return (await self.stub.Submit(pb.SubmitRequest(query=query), timeout=PATIENCE_SECONDS)).query_id

    async def watch(self, query_id: str, from_sequence: int = 0, **fields: Any) -> list[pb.QueryEvent]:
        """Follows a query to its end."""
        request = pb.WatchRequest(query_id=query_id, from_sequence=from_sequence, **fields)
        return [response.event async for response in self.stub.Watch(request, timeout=PATIENCE_SECONDS)]

    async def get(self, query_id: str) -> pb.QueryState:
        """The query as it stands."""
        return (await self.stub.Get(pb.GetRequest(query_id=query_id), timeout=PATIENCE_SECONDS)).state

    async def cancel(self, query_id: str, reason: str = "") -> int:
        """Asks the query to end; returns its phase."""
        request = pb.CancelRequest(query_id=query_id, reason=reason)
        return (await self.stub.Cancel(request, timeout=PATIENCE_SECONDS)).phase

    async def until_seen(self, query_id: str, kind: str) -> pb.QueryEvent:
        """The query's first event of a kind."""
        request = pb.WatchRequest(query_id=query_id)
        call = self.stub.Watch(request, timeout=PATIENCE_SECONDS)
        async for response in call:
            if response.event.WhichOneof("event") == kind:
                call.cancel()
                return response.event
        raise AssertionError(f"query {query_id} ended without a {kind} event")

    async def calls_in_engine(self) -> float:
        """Calls that run or wait in the engine, as its own metrics say."""
        text = await self.metrics(self.local.engine.url)
        return sample(text, "vllm:num_requests_running") + sample(text, "vllm:num_requests_waiting")

    async def metrics_of(self, process: str) -> str:
        """The metrics page of one of the four processes."""
        return await self.metrics(f"http://127.0.0.1:{self.local.metrics_ports[process]}")

    async def metrics(self, url: str) -> str:
        """A metrics page."""
        async with self.http.get(f"{url}/metrics") as response:
            assert response.status == 200, f"{url}/metrics answers {response.status}"
            return await response.text()

    def kill(self, process: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to one process; returns its id."""
        pid = self.local.processes[process].pid
        assert pid is not None, f"{process} does not run"
        os.kill(pid, number)
        return pid

    def log_of(self, process: str) -> str:
        """What a process has written."""
        return (self.local.data / "logs" / f"{process}.log").read_text()


@asynccontextmanager
async def running_stack(
    *flags: str,
    trackers: int = 1,
    schedulers: int = 1,
    max_in_flight: int = 64,
    environment: Mapping[str, str] | None = None,
    data: Path | None = None,
    traces: tuple[Path, ...] = TRACES,
    reward: ReplayReward | None = None,
) -> AsyncIterator[RunningStack]:
    """Runs a stack with a replay engine on the synthetic traces.

    Args:
        *flags: of the replay engine; `FAST` where none are given.
        environment: further settings of the processes.
        data: where it keeps state and logs; a temporary directory where it is left out.
        traces: what the engine answers from.
        reward: stands in for a reward model, in a pool of its own.
    """
    engine = ReplayOptions(traces, flags=flags or FAST, max_in_flight=max_in_flight)
    options = StackOptions(
        engine, reward=reward, data=data, trackers=trackers, schedulers=schedulers, environment=environment or {}
    )
    async with (
        LocalStack(options) as local,
        open_channel(local.gateway) as channel,
        connect(local.redis_url) as redis,
        aiohttp.ClientSession() as http,
    ):
        yield RunningStack(local, channel, ReasoningServiceStub(channel), redis, http)


def asking(question: str, *, samples: int = 16, width: int = 4, rule: str = "even", **fields: Any) -> pb.Query:
    """A query about a question of the fixture."""
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content=recorded(question).marker)])
    algorithm = pb.Algorithm(self_consistency=pb.SelfConsistency(max_samples=samples, width=width))
    defaults = {"chat": chat, "answer_type": "number", "algorithm": algorithm, "policy": pb.Policy(rule=rule)}
    return pb.Query(**{**defaults, **fields})


def kinds_of(events: list[pb.QueryEvent]) -> list[str]:
    """What happened, in order."""
    return [str(event.WhichOneof("event")) for event in events]


def final_of(events: list[pb.QueryEvent]) -> pb.Finished:
    """The final event, which is the last and the only one of its kind."""
    finals = [event for event in events if event.HasField("finished")]
    assert len(finals) == 1, f"{len(finals)} final events in {kinds_of(events)}"
    assert events[-1] is finals[0], f"events after the final one: {kinds_of(events)}"
    return finals[0].finished


def outcome_of(events: list[pb.QueryEvent]) -> pb.Outcome:
    """How a query that succeeded ended."""
    final = final_of(events)
    assert final.phase == pb.QUERY_PHASE_SUCCEEDED, f"the query ended otherwise: {final}"
    return final.outcome


def sample(metrics: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that carry these labels."""
    values = [
        float(found[2])
        for found in re.finditer(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", metrics, re.MULTILINE)
        if all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items())
    ]
    assert values, f"no metric {name} with {labels}"
    return sum(values)


async def until(
    condition: Callable[[], Awaitable[bool]], *, within_seconds: float = PATIENCE_SECONDS, what: str = "it"
) -> None:
    """Waits for an awaited condition; fails where it does not hold in time."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < within_seconds, f"{what} did not happen within {within_seconds:g} s"
        await asyncio.sleep(0.02)


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error of a call that must not succeed."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call succeeded: {answer}")
