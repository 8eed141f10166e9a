"""Bounds, kept places and token budgets in the atomic steps, each on a real server: counted once, settled once."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.programs.events import Accepted, Claimed, DeadlineReached, Phase
from dynasor_serve.programs.ledger import Ledger
from dynasor_serve.programs.program import accept, finish, fold
from dynasor_serve.programs.query import Query, QueryClass, QueryId, SamplingParameters
from dynasor_serve.state import keys
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.program_log import (
    Acceptance,
    AcceptStatus,
    AppendStatus,
    Claim,
    Holding,
    Limits,
    ProgramLog,
    TokenBudget,
)
from dynasor_serve.state.records import Record

from fakes.running_stack import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT = "default"
SHARD = keys.shard_of_tenant(TENANT)
LEASE_MS = 60_000
NOW_MS = 1_700_000_000_000
CALL_TOKENS = 100
QUERY = Query(
    model="model",
    rule="even",
    prompt="What is it?",
    tenant=TENANT,
    sampling=SamplingParameters(max_tokens=CALL_TOKENS),
)
AMPLE = Limits(live_queries_per_tenant=1000, queued_programs_per_shard=1000, idempotency_ttl_seconds=60)
#: A window that ends once a month.
BUDGET = TokenBudget(tokens=1000, window_seconds=31 * 24 * 3600)
BUDGETED = replace(AMPLE, budget=BUDGET)
CLAIM_NUMBERS = itertools.count()


@pytest_asyncio.fixture(loop_scope="module")
async def log(redis: Redis) -> ProgramLog:
    return ProgramLog(redis, final_ttl_seconds=600)


async def offered(
    log: ProgramLog, query: Query = QUERY, *, limits: Limits = AMPLE, pool: str = "pool", at_ms: int = NOW_MS
) -> Acceptance:
    return await log.accept(keys.new_query_id(query.tenant), Accepted(query, pool, at_ms), "f", limits)


async def claimed(
    log: ProgramLog,
    tracker: str = "one",
    *,
    limit: int = 64,
    further_urgent: int = 0,
    lease_ms: int = LEASE_MS,
    shard: Shard = SHARD,
) -> list[Claim]:
    return await log.claim(
        shard,
        tracker=tracker,
        process="p1",
        address=f"{tracker}:7002",
        limit=limit,
        lease_ms=lease_ms,
        number=next(CLAIM_NUMBERS),
        further_urgent=further_urgent,
    )


async def finished(log: ProgramLog, claim: Claim, *, spent: int = 0, tracker: str = "one") -> AppendStatus:
    """Ends a claimed program that has spent so many tokens."""
    program = accept(Accepted(QUERY, "pool", NOW_MS))
    program = replace(fold(program, DeadlineReached()), ledger=Ledger(spent=spent))
    records = [Record(finish(program, NOW_MS), NOW_MS)]
    holding = Holding(claim.query_id, claim.epoch)
    return (await log.finish(holding, tracker, TENANT, len(claim.lines), records, Phase.FAILED)).status


async def account(redis: Redis) -> dict[str, float]:
    """The tenant's counters."""
    found = await redis.hgetall(keys.tenant(SHARD, TENANT))
    return {name.decode(): float(value) for name, value in found.items() if isinstance(name, bytes)}


async def spent_and_reserved(redis: Redis) -> tuple[float, float]:
    found = await account(redis)
    return found["spent"], found["reserved"]


# --- a pool's programs ---


async def test_a_pool_has_so_many_live_programs(log: ProgramLog) -> None:
    limits = replace(AMPLE, live_programs_of_pool=2)

    acceptances = [await offered(log, limits=limits) for _ in range(3)]

    assert [each.status for each in acceptances] == [
        AcceptStatus.ACCEPTED,
        AcceptStatus.ACCEPTED,
        AcceptStatus.POOL_FULL,
    ]
    assert acceptances[-1].present == 2
    assert (await offered(log, limits=limits, pool="another")).status is AcceptStatus.ACCEPTED


