"""Programs as readers see them, many at once, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from dynasor_serve.programs.events import Accepted, CallFinished, Claimed, Phase
from dynasor_serve.programs.query import Branch, Query, QueryId
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import AppendStatus, Holding, Limits, ProgramLog, Snapshot
from dynasor_serve.state.records import CorruptRecord, Record
from dynasor_serve.state.redis_client import connect

from fakes.redis_process import running_redis

TENANT = "default"
QUERY = Query(model="model", rule="even", prompt="What is it?", tenant=TENANT)
AMPLE = Limits(live_queries_per_tenant=1000, queued_programs_per_shard=1000, idempotency_ttl_seconds=60)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    async with running_redis(tmp_path) as server:
        client = connect(server.url)
        yield client
        await client.aclose()


@pytest.fixture
def log(redis: Redis) -> ProgramLog:
    return ProgramLog(redis, final_ttl_seconds=600)


async def accepted(log: ProgramLog) -> QueryId:
    query_id = keys.new_query_id(TENANT)
    await log.accept(query_id, Accepted(QUERY, "pool", 1_700_000_000_000), "f", AMPLE)
    return query_id


async def claimed(log: ProgramLog, tracker: str, *, number: int, lease_ms: int = 60_000) -> list[Holding]:
    claims = await log.claim(
        keys.shard_of_tenant(TENANT),
        tracker=tracker,
        process="p",
        address="a:1",
        limit=64,
        lease_ms=lease_ms,
        number=number,
    )
    return [Holding(claim.query_id, claim.epoch) for claim in claims]


async def snapshot_of(log: ProgramLog, query_id: QueryId) -> Snapshot:
    (snapshot,) = await log.snapshots([query_id])
    assert isinstance(snapshot, Snapshot), f"the program shows as {snapshot!r}"
    return snapshot


async def test_a_program_without_evidence(log: ProgramLog) -> None:
    query_id = await accepted(log)

    snapshot = await snapshot_of(log, query_id)

    assert snapshot.phase is Phase.QUEUED
    assert snapshot.first == snapshot.last
    assert (snapshot.length, snapshot.samples, snapshot.certaindex) == (1, 0, 0.0)


async def test_samples_and_certaindex_outlast_a_takeover(log: ProgramLog) -> None:
    await accepted(log)
    (holding,) = await claimed(log, "one", number=1, lease_ms=1)
    evidence = CallFinished(Branch(0), "1.1", "7", "7", 10)
    appended = await log.append(holding, "one", 2, [Record(evidence, 1_700_000_000_001, 1, 0.625)])
    assert appended.status is AppendStatus.OK

    (taken_over,) = await claimed(log, "two", number=2)

    snapshot = await snapshot_of(log, taken_over.query_id)
    assert isinstance(snapshot.last.event, Claimed)
    assert (snapshot.phase, snapshot.length) == (Phase.RUNNING, 4)
    assert (snapshot.samples, snapshot.certaindex) == (1, 0.625)


@pytest.mark.parametrize("gone", [keys.log, keys.program])
async def test_programs_that_expire_while_they_are_listed(log: ProgramLog, redis: Redis, gone: object) -> None:
    assert callable(gone)
    first, expired, last = [await accepted(log) for _ in range(3)]
    await redis.delete(gone(expired))

    found = await log.snapshots([first, expired, QueryId(f"{first[:-4]}0000"), last])

    assert [each.query_id if isinstance(each, Snapshot) else each for each in found] == [first, None, None, last]


async def test_one_unreadable_program_hides_no_other(log: ProgramLog, redis: Redis) -> None:
    first, corrupt = [await accepted(log) for _ in range(2)]
    await redis.rpush(keys.log(corrupt), b"{")

    found = await log.snapshots([corrupt, first])

    assert isinstance(found[0], CorruptRecord)
    assert isinstance(found[1], Snapshot)


async def test_many_programs_take_one_round_trip(log: ProgramLog, redis: Redis) -> None:
    query_ids = [await accepted(log) for _ in range(200)]

    found = await log.snapshots(query_ids)

    assert [each.query_id for each in found if isinstance(each, Snapshot)] == query_ids
    statistics = await redis.info("commandstats")
    assert statistics["cmdstat_exec"]["calls"] == 1


async def test_no_program_at_all(log: ProgramLog) -> None:
    assert await log.snapshots([]) == []
