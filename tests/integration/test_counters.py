"""Counters tell what the programs say, and nothing is settled twice, whatever happens to programs in whatever order.

The atomic steps on a real server, with queries of two pools, all classes, with a token budget and without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from dynasor_serve.programs.events import Accepted, DeadlineReached, Phase
from dynasor_serve.programs.ledger import Ledger
from dynasor_serve.programs.program import accept, finish, fold
from dynasor_serve.programs.query import Query, QueryClass, QueryId
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import (
    AcceptStatus,
    AppendStatus,
    Claim,
    Holding,
    Limits,
    ProgramLog,
    TokenBudget,
)
from dynasor_serve.state.records import Record
from dynasor_serve.state.redis_client import connect

from fakes.redis_process import running_redis

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

TENANT = "default"
SHARD = keys.shard_of_tenant(TENANT)
NOW_MS = 1_700_000_000_000
TTL_SECONDS = 600
AMPLE = Limits(live_queries_per_tenant=1000, queued_programs_per_shard=1000, idempotency_ttl_seconds=60)
NARROW = replace(AMPLE, live_queries_per_tenant=3, live_programs_of_pool=2)
#: A window that ends once a month.
BUDGETED = replace(AMPLE, budget=TokenBudget(tokens=2000, window_seconds=31 * 24 * 3600))

QUERIES = st.builds(
    Query,
    model=st.just("model"),
    rule=st.just("even"),
    prompt=st.just("What is it?"),
    tenant=st.just(TENANT),
    query_class=st.sampled_from(QueryClass),
    max_tokens=st.sampled_from([0, 1, 50]),
)
ACCEPTS = st.tuples(
    st.just("accept"),
    QUERIES,
    st.sampled_from(["pool", "another"]),
    st.sampled_from([BUDGETED, BUDGETED, AMPLE, NARROW]),
)
CLAIMS = st.tuples(st.just("claim"), st.sampled_from(["one", "two"]), st.integers(1, 8), st.integers(0, 2))
# Of any program so far, in whatever phase it is; the last number is what it has spent.
OTHERS = st.tuples(
    st.sampled_from(["accept again", "lapse", "release", "cancel", "finish", "finish", "finish"]),
    st.integers(0, 11),
    st.sampled_from([0, 0, 1, 7, 400]),
)


@dataclass
class World:
    """The programs that were accepted, as their own keys tell, and what became of each step."""

    log: ProgramLog
    redis: Redis
    accepted: list[tuple[QueryId, Accepted, Limits]] = field(default_factory=list)
    claims: dict[QueryId, tuple[str, Claim]] = field(default_factory=dict)  # the latest of each, and whose it is
    spent: int = 0  # by programs that ended with a budget
    checked_at_ms: int = 0  # by the server's clock
    expiries_ms: dict[QueryId, int] = field(default_factory=dict)  # of programs that were found final

    async def accept(self, query: Query, pool: str, limits: Limits) -> None:
        query_id, event = keys.new_query_id(TENANT), Accepted(query, pool, NOW_MS)
        acceptance = await self.log.accept(query_id, event, "", limits)
        if acceptance.status is AcceptStatus.ACCEPTED:
            self.accepted.append((query_id, event, limits))
        else:
            assert await self.redis.exists(keys.program(query_id), keys.log(query_id)) == 0

    async def claim(self, number: int, tracker: str, limit: int, further_urgent: int) -> None:
        claims = await self.log.claim(
            SHARD, tracker=tracker, process=tracker, address="", limit=limit, lease_ms=60_000, number=number,
            further_urgent=further_urgent,
        )  # fmt: skip
        self.claims.update((claim.query_id, (tracker, claim)) for claim in claims)

    async def happen(self, what: str, number: int, spent: int) -> None:
        if not self.accepted:
            return
        query_id, event, limits = self.accepted[number % len(self.accepted)]
        tracker, claim = self.claims.get(query_id, ("nobody", Claim(query_id, 0, ())))
        match what:
            case "accept again":
                assert (await self.log.accept(query_id, event, "", limits)).status is AcceptStatus.ACCEPTED
            case "lapse":
                await self.redis.zadd(keys.leases(SHARD), {query_id: 0}, xx=True)
            case "release":
                await self.log.release(SHARD, tracker, [Holding(query_id, claim.epoch)])
            case "cancel":
                await self.log.cancel(query_id, "", NOW_MS)
            case "finish":
                was_live = (await self.phase(query_id)) in ("queued", "running")
                program = replace(fold(accept(event), DeadlineReached()), ledger=Ledger(spent=spent))
                length = await self.log.length(query_id)
                final = [Record(finish(program, NOW_MS), NOW_MS)]
                holding = Holding(query_id, claim.epoch)
                ended = await self.log.finish(holding, tracker, TENANT, length, final, Phase.FAILED)
                if ended.status is AppendStatus.OK and was_live and limits.budget is not None:
                    self.spent += spent

    async def phase(self, query_id: QueryId) -> str:
        found = await self.redis.hget(keys.program(query_id), "phase")
        assert isinstance(found, bytes)
        return found.decode()

    async def check(self) -> None:
        """Holds the counters and the sets against the programs."""
        in_phase: dict[str, set[QueryId]] = {"queued": set(), "running": set(), "final": set()}
        live, reserved = Counter({"pool": 0, "another": 0}), 0
        urgent: set[QueryId] = set()
        before_ms, self.checked_at_ms = self.checked_at_ms, await self.now_ms()
        for query_id, event, _ in self.accepted:
            phase = await self.phase(query_id)
            in_phase.get(phase, in_phase["final"]).add(query_id)
            expiries = {await self.redis.pexpiretime(key) for key in (keys.program(query_id), keys.log(query_id))}
            if phase not in in_phase:
                if query_id not in self.expiries_ms:  # it ended in the latest step
                    (self.expiries_ms[query_id],) = expiries
                    ended_ms = self.expiries_ms[query_id] - 1000 * TTL_SECONDS
                    assert before_ms <= ended_ms <= self.checked_at_ms, (
                        "what is final stays for its time, and no longer"
                    )
                assert expiries == {self.expiries_ms[query_id]}, "what has ended is settled once"
                continue
            assert expiries == {-1}, "what is live stays"
            live[event.pool] += 1
            reserved += int(await self.redis.hget(keys.program(query_id), "reserved") or 0)
            if phase == "queued" and event.query.query_class is QueryClass.INTERACTIVE:
                urgent.add(query_id)
        found = await self.redis.hgetall(keys.tenant(SHARD, TENANT))
        account = {name.decode(): float(value) for name, value in found.items() if isinstance(name, bytes)}
        assert account.get("live", 0) == live.total()
        assert account.get("reserved", 0) == reserved
        assert account.get("spent", 0) == self.spent
        counted = (await self.log.live_programs()).by_pool[SHARD]
        assert {pool: counted.get(pool, 0) for pool in live} == live
        assert await self.members(keys.queue(SHARD)) == in_phase["queued"]
        assert await self.members(keys.leases(SHARD)) == in_phase["running"]
        assert await self.members(keys.urgent(SHARD)) == urgent

    async def now_ms(self) -> int:
        seconds, microseconds = await self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def members(self, key: str) -> set[QueryId]:
        return {QueryId(member.decode()) for member in await self.redis.zrange(key, 0, -1) if isinstance(member, bytes)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Redis]:
    async with running_redis(tmp_path_factory.mktemp("redis")) as server, connect(server.url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def log(redis: Redis) -> ProgramLog:
    return ProgramLog(redis, final_ttl_seconds=TTL_SECONDS)


@settings(max_examples=30)
@given(st.lists(st.one_of(ACCEPTS, CLAIMS, OTHERS, OTHERS), min_size=15, max_size=40))
async def test_counters_tell_the_truth_after_any_history(
    redis: Redis, log: ProgramLog, history: list[tuple[Any, ...]]
) -> None:
    await redis.flushdb()
    world = World(log, redis)
    for number, (what, *how) in enumerate(history):
        match what:
            case "accept":
                await world.accept(*how)
            case "claim":
                await world.claim(number, *how)
            case _:
                await world.happen(what, *how)
        await world.check()