async def test_refusals_tell_the_figure_that_reached_its_bound(log: ProgramLog) -> None:
    for _ in range(3):
        await offered(log)

    of_tenant = await offered(log, limits=replace(AMPLE, live_queries_per_tenant=3))
    of_queue = await offered(log, limits=replace(AMPLE, queued_programs_per_shard=2))

    assert (of_tenant.status, of_tenant.present) == (AcceptStatus.TENANT_FULL, 3)
    assert (of_queue.status, of_queue.present) == (AcceptStatus.QUEUE_FULL, 3)


async def test_a_program_counts_until_it_is_final_however_often_it_changes_hands(log: ProgramLog) -> None:
    async def live() -> int:
        return (await log.live_programs()).by_pool[SHARD].get("pool", 0)

    for _ in range(3):
        await offered(log)
    first, second, third = await claimed(log)
    assert await live() == 3

    await log.release(SHARD, "one", [Holding(first.query_id, first.epoch)])
    (again,) = await claimed(log, "two")
    assert (again.query_id, await live()) == (first.query_id, 3)

    for _ in range(2):
        assert await finished(log, again, tracker="two") is AppendStatus.OK
    assert await finished(log, first) is AppendStatus.FENCED
    assert await live() == 2

    await finished(log, second)
    await finished(log, third)
    unclaimed = (await offered(log)).query_id
    for _ in range(2):
        await log.cancel(unclaimed, "", NOW_MS)
    assert await live() == 0


async def test_an_accepted_query_is_found_again_where_every_bound_is_reached(log: ProgramLog) -> None:
    keyed = replace(QUERY, idempotency_key="key")
    first = await offered(log, keyed, limits=BUDGETED)
    nothing = Limits(0, 0, 60, live_programs_of_pool=0, budget=TokenBudget(1, 60))

    assert await offered(log, keyed, limits=nothing) == Acceptance(AcceptStatus.DUPLICATE, first.query_id)
    again = await log.accept(first.query_id, Accepted(keyed, "pool", NOW_MS), "f", nothing)
    assert again == Acceptance(AcceptStatus.ACCEPTED, first.query_id)


async def test_programs_that_nobody_counted_leave_no_debt(log: ProgramLog, redis: Redis) -> None:
    await offered(log)
    await redis.delete(keys.live(SHARD))  # as if an earlier release had accepted it
    (claim,) = await claimed(log)

    await finished(log, claim)

    assert (await log.live_programs()).by_pool[SHARD] == {"pool": 0}


async def test_what_no_tracker_has_place_for_waits_at_two_looks(log: ProgramLog) -> None:
    live = LivePrograms(log, refresh_seconds=0.05)
    looking = asyncio.create_task(live.run())
    for number in range(8):
        await offered(log, replace(QUERY, tenant=f"tenant-{number}"), pool="pool" if number else "another")

    async def is_known() -> bool:
        return live.unclaimed("pool") == 7

    await until(is_known, what="two looks")
    assert (live.unclaimed("another"), live.unclaimed("no such pool")) == (1, 0)

    for shard in keys.SHARDS:
        await claimed(log, shard=shard)

    async def is_forgotten() -> bool:
        return live.unclaimed("pool") == 0

    await until(is_forgotten, what="a look")
    assert live.of_pool("pool") == 7, "they are live all the same"
    looking.cancel()


async def test_live_programs_are_looked_up_over_all_shards(log: ProgramLog) -> None:
    tenants = [f"tenant-{number}" for number in range(20)]
    for tenant in tenants:
        await offered(log, replace(QUERY, tenant=tenant))
    live = LivePrograms(log, refresh_seconds=3600)
    looking = asyncio.create_task(live.run())

    async def is_known() -> bool:
        return live.of_pool("pool") == len(tenants)

    await until(is_known, what="a look at all shards")
    looking.cancel()

    shard = keys.shard_of_tenant(tenants[0])
    own = sum(keys.shard_of_tenant(tenant) == shard for tenant in tenants)
    assert live.elsewhere("pool", shard) == len(tenants) - own
    assert live.elsewhere("no such pool", shard) == live.of_pool("no such pool") == 0


