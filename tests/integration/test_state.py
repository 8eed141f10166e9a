"""The atomic steps in Redis, each on a real server: what they change and refuse, and what a repetition does."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.gateway.follower import LogFollower
from dynasor_serve.programs.events import (
    Accepted,
    CallFinished,
    CancelRequested,
    Claimed,
    DeadlineReached,
    Event,
    Finished,
    Phase,
)
from dynasor_serve.programs.program import accept, finish, fold
from dynasor_serve.programs.query import Branch, Query, QueryClass, QueryId
from dynasor_serve.state import keys
from dynasor_serve.state.group_lease import GroupLease, LeaseRecord, read_lease
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.program_log import (
    MOST_CLAIMED_BYTES,
    Acceptance,
    AcceptStatus,
    AppendStatus,
    Claim,
    Holding,
    Limits,
    ProgramLog,
    is_full,
)
from dynasor_serve.state.records import Record
from dynasor_serve.state.redis_client import StateFull, StateUnavailable, connect, ping

from fakes.redis_process import RedisProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT = "default"
SHARD = keys.shard_of_tenant(TENANT)
AMPLE = Limits(live_queries_per_tenant=1000, queued_programs_per_shard=1000, idempotency_ttl_seconds=60)
LEASE_MS = 60_000
LEASE_SECONDS = 60.0
NOW_MS = 1_700_000_000_000
QUERY = Query(model="model", rule="even", prompt="What is it?", tenant=TENANT)
FINAL_TTL_SECONDS = 600


@pytest_asyncio.fixture(loop_scope="module")
async def log(redis: Redis) -> ProgramLog:
    return ProgramLog(redis, final_ttl_seconds=FINAL_TTL_SECONDS)


async def accepted(
    log: ProgramLog, query: Query = QUERY, *, at_ms: int = NOW_MS, limits: Limits = AMPLE, fingerprint: str = "f"
) -> tuple[AcceptStatus, QueryId]:
    query_id = keys.new_query_id(query.tenant)
    acceptance = await log.accept(query_id, Accepted(query, "pool", at_ms), fingerprint, limits)
    return acceptance.status, acceptance.query_id


CLAIM_NUMBERS = itertools.count()


async def claimed(
    log: ProgramLog,
    tracker: str = "one",
    *,
    process: str = "p1",
    limit: int = 64,
    lease_ms: int = LEASE_MS,
    adopt_own: bool = False,
    shard: Shard = SHARD,
    number: int | None = None,
    most_bytes: int = MOST_CLAIMED_BYTES,
) -> list[Claim]:
    return await log.claim(
        shard,
        tracker=tracker,
        process=process,
        address=f"{tracker}:7002",
        limit=limit,
        lease_ms=lease_ms,
        number=next(CLAIM_NUMBERS) if number is None else number,
        adopt_own=adopt_own,
        most_bytes=most_bytes,
    )


async def running(log: ProgramLog, tracker: str = "one", **claim: int) -> Holding:
    """A program that a tracker has just claimed."""
    _, query_id = await accepted(log)
    claims = await claimed(log, tracker, **claim)  # type: ignore[arg-type]
    assert [each.query_id for each in claims] == [query_id]
    return Holding(query_id, claims[0].epoch)


def records(*events: Event) -> list[Record]:
    return [Record(event, NOW_MS) for event in events]


def evidence(branch: int) -> CallFinished:
    return CallFinished(Branch(branch), "1.1", "7", "\\boxed{7}", 10)


def the_end() -> Record:
    final = finish(fold(accept(Accepted(QUERY, "pool", NOW_MS)), DeadlineReached()), NOW_MS)
    return Record(final, NOW_MS)


async def kinds(log: ProgramLog, query_id: QueryId) -> list[str]:
    return [type(record.event).__name__ for record in await log.read(query_id)]


async def live(redis: Redis, tenant: str = TENANT) -> int:
    return int(await redis.hget(keys.tenant(keys.shard_of_tenant(tenant), tenant), "live") or 0)


# --- accept


async def test_an_accepted_query_is_in_the_log_the_queue_the_index_and_the_quota(log: ProgramLog, redis: Redis) -> None:
    status, query_id = await accepted(log)

    assert status is AcceptStatus.ACCEPTED
    assert [record.event for record in await log.read(query_id)] == [Accepted(QUERY, "pool", NOW_MS)]
    assert await log.list_tenant(TENANT, 0, 10) == [query_id]
    assert await redis.zcard(keys.queue(SHARD)) == 1
    assert await live(redis) == 1
    entry = await log.entry(query_id)
    assert entry is not None
    assert (entry.phase, entry.tracker) == (Phase.QUEUED, "")


async def test_an_acceptance_sent_twice_changes_nothing(log: ProgramLog, redis: Redis) -> None:
    query_id = keys.new_query_id(TENANT)
    keyed = replace(QUERY, idempotency_key="key")
    for _ in range(3):
        acceptance = await log.accept(query_id, Accepted(keyed, "pool", NOW_MS), "f", AMPLE)
        assert acceptance == Acceptance(AcceptStatus.ACCEPTED, query_id)

    assert await kinds(log, query_id) == ["Accepted"]
    assert await live(redis) == 1


async def test_a_key_finds_its_query_and_refuses_another(log: ProgramLog, redis: Redis) -> None:
    keyed = replace(QUERY, idempotency_key="key")
    _, first = await accepted(log, keyed)

    assert await accepted(log, keyed) == (AcceptStatus.DUPLICATE, first)
    assert await accepted(log, keyed, fingerprint="g") == (AcceptStatus.CONFLICT, first)
    assert await live(redis) == 1
    assert await redis.ttl(keys.idempotency(SHARD, TENANT, "key")) in range(1, AMPLE.idempotency_ttl_seconds + 1)


async def test_a_tenant_may_have_so_many_live_queries(log: ProgramLog, redis: Redis) -> None:
    limits = replace(AMPLE, live_queries_per_tenant=2)

    statuses = [(await accepted(log, limits=limits))[0] for _ in range(3)]

    assert statuses == [AcceptStatus.ACCEPTED, AcceptStatus.ACCEPTED, AcceptStatus.TENANT_FULL]
    assert await live(redis) == 2
    assert await redis.zcard(keys.queue(SHARD)) == 2


async def test_a_shard_queues_so_many_programs(log: ProgramLog) -> None:
    limits = replace(AMPLE, queued_programs_per_shard=1)

    statuses = [(await accepted(log, limits=limits))[0] for _ in range(2)]
    await claimed(log)

    assert statuses == [AcceptStatus.ACCEPTED, AcceptStatus.QUEUE_FULL]
    assert (await accepted(log, limits=limits))[0] is AcceptStatus.ACCEPTED


async def test_a_refused_query_leaves_nothing(log: ProgramLog, redis: Redis) -> None:
    query_id = keys.new_query_id(TENANT)
    limits = replace(AMPLE, live_queries_per_tenant=0)

    keyed = replace(QUERY, idempotency_key="key")
    acceptance = await log.accept(query_id, Accepted(keyed, "pool", NOW_MS), "f", limits)

    assert acceptance.status is AcceptStatus.TENANT_FULL
    assert await redis.dbsize() == 0


# --- claim


async def test_claims_go_by_class_and_then_by_arrival(log: ProgramLog) -> None:
    classes = [QueryClass.BATCH, QueryClass.STANDARD, QueryClass.INTERACTIVE, QueryClass.STANDARD]
    ids = [
        (await accepted(log, replace(QUERY, query_class=query_class), at_ms=NOW_MS + number))[1]
        for number, query_class in enumerate(classes)
    ]

    order = [(await claimed(log, limit=1))[0].query_id for _ in classes]

    assert order == [ids[2], ids[1], ids[3], ids[0]]


async def test_a_batch_query_does_not_wait_for_ever(log: ProgramLog) -> None:
    _, old = await accepted(log, replace(QUERY, query_class=QueryClass.BATCH), at_ms=NOW_MS)
    await accepted(log, replace(QUERY, query_class=QueryClass.INTERACTIVE), at_ms=NOW_MS + 700_000)

    assert (await claimed(log, limit=1))[0].query_id == old


async def test_a_claim_brings_the_whole_log_and_ends_it(log: ProgramLog, redis: Redis) -> None:
    _, query_id = await accepted(log)

    (claim,) = await claimed(log)

    assert (claim.query_id, claim.epoch) == (query_id, 1)
    first, last = [record.event for record in claim.records()]
    assert first == Accepted(QUERY, "pool", NOW_MS)
    assert last == Claimed("one", 1, tokens_lost=0)
    assert await log.read(query_id) == claim.records()
    entry = await log.entry(query_id)
    assert entry is not None
    assert (entry.phase, entry.tracker, entry.address) == (Phase.RUNNING, "one", "one:7002")
    assert await redis.zcard(keys.queue(SHARD)) == 0
    assert await claimed(log, "two") == []


async def test_a_claim_brings_no_more_logs_than_fit_and_the_next_one_the_rest(log: ProgramLog, redis: Redis) -> None:
    ids = [(await accepted(log))[1] for _ in range(5)]
    (small,) = await claimed(log, limit=1)
    bytes_of_one = sum(map(len, small.lines))
    await log.release(SHARD, "one", [Holding(small.query_id, small.epoch)])

    brought = [await claimed(log, most_bytes=2 * bytes_of_one) for _ in range(4)]

    assert [len(claims) for claims in brought] == [2, 2, 1, 0]
    assert sorted(claim.query_id for claims in brought for claim in claims) == sorted(ids)
    assert [is_full(claims, 2 * bytes_of_one) for claims in brought] == [True, True, False, False]
    assert await redis.zcard(keys.leases(SHARD)) == 5


async def test_an_ended_lease_is_claimed_with_a_higher_epoch_and_what_was_lost(log: ProgramLog) -> None:
    holding = await running(log, lease_ms=1)
    await log.renew(SHARD, "one", 1, [replace(holding, generated_tokens=123)])
    await asyncio.sleep(0.02)

    (claim,) = await claimed(log, "two")

    assert claim.epoch == 2
    assert claim.records()[-1].event == Claimed("two", 2, tokens_lost=123)


async def test_ended_leases_go_before_the_queue(log: ProgramLog) -> None:
    ended = await running(log, lease_ms=1)
    await accepted(log, replace(QUERY, query_class=QueryClass.INTERACTIVE))
    await asyncio.sleep(0.02)

    assert [claim.query_id for claim in await claimed(log, "two", limit=1)] == [ended.query_id]


async def test_a_restarted_tracker_adopts_what_its_predecessor_held_and_no_more(log: ProgramLog) -> None:
    for _ in range(5):
        await accepted(log)
    own = {claim.query_id for claim in await claimed(log, "one", process="p1", limit=3)}
    await claimed(log, "two", process="p1", limit=2)

    first = await claimed(log, "one", process="p2", limit=2, adopt_own=True)
    second = await claimed(log, "one", process="p2", limit=2, adopt_own=True)
    third = await claimed(log, "one", process="p2", limit=2, adopt_own=True)

    assert {claim.query_id for claim in (*first, *second)} == own
    assert [claim.epoch for claim in (*first, *second)] == [2, 2, 2]
    assert third == []


async def test_without_adoption_a_running_lease_is_left_alone(log: ProgramLog) -> None:
    await running(log)

    assert await claimed(log, "one", process="p2") == []


async def test_many_trackers_claim_each_program_once(log: ProgramLog) -> None:
    ids = [(await accepted(log))[1] for _ in range(60)]

    shares = await asyncio.gather(*(claimed(log, f"tracker-{number % 6}", limit=7) for number in range(12)))

    taken = [claim.query_id for share in shares for claim in share]
    assert sorted(taken) == sorted(ids)


# --- append


async def test_an_append_of_the_owner_is_added(log: ProgramLog, redis: Redis) -> None:
    holding = await running(log)

    appended = await log.append(replace(holding, generated_tokens=55), "one", 2, records(evidence(0), evidence(1)))

    assert appended.status is AppendStatus.OK
    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "CallFinished", "CallFinished"]
    assert await redis.hget(keys.program(holding.query_id), "running_tokens") == b"55"


async def test_an_append_that_is_behind_gets_what_it_does_not_know(log: ProgramLog) -> None:
    holding = await running(log)
    await log.cancel(holding.query_id, "enough", NOW_MS)

    appended = await log.append(holding, "one", 2, records(evidence(0)))

    assert appended.status is AppendStatus.BEHIND
    assert [record.event for record in appended.newer] == [CancelRequested("enough")]
    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "CancelRequested"]


async def test_an_append_sent_twice_is_told_its_own_records(log: ProgramLog) -> None:
    holding, new = await running(log), records(evidence(0))
    await log.append(holding, "one", 2, new)

    again = await log.append(holding, "one", 2, new)

    assert again.status is AppendStatus.BEHIND
    assert list(again.newer) == new


async def test_whoever_lost_the_program_appends_nothing(log: ProgramLog) -> None:
    holding = await running(log, lease_ms=1)
    await asyncio.sleep(0.02)
    (claim,) = await claimed(log, "two")
    current = Holding(holding.query_id, claim.epoch)

    for stale, tracker in ((holding, "one"), (current, "one"), (holding, "two"), (replace(current, epoch=9), "two")):
        assert (await log.append(stale, tracker, 3, records(evidence(0)))).status is AppendStatus.FENCED
        reply = await log.finish(stale, tracker, TENANT, 3, [the_end()], Phase.FAILED)
        assert reply.status is AppendStatus.FENCED

    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "Claimed"]


# --- finish


async def test_the_final_record_settles_lease_and_quota_once(log: ProgramLog, redis: Redis) -> None:
    holding = await running(log)
    new = [*records(evidence(0)), the_end()]

    first = await log.finish(holding, "one", TENANT, 2, new, Phase.FAILED)
    second = await log.finish(holding, "one", TENANT, 2, new, Phase.FAILED)
    late = await log.append(holding, "one", 4, records(evidence(1)))

    assert first.status is AppendStatus.OK
    assert second.status is AppendStatus.OK, "what is sent twice after a lost reply"
    assert late.status is AppendStatus.FENCED
    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "CallFinished", "Finished"]
    assert await live(redis) == 0
    assert await redis.zcard(keys.leases(SHARD)) == 0
    entry = await log.entry(holding.query_id)
    assert entry is not None
    assert entry.phase is Phase.FAILED
    for key in (keys.log(holding.query_id), keys.program(holding.query_id)):
        assert 0 < await redis.ttl(key) <= FINAL_TTL_SECONDS


async def test_a_final_record_that_is_behind_is_not_written(log: ProgramLog, redis: Redis) -> None:
    holding = await running(log)
    await log.cancel(holding.query_id, "", NOW_MS)

    reply = await log.finish(holding, "one", TENANT, 2, [the_end()], Phase.FAILED)

    assert reply.status is AppendStatus.BEHIND
    assert [type(record.event) for record in reply.newer] == [CancelRequested]
    assert await live(redis) == 1


# --- cancel


async def test_an_unclaimed_query_is_final_when_it_is_cancelled(log: ProgramLog, redis: Redis) -> None:
    _, query_id = await accepted(log)

    assert await log.cancel(query_id, "enough", NOW_MS + 500) is Phase.CANCELLED
    assert await log.cancel(query_id, "again", NOW_MS + 600) is Phase.CANCELLED

    assert await kinds(log, query_id) == ["Accepted", "CancelRequested", "Finished"]
    last = (await log.read(query_id))[-1].event
    assert isinstance(last, Finished)
    assert (last.outcome.phase, last.outcome.stop_detail) == (Phase.CANCELLED, "enough")
    assert last.outcome.latency_seconds == 0.5
    assert await live(redis) == 0
    assert await redis.zcard(keys.queue(SHARD)) == 0
    assert await claimed(log) == []


async def test_a_claimed_query_is_asked_once_to_end(log: ProgramLog, redis: Redis) -> None:
    holding = await running(log)

    for _ in range(3):
        assert await log.cancel(holding.query_id, "enough", NOW_MS) is Phase.RUNNING

    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "CancelRequested"]
    assert await live(redis) == 1


async def test_a_final_query_stays_as_it_is(log: ProgramLog) -> None:
    holding = await running(log)
    await log.finish(holding, "one", TENANT, 2, [the_end()], Phase.SUCCEEDED)

    assert await log.cancel(holding.query_id, "late", NOW_MS) is Phase.SUCCEEDED
    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "Finished"]


async def test_a_query_that_was_handed_back_is_ended_by_its_next_owner(log: ProgramLog) -> None:
    holding = await running(log)
    await log.release(SHARD, "one", [holding])

    assert await log.cancel(holding.query_id, "enough", NOW_MS) is Phase.QUEUED

    (claim,) = await claimed(log, "two")
    assert [type(record.event) for record in claim.records()] == [Accepted, Claimed, CancelRequested, Claimed]


async def test_an_unknown_query_cannot_be_cancelled(log: ProgramLog, redis: Redis) -> None:
    assert await log.cancel(keys.new_query_id(TENANT), "", NOW_MS) is None
    assert await redis.dbsize() == 0


# --- leases


async def test_a_renewal_tells_the_length_of_each_log_and_what_is_lost(log: ProgramLog) -> None:
    kept = await running(log)
    await log.append(kept, "one", 2, records(evidence(0)))
    lost = await running(log, lease_ms=1)
    await asyncio.sleep(0.02)
    await claimed(log, "two")
    unknown = Holding(keys.new_query_id(TENANT), 1)

    assert await log.renew(SHARD, "one", LEASE_MS, [kept, lost, unknown]) == [3, -1, -1]
    assert await log.renew(SHARD, "one", LEASE_MS, []) == []


async def test_a_renewed_lease_does_not_end(log: ProgramLog) -> None:
    holding = await running(log, lease_ms=30)
    await log.renew(SHARD, "one", LEASE_MS, [holding])
    await asyncio.sleep(0.06)

    assert await claimed(log, "two") == []


async def test_released_programs_go_to_the_head_of_the_queue(log: ProgramLog, redis: Redis) -> None:
    holding = await running(log)
    await accepted(log, replace(QUERY, query_class=QueryClass.INTERACTIVE))

    assert await log.release(SHARD, "one", [replace(holding, generated_tokens=42)]) == 1
    assert await log.release(SHARD, "one", [holding]) == 0

    assert await redis.zcard(keys.leases(SHARD)) == 0
    first, *_ = await claimed(log, "two")
    assert first.query_id == holding.query_id
    assert first.records()[-1].event == Claimed("two", 2, tokens_lost=42)


async def test_one_scheduler_of_a_group_is_active(redis: Redis) -> None:
    one, two = (GroupLease(redis, "group", holder, LEASE_SECONDS) for holder in ("one", "two"))

    first = await one.acquire()
    assert first > 0
    assert await two.acquire() == 0
    assert await one.renew(first)
    assert not await two.renew(first)
    assert not await one.renew(first + 6)
    await one.give_up(first)
    assert not await one.renew(first)
    second = await two.acquire()
    assert second > first
    assert await one.acquire() == 0


async def acquired(lease: GroupLease) -> int:
    """The epoch of a standby that looks until it has the lease."""
    async with asyncio.timeout(30):
        while not (epoch := await lease.acquire()):  # noqa: ASYNC110 - Redis sets no event
            await asyncio.sleep(0.01)
    return epoch


async def test_a_lease_ends_for_those_who_watched_it_for_as_long_as_it_lasts(redis: Redis) -> None:
    one, two = (GroupLease(redis, "group", holder, 0.3) for holder in ("one", "two"))
    first = await one.acquire()
    began = time.monotonic()

    second = await acquired(two)

    assert time.monotonic() - began >= 0.3, "it was taken before its end"
    assert second > first
    assert not await one.renew(first)


async def test_a_lease_that_is_renewed_does_not_end(redis: Redis) -> None:
    one, two = (GroupLease(redis, "group", holder, 0.3) for holder in ("one", "two"))
    epoch = await one.acquire()

    for _ in range(20):
        assert await one.renew(epoch)
        assert await two.acquire() == 0
        await asyncio.sleep(0.03)


async def test_a_clock_that_jumps_makes_no_lease_longer(redis: Redis) -> None:
    """A replica whose clock is an hour behind takes over, so that the epoch lies in the future."""
    one, two = (GroupLease(redis, "group", holder, 0.3) for holder in ("one", "two"))
    first = await one.acquire()
    ahead = first + 3_600_000
    await redis.hset(keys.group_lease("group"), "epoch", ahead)

    assert await acquired(two) == ahead + 1


async def test_a_restarted_scheduler_takes_its_own_lease_over_at_once(redis: Redis) -> None:
    before, after = (GroupLease(redis, "group", "one", LEASE_SECONDS) for _ in range(2))

    first = await before.acquire()
    assert await after.acquire() > first > 0
    assert not await before.renew(first)


async def test_two_schedulers_of_one_name_do_not_take_the_lease_from_each_other_again_and_again(redis: Redis) -> None:
    one, other = (GroupLease(redis, "group", "same", LEASE_SECONDS) for _ in range(2))
    await one.acquire()
    epoch = await other.acquire()

    assert await one.acquire() == 0
    assert await other.renew(epoch)


async def test_epochs_grow_even_where_redis_has_lost_its_writes(redis: Redis) -> None:
    lease = GroupLease(redis, "group", "one", LEASE_SECONDS)
    first = await lease.acquire()
    await redis.flushall()
    await asyncio.sleep(0.01)  # epochs follow the clock, in milliseconds
    assert not await lease.renew(first)
    assert await lease.acquire() > first


async def test_a_lease_says_where_its_holder_is_until_it_is_given_up(redis: Redis) -> None:
    lease = GroupLease(redis, "group", "one", 3.0, "127.0.0.1:7003")
    assert await read_lease(redis, "group") is None

    epoch = await lease.acquire()
    assert await read_lease(redis, "group") == LeaseRecord(epoch, 0, 3.0, "127.0.0.1:7003")
    await lease.renew(epoch)
    assert await read_lease(redis, "group") == LeaseRecord(epoch, 1, 3.0, "127.0.0.1:7003")
    await lease.give_up(epoch)
    assert await read_lease(redis, "group") == LeaseRecord(epoch, 1, 3.0, "")


# --- notices


async def test_every_append_and_every_piece_of_work_is_announced(log: ProgramLog, redis: Redis) -> None:
    heard: list[tuple[str, bytes]] = []
    async with redis.pubsub(ignore_subscribe_messages=True) as subscription:
        await subscription.subscribe(keys.appended_channel(SHARD), keys.work_channel(SHARD))
        holding = await running(log)
        await log.append(holding, "one", 2, records(evidence(0), evidence(1)))
        await log.cancel(holding.query_id, "", NOW_MS)
        await log.finish(holding, "one", TENANT, 5, [the_end()], Phase.CANCELLED)
        async with asyncio.timeout(5):
            while len(heard) < 6:
                message = await subscription.get_message(timeout=1)
                if message is not None:
                    heard.append((message["channel"].decode().rpartition(":")[2], message["data"]))

    work = [data for channel, data in heard if channel == "work"]
    appended = [data.split(b"\n") for channel, data in heard if channel == "appended"]
    assert work == [holding.query_id.encode(), holding.query_id.encode() + b"\ncancel"]
    assert {lines[0] for lines in appended} == {holding.query_id.encode()}
    assert [int(lines[1]) for lines in appended] == [1, 2, 4, 5], "whoever has a query accepted has its first record"
    assert [line for lines in appended for line in lines[2:]] == await redis.lrange(keys.log(holding.query_id), 1, -1)


# --- a server in trouble


async def test_a_server_that_has_forgotten_the_scripts_is_told_again(log: ProgramLog, redis: Redis) -> None:
    await running(log)
    await redis.script_flush()

    assert (await accepted(log))[0] is AcceptStatus.ACCEPTED


async def test_a_full_server_refuses_new_queries_and_lets_running_ones_end(log: ProgramLog, redis: Redis) -> None:
    cancelled, finished = await running(log), await running(log)
    _, queued = await accepted(log)
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StateFull, match=r"Redis is full \(accept_query\).*maxmemory"):
            await accepted(log)
        assert await live(redis) == 3

        await redis.script_flush()
        await log.renew(SHARD, "one", LEASE_MS, [cancelled, finished])
        await log.cancel(cancelled.query_id, "", NOW_MS)
        for holding, length in ((cancelled, 3), (finished, 2)):
            ended = await log.finish(holding, "one", TENANT, length, [the_end()], Phase.CANCELLED)
            assert ended.status is AppendStatus.OK
        assert [claim.query_id for claim in await claimed(log)] == [queued]
        assert await live(redis) == 1
    finally:
        await redis.config_set("maxmemory", 0)
    assert (await accepted(log))[0] is AcceptStatus.ACCEPTED


async def test_a_server_that_hangs_is_unavailable(server: RedisProcess, log: ProgramLog) -> None:
    holding = await running(log)
    impatient = connect(server.url, timeout_seconds=0.2)
    hanging = ProgramLog(impatient, final_ttl_seconds=FINAL_TTL_SECONDS)
    server.send_signal(signal.SIGSTOP)
    try:
        for step in (hanging.read(holding.query_id), hanging.entry(holding.query_id), claimed(hanging)):
            with pytest.raises(StateUnavailable, match="Redis does not answer"):
                await step
    finally:
        server.send_signal(signal.SIGCONT)
        await impatient.aclose()

    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed"]


async def test_a_server_that_is_down_is_unavailable_and_has_forgotten_nothing_when_it_is_back(
    server: RedisProcess, redis: Redis, log: ProgramLog
) -> None:
    holding = await running(log)
    await server.kill()
    try:
        steps = (
            accepted(log),
            claimed(log),
            log.append(holding, "one", 2, records(evidence(0))),
            log.cancel(holding.query_id, "", NOW_MS),
            log.list_tenant(TENANT, 0, 1),
            log.length(holding.query_id),
            log.renew(SHARD, "one", LEASE_MS, [holding]),
            GroupLease(redis, "group", "one", LEASE_SECONDS).acquire(),
            ping(redis),
        )
        for step in steps:
            with pytest.raises(StateUnavailable, match="Redis does not answer"):
                await step
    finally:
        await server.start()

    assert (await log.append(holding, "one", 2, records(evidence(0)))).status is AppendStatus.OK
    assert await kinds(log, holding.query_id) == ["Accepted", "Claimed", "CallFinished"]


async def test_more_commands_at_once_than_connections_wait_their_turn(server: RedisProcess, log: ProgramLog) -> None:
    holding = await running(log)
    patient = connect(server.url, timeout_seconds=30.0)
    many = ProgramLog(patient, final_ttl_seconds=FINAL_TTL_SECONDS)

    lengths = await asyncio.gather(*(many.length(holding.query_id) for _ in range(1000)))
    await patient.aclose()

    assert set(lengths) == {2}


async def test_a_claim_sent_twice_after_a_lost_reply_returns_what_the_first_one_took(log: ProgramLog) -> None:
    _, query_id = await accepted(log)
    first = await claimed(log, number=7)
    again = await claimed(log, number=7)
    assert [each.query_id for each in first] == [query_id]
    assert again == first
    assert await claimed(log, number=8) == []


# --- cancellation


async def ask_for_ever(redis: Redis) -> None:
    while True:
        await redis.ping()


async def listen_for_ever(redis: Redis) -> None:
    await LogFollower(redis, ProgramLog(redis, final_ttl_seconds=60)).run()


@pytest.mark.parametrize("work", [ask_for_ever, listen_for_ever])
async def test_a_cancellation_is_heeded_at_any_moment(
    server: RedisProcess, work: Callable[[Redis], Coroutine[None, None, None]]
) -> None:
    for turns in range(40):  # of the loop: while it connects, introduces itself, sends, waits
        client = connect(server.url)
        task = asyncio.create_task(work(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
        was_cancelled = task.cancelled()
        task.cancel()
        await asyncio.wait([task])
        assert was_cancelled, f"cancelled after {turns} turns, it went on"
        assert await client.ping(), "its connections are of no more use"
        await client.aclose()
