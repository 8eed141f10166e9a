"""kill -9 of any process at any moment: no accepted query is lost, and each gets exactly one final record."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc
import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.programs.events import Accepted, CallFinished, Claimed, Finished, Phase
from dynasor_serve.programs.program import finish, fold_log
from dynasor_serve.programs.query import QueryId
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import ProgramLog

from fakes.running_stack import RunningStack, asking, running_stack, until
from fakes.synthetic_votes import recorded, recorded_questions

pytestmark = [pytest.mark.fault]

# Process -> how often it is chosen. All are killed; those that hold work are killed more often.
VICTIMS = {
    "tracker-0": 3,
    "tracker-1": 3,
    "gateway": 2,
    "scheduler": 2,
    "scheduler-1": 2,
    "engine": 1,
    "redis": 1,
    "evaluator": 1,
}
TENANTS = ("ada", "grace")  # of different shards
SAMPLES = 8
CONCURRENCY = 300  # queries that the client keeps open: more per shard than a tracker claims at once
KILLS = 40

_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
_CALL_SECONDS = 20.0


@dataclass(slots=True)
class Client:
    """Asks one query until it is accepted and follows it until it is final, through any outage.

    Attributes:
        query_id: once it is accepted.
        events: as seen, without the accepted one's repetition.
    """

    stack: RunningStack
    query: pb.Query
    query_id: str = ""
    events: list[pb.QueryEvent] = field(default_factory=list)

    async def run(self) -> pb.Finished:
        """The final event."""
        while True:
            try:
                if not self.query_id:
                    self.query_id = await self.stack.submit(self.query)
                request = pb.WatchRequest(query_id=self.query_id, from_sequence=len(self.events))
                async for response in self.stack.stub.Watch(request, timeout=_CALL_SECONDS):
                    assert response.event.sequence == len(self.events), "a watch skipped or repeated an event"
                    self.events.append(response.event)
                if self.events[-1].HasField("finished"):
                    return self.events[-1].finished
            except grpc.aio.AioRpcError as error:
                if error.code() not in _RETRIED:
                    raise
            await asyncio.sleep(random.uniform(0.05, 0.3))


async def killing(stack: RunningStack, seed: int, *, mean_seconds: float) -> Counter[str]:
    """Kills processes at random moments, each at least once; returns how often each died, also when cancelled."""
    chance, killed = random.Random(seed), Counter[str]()
    coming = list(VICTIMS)
    chance.shuffle(coming)
    coming += chance.choices(list(VICTIMS), list(VICTIMS.values()), k=KILLS - len(coming))
    with contextlib.suppress(asyncio.CancelledError):
        for victim in coming:
            await asyncio.sleep(chance.expovariate(1 / mean_seconds))
            if stack.local.processes[victim].pid is not None:  # else it has not risen from its last death
                stack.kill(victim)
                killed[victim] += 1
    return killed


async def run_under_fire(stack: RunningStack, queries: int, *, seed: int, mean_seconds: float) -> list[Client]:
    """Runs so many queries while processes die; returns their clients once all are final."""
    names = [name for name in recorded_questions() if name.startswith("q")]
    turns = asyncio.Semaphore(CONCURRENCY)
    clients = [
        Client(
            stack,
            asking(
                names[number % len(names)],
                samples=SAMPLES,
                rule="majority-locked",
                tenant=TENANTS[number % len(TENANTS)],
                idempotency_key=f"query-{number}",
            ),
        )
        for number in range(queries)
    ]

    async def take_turn(client: Client) -> None:
        async with turns:
            await client.run()

    began = time.monotonic()
    killer = asyncio.create_task(killing(stack, seed, mean_seconds=mean_seconds))
    try:
        await asyncio.gather(*map(take_turn, clients))
    finally:
        killer.cancel()
        killed = await killer
        seconds = time.monotonic() - began
        print(f"{queries} queries in {seconds:.0f} s, {killed.total()} kills: {dict(killed)}")
    assert killed.total() >= len(VICTIMS), "the queries were over before the killing had begun"
    return clients


async def check_log(log: ProgramLog, client: Client) -> None:
    """The log in Redis is complete, ends once, and its end follows from what is before it."""
    query_id = QueryId(client.query_id)
    records = await log.read(query_id)
    events = [record.event for record in records]
    kinds = [type(event).__name__ for event in events]
    assert kinds.count("Finished") == 1, f"{query_id}: {kinds}"
    assert kinds.count("Accepted") == 1, f"{query_id}: {kinds}"
    *before, last = events
    assert isinstance(events[0], Accepted)
    assert isinstance(last, Finished)
    assert [event.sequence for event in client.events] == list(range(len(events))), "the client saw another log"

    epochs = [event.epoch for event in events if isinstance(event, Claimed)]
    assert epochs == list(range(1, len(epochs) + 1)), f"{query_id}: claims of epochs {epochs}"
    entry = await log.entry(query_id)
    assert entry is not None
    assert entry.phase is last.outcome.phase

    program = fold_log(before)
    outcome, expected = last.outcome, finish(program, records[-1].time_ms).outcome
    assert outcome.phase is expected.phase is Phase.SUCCEEDED, f"{query_id}: {outcome}"
    assert (outcome.answer, outcome.votes, outcome.samples) == (expected.answer, expected.votes, expected.samples)
    finished = {event.branch: event.tokens for event in before if isinstance(event, CallFinished)}
    assert outcome.samples <= len(finished) <= SAMPLES
    ledger = outcome.ledger
    counted = sum(finished[branch] for branch in program.counted)
    assert ledger.spent == counted + ledger.cancelled + ledger.lost, f"{query_id}: {ledger}"
    assert min(ledger.spent, ledger.cancelled, ledger.lost) >= 0


def check_answer(client: Client) -> None:
    """`majority-locked` never changes the answer, whatever died meanwhile."""
    outcome = client.events[-1].finished.outcome
    found = next(name for name in recorded_questions() if recorded(name).marker in str(client.query))
    assert outcome.answer in recorded(found).winners(SAMPLES), f"{client.query_id} of {found}: {outcome}"


async def check_nothing_is_left(stack: RunningStack) -> None:
    """No quota, queue entry, lease, grant or running call outlives the queries."""
    for tenant in TENANTS:
        shard = keys.shard_of_tenant(tenant)
        assert await stack.redis.hget(keys.tenant(shard, tenant), "live") == b"0"
    for shard in keys.SHARDS:
        assert await stack.redis.zcard(keys.queue(shard)) == 0
        assert await stack.redis.zcard(keys.leases(shard)) == 0

    async def engine_is_idle() -> bool:
        return await stack.calls_in_engine() == 0

    await until(engine_is_idle, what="the end of every call in the engine")

    async def is_active_and_idle(scheduler: str) -> bool:
        async with open_channel(f"127.0.0.1:{stack.local.ports[scheduler]}") as channel:
            request = scheduler_pb2.ListPoolsRequest()
            try:
                pools = (await SchedulerServiceStub(channel).ListPools(request, timeout=5.0)).pools
            except grpc.aio.AioRpcError:
                return False
        return all(pool.waiting_calls == 0 and all(worker.in_flight == 0 for worker in pool.workers) for pool in pools)

    async def scheduler_is_idle() -> bool:
        return await is_active_and_idle("scheduler") or await is_active_and_idle("scheduler-1")

    await until(scheduler_is_idle, what="the return of every grant")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_thousand_queries_under_kill_9_get_exactly_one_final_record_each() -> None:
    async with running_stack(trackers=2, schedulers=2, environment={"DYNASOR_TRACKER_LEASE_SECONDS": "4"}) as stack:
        clients = await run_under_fire(stack, 1000, seed=20412993, mean_seconds=0.7)

        assert len({client.query_id for client in clients}) == len(clients), "two keys led to one query"
        log = ProgramLog(stack.redis, final_ttl_seconds=60)
        for client in clients:
            await check_log(log, client)
            check_answer(client)
        accepted = [
            await stack.redis.zcard(keys.tenant_index(keys.shard_of_tenant(tenant), tenant)) for tenant in TENANTS
        ]
        assert sum(accepted) == len(clients), "a retried submission was accepted twice"
        await check_nothing_is_left(stack)