# --- places that are kept ---


async def backlog(log: ProgramLog, *classes: QueryClass) -> list[QueryId]:
    """Programs that are due in this order within their class."""
    return [
        (await offered(log, replace(QUERY, query_class=each), at_ms=NOW_MS + number)).query_id
        for number, each in enumerate(classes)
    ]


async def test_an_interactive_program_passes_an_old_backlog_into_a_kept_place(log: ProgramLog, redis: Redis) -> None:
    old = [(await log.accept(keys.new_query_id(TENANT), Accepted(QUERY, "pool", 0), "", AMPLE)) for _ in range(3)]
    (interactive,) = await backlog(log, QueryClass.INTERACTIVE)

    urgent = await claimed(log, limit=0, further_urgent=2)

    assert [claim.query_id for claim in urgent] == [interactive]
    assert await claimed(log, limit=0, further_urgent=2) == [], "kept places are for nobody else"
    assert {claim.query_id for claim in await claimed(log)} == {each.query_id for each in old}
    assert await redis.exists(keys.urgent(SHARD), keys.queue(SHARD)) == 0


async def test_kept_places_are_beside_the_others(log: ProgramLog) -> None:
    ids = await backlog(log, *[QueryClass.INTERACTIVE] * 4, QueryClass.STANDARD)

    claims = await claimed(log, limit=1, further_urgent=2)

    assert [claim.query_id for claim in claims] == ids[:3]
    assert {claim.query_id for claim in await claimed(log)} == set(ids[3:])


async def test_a_released_interactive_program_stays_urgent_and_a_cancelled_one_does_not(log: ProgramLog) -> None:
    released, cancelled = await backlog(log, QueryClass.INTERACTIVE, QueryClass.INTERACTIVE)
    (claim,) = await claimed(log, limit=1)
    assert claim.query_id == released
    await log.cancel(cancelled, "", NOW_MS)
    await log.release(SHARD, "one", [Holding(claim.query_id, claim.epoch)])

    claims = await claimed(log, "two", limit=0, further_urgent=5)

    assert [each.query_id for each in claims] == [released]


async def test_what_a_release_without_kept_places_has_claimed_is_not_claimed_again(
    log: ProgramLog, redis: Redis
) -> None:
    (query_id,) = await backlog(log, QueryClass.INTERACTIVE)
    await claimed(log)
    await redis.zadd(keys.urgent(SHARD), {query_id: 0})

    assert await claimed(log, "two", limit=0, further_urgent=5) == []
    assert await redis.exists(keys.urgent(SHARD)) == 0


# --- token budgets ---


async def test_a_query_reserves_a_call_at_first_and_later_what_queries_cost(log: ProgramLog, redis: Redis) -> None:
    await offered(log, limits=BUDGETED)
    assert await spent_and_reserved(redis) == (0, CALL_TOKENS)

    (claim,) = await claimed(log)
    await finished(log, claim, spent=300)
    assert await spent_and_reserved(redis) == (300, 0)

    await offered(log, limits=BUDGETED)
    assert await spent_and_reserved(redis) == (300, 300), "as much as the only one that has ended"
    await offered(log, replace(QUERY, max_tokens=50), limits=BUDGETED)
    assert await spent_and_reserved(redis) == (300, 350), "no more than its own budget"

    (claim, _) = await claimed(log)
    await finished(log, claim, spent=100)
    assert await spent_and_reserved(redis) == (400, 50)
    await offered(log, limits=BUDGETED)
    assert await spent_and_reserved(redis) == (400, 50 + 280), "the newest weighs a tenth"


async def test_a_tenant_is_refused_once_all_is_spent_or_reserved(log: ProgramLog, redis: Redis) -> None:
    acceptances = [await offered(log, limits=BUDGETED) for _ in range(11)]

    assert [each.status for each in acceptances] == [AcceptStatus.ACCEPTED] * 10 + [AcceptStatus.BUDGET_SPENT]
    assert acceptances[-1].present == BUDGET.tokens
    seconds, microseconds = await redis.time()
    left = BUDGET.window_seconds - (seconds + microseconds / 1e6) % BUDGET.window_seconds
    assert acceptances[-1].window_seconds_left == pytest.approx(left, abs=5)
    assert (await offered(log, replace(QUERY, tenant=TENANT))).status is AcceptStatus.ACCEPTED, "who has no budget"

    await log.cancel(acceptances[0].query_id, "", NOW_MS)
    assert (await offered(log, limits=BUDGETED)).status is AcceptStatus.ACCEPTED


async def test_a_refusal_spends_nothing(log: ProgramLog, redis: Redis) -> None:
    await offered(log, limits=BUDGETED)
    before = await account(redis)

    for limits in (
        replace(BUDGETED, budget=replace(BUDGET, tokens=1)),
        replace(BUDGETED, live_programs_of_pool=1),
        replace(BUDGETED, queued_programs_per_shard=1),
    ):
        assert (await offered(log, limits=limits)).query_id == ""

    assert await account(redis) == before


async def test_a_reservation_is_settled_once_through_deaths_hand_overs_and_repetitions(
    log: ProgramLog, redis: Redis
) -> None:
    await offered(log, limits=BUDGETED)
    (first,) = await claimed(log, lease_ms=1)
    await log.renew(SHARD, "one", 1, [Holding(first.query_id, first.epoch, generated_tokens=70)])
    await asyncio.sleep(0.02)  # the tracker dies
    (second,) = await claimed(log, "two")
    assert second.records()[-1].event == Claimed("two", 2, tokens_lost=70)
    await log.release(SHARD, "two", [Holding(second.query_id, second.epoch)])
    (third,) = await claimed(log, "three")
    assert await spent_and_reserved(redis) == (0, CALL_TOKENS)

    assert await finished(log, second, spent=500, tracker="two") is AppendStatus.FENCED
    for _ in range(3):
        assert await finished(log, third, spent=170, tracker="three") is AppendStatus.OK
    await log.cancel(third.query_id, "", NOW_MS)

    assert await spent_and_reserved(redis) == (170, 0)


async def test_a_tenant_whose_queries_cost_nothing_is_settled_too(log: ProgramLog, redis: Redis) -> None:
    """In a pool without workers they end at their deadline without a token: nothing is reserved for the next."""
    await offered(log, limits=BUDGETED)
    (first,) = await claimed(log)
    await finished(log, first, spent=0)
    for _ in range(2):
        await offered(log, limits=BUDGETED)
    assert await spent_and_reserved(redis) == (0, 0)
    (claim,) = await claimed(log, limit=1)
    cancelled = (await offered(log, limits=BUDGETED)).query_id

    assert await finished(log, claim, spent=30) is AppendStatus.OK
    assert await log.cancel(cancelled, "", NOW_MS) is Phase.CANCELLED

    assert (await account(redis))["mean_tokens"] == 3
    for query_id in (claim.query_id, cancelled):
        assert await redis.ttl(keys.log(query_id)) > 0


async def test_a_query_cancelled_unclaimed_gives_back_what_was_reserved(log: ProgramLog, redis: Redis) -> None:
    query_id = (await offered(log, limits=BUDGETED)).query_id

    for _ in range(2):
        await log.cancel(query_id, "", NOW_MS)

    assert await spent_and_reserved(redis) == (0, 0)
    assert "mean_tokens" not in await account(redis), "a query that never ran says nothing about what queries cost"


async def test_a_cancelled_running_query_is_charged_what_it_spent(log: ProgramLog, redis: Redis) -> None:
    await offered(log, limits=BUDGETED)
    (claim,) = await claimed(log)
    await log.cancel(claim.query_id, "", NOW_MS)
    assert await spent_and_reserved(redis) == (0, CALL_TOKENS)

    longer = replace(claim, lines=(*claim.lines, b""))  # the wish to cancel is in the log
    assert await finished(log, longer, spent=40) is AppendStatus.OK

    assert await spent_and_reserved(redis) == (40, 0)


async def window_over(redis: Redis) -> None:
    """The tenant's window has just ended."""
    seconds, _ = await redis.time()
    await redis.hset(keys.tenant(SHARD, TENANT), "window_ends_ms", seconds * 1000 - 1)


async def test_a_new_window_begins_with_what_live_queries_have_reserved(log: ProgramLog, redis: Redis) -> None:
    for _ in range(10):
        await offered(log, limits=BUDGETED)
    claims = await claimed(log)
    for claim in claims[:9]:
        await finished(log, claim, spent=110)
    assert (await offered(log, limits=BUDGETED)).status is AcceptStatus.BUDGET_SPENT
    await window_over(redis)

    assert (await offered(log, limits=BUDGETED)).status is AcceptStatus.ACCEPTED

    assert await spent_and_reserved(redis) == (0, CALL_TOKENS + 110)
    assert (await account(redis))["window_ends_ms"] % (BUDGET.window_seconds * 1000) == 0


async def test_a_query_is_charged_to_the_window_that_it_ends_in(log: ProgramLog, redis: Redis) -> None:
    for _ in range(2):
        await offered(log, limits=BUDGETED)
    first, second = await claimed(log)
    await finished(log, first, spent=30)
    await window_over(redis)

    await finished(log, second, spent=20)

    assert await spent_and_reserved(redis) == (20, 0)
    assert (await account(redis))["window_ends_ms"] % (BUDGET.window_seconds * 1000) == 0


async def test_a_window_of_another_length_begins_anew(log: ProgramLog, redis: Redis) -> None:
    await offered(log, limits=BUDGETED)
    (claim,) = await claimed(log)
    await finished(log, claim, spent=BUDGET.tokens)
    assert (await offered(log, limits=BUDGETED)).status is AcceptStatus.BUDGET_SPENT

    shorter = replace(AMPLE, budget=TokenBudget(BUDGET.tokens, 60))
    assert (await offered(log, limits=shorter)).status is AcceptStatus.ACCEPTED


async def test_nobody_without_live_queries_has_anything_reserved(log: ProgramLog, redis: Redis) -> None:
    """A tracker of an earlier release ends a query and settles nothing."""
    await offered(log, limits=BUDGETED)
    await redis.hset(keys.tenant(SHARD, TENANT), "live", 0)

    await offered(log, limits=BUDGETED)

    assert await spent_and_reserved(redis) == (0, CALL_TOKENS)


async def test_many_at_once_overrun_a_budget_by_no_more_than_one_reservation(log: ProgramLog, redis: Redis) -> None:
    odd = replace(QUERY, sampling=SamplingParameters(max_tokens=300))

    acceptances = await asyncio.gather(*(offered(log, odd, limits=BUDGETED) for _ in range(40)))

    statuses = [each.status for each in acceptances]
    assert statuses.count(AcceptStatus.ACCEPTED) == 4
    assert statuses.count(AcceptStatus.BUDGET_SPENT) == 36
    assert await spent_and_reserved(redis) == (0, 1200)


async def test_without_a_budget_nothing_is_kept_of_what_queries_cost(log: ProgramLog, redis: Redis) -> None:
    await offered(log)
    (claim,) = await claimed(log)
    await finished(log, claim, spent=100)

    assert await account(redis) == {"live": 0}
    assert not {b"reserved", b"window_ms", b"urgent"} & set(await redis.hkeys(keys.program(claim.query_id)))
