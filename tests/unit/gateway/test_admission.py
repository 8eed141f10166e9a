"""Who may come in: what is predicted of a wait, whom that refuses, and what a refusal says."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.gateway.admission import Admission, AdmissionRules, predicted_wait_seconds
from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.pool_directory import KnownPool
from dynasor_serve.gateway.pool_load import PoolLoad, load_from
from dynasor_serve.programs.query import Query, QueryClass, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.program_log import Acceptance, AcceptStatus, ProgramLog, TokenBudget

INTERACTIVE, STANDARD, BATCH = QueryClass.INTERACTIVE, QueryClass.STANDARD, QueryClass.BATCH
RULES = AdmissionRules(
    live_queries_per_tenant=100,
    live_programs_per_pool=100,
    queued_programs_per_shard=100,
    idempotency_ttl_seconds=60,
    default_deadline_seconds=600.0,
    stale_seconds=6.0,
)
QUERY = Query(model="model", rule="even", prompt="What is it?", deadline_seconds=30.0)
SHARD, OTHER = Shard("00"), Shard("01")
NOW = 1000.0
#: A pool without a free place, that ends a call in 2 s and a program in 10 s.
BUSY = PoolLoad(
    told_at=NOW,
    wait_seconds={INTERACTIVE: 1.0, STANDARD: 20.0, BATCH: 100.0},
    seconds_per_call=4.0,
    seconds_per_program=10.0,
    places=2,
)
IDLE = replace(BUSY, wait_seconds=dict.fromkeys(QueryClass, 0.0), places=3, free_places=3, seconds_per_call=6.0)


def pool(load: PoolLoad | None) -> KnownPool:
    return KnownPool(
        name="pool",
        model="model",
        ready_workers=1,
        workers=1,
        max_model_len=0,
        trouble="",
        is_down=False,
        gives_rewards=False,
        load=load,
    )


@pytest.fixture
async def live() -> AsyncIterator[LivePrograms]:
    """Counts what it is told and looks nowhere."""
    redis = Redis()  # connects to nobody
    yield LivePrograms(ProgramLog(redis, final_ttl_seconds=60), refresh_seconds=3600)
    await redis.aclose()


@pytest.fixture
def admission(live: LivePrograms) -> Admission:
    return Admission(RULES, live)


def refusal(admission: Admission, query: Query, load: PoolLoad | None, now: float = NOW) -> ServiceError | None:
    """Why the query is refused; None where it is not."""
    try:
        admission.check_deadline(query, pool(load), now)
    except ServiceError as error:
        return error
    return None


# --- the prediction ---


def test_a_class_waits_for_itself_and_the_more_urgent_ones() -> None:
    admitted = {INTERACTIVE: 1, STANDARD: 2, BATCH: 4}
    waits = {each: predicted_wait_seconds(BUSY, each, admitted, 0) for each in QueryClass}

    assert waits == {INTERACTIVE: 1.0 + 2.0, STANDARD: 20.0 + 6.0, BATCH: 100.0 + 14.0}


def test_what_waits_for_a_tracker_is_ahead_of_all_but_those_for_whom_places_are_kept() -> None:
    waits = {each: predicted_wait_seconds(BUSY, each, {}, 5) for each in QueryClass}

    assert waits == {INTERACTIVE: 1.0, STANDARD: 70.0, BATCH: 150.0}


def test_free_places_are_filled_first() -> None:
    waits = [predicted_wait_seconds(IDLE, STANDARD, {STANDARD: number}, 0) for number in range(6)]

    assert waits == [0.0, 0.0, 0.0, 0.0, 2.0, 4.0], "a place is free every 2 s"


@given(
    numbers=st.tuples(*[st.integers(0, 1000)] * 3),
    waits=st.tuples(*[st.floats(0, 1e6)] * 3),
    unclaimed=st.integers(0, 1000),
)
def test_nobody_waits_for_a_less_urgent_class(
    numbers: tuple[int, int, int], waits: tuple[float, float, float], unclaimed: int
) -> None:
    load = replace(BUSY, wait_seconds=dict(zip(QueryClass, sorted(waits), strict=True)))
    admitted = dict(zip(QueryClass, numbers, strict=True))

    interactive, standard, batch = (predicted_wait_seconds(load, each, admitted, unclaimed) for each in QueryClass)

    assert interactive <= standard <= batch
    assert interactive == predicted_wait_seconds(load, INTERACTIVE, {INTERACTIVE: numbers[0]}, 0)


@given(st.builds(
    pb.PoolDemand,
    live_programs=st.integers(-5, 5),
    places=st.integers(-5, 5),
    running_calls=st.integers(-5, 5),
    ready_workers=st.integers(-5, 5),
    **{
        name: st.floats(allow_nan=True, allow_infinity=True)
        for name in (
            "outstanding_tokens", "arrivals_per_second", "arriving_tokens_per_second", "drained_tokens_per_second",
            "predicted_wait_seconds", "predicted_wait_interactive_seconds", "predicted_wait_batch_seconds",
            "seconds_per_call", "tokens_per_second_per_worker",
        )
    },
))  # fmt: skip
def test_a_scheduler_that_tells_nonsense_is_not_believed(demand: pb.PoolDemand) -> None:
    load = load_from(demand, NOW)

    figures = [*load.wait_seconds.values(), load.seconds_per_call, load.seconds_per_program]
    assert all(math.isfinite(figure) and figure >= 0 for figure in figures)
    assert load.places >= 0
    assert load.free_places >= 0


def test_programs_cost_what_arriving_ones_do_and_else_what_live_ones_still_take() -> None:
    demand = pb.PoolDemand(outstanding_tokens=1000, live_programs=4, drained_tokens_per_second=50)
    assert load_from(demand, NOW).seconds_per_program == 5.0

    demand.arrivals_per_second, demand.arriving_tokens_per_second = 0.5, 200
    assert load_from(demand, NOW).seconds_per_program == 8.0

    demand.drained_tokens_per_second = 0
    assert load_from(demand, NOW).seconds_per_program == 0.0


def test_a_pool_that_was_idle_is_taken_for_as_fast_as_its_workers_are() -> None:
    demand = pb.PoolDemand(
        arrivals_per_second=1,
        arriving_tokens_per_second=400,
        drained_tokens_per_second=0.01,
        tokens_per_second_per_worker=50,
        ready_workers=4,
    )
    assert load_from(demand, NOW).seconds_per_program == 2.0


# --- deadlines ---


def test_a_query_is_refused_whose_first_call_would_end_too_late(admission: Admission) -> None:
    assert refusal(admission, replace(QUERY, deadline_seconds=24.0), BUSY) is None

    error = refusal(admission, replace(QUERY, deadline_seconds=9.0), BUSY)

    assert error is not None
    assert (error.reason, error.field, error.is_retryable) == (Reason.DEADLINE_UNREACHABLE, "deadline", True)
    assert error.retry_after_seconds == 15.0, "by then it would be in time"
    assert "predicted to wait 20.0 s in pool 'pool', and one call takes 4.0 s; its deadline is in 9.0 s" in str(error)


def test_an_urgent_query_is_admitted_where_another_is_refused(admission: Admission) -> None:
    hasty = replace(QUERY, deadline_seconds=9.0)

    assert refusal(admission, hasty, BUSY) is not None
    assert refusal(admission, replace(hasty, query_class=INTERACTIVE), BUSY) is None


def test_a_batch_query_without_a_deadline_of_its_own_waits(admission: Admission) -> None:
    long = replace(BUSY, wait_seconds=dict.fromkeys(QueryClass, 10_000.0))

    for deadline_seconds, is_refused in ((600.0, False), (86_400.0, False), (599.0, True)):
        query = replace(QUERY, query_class=BATCH, deadline_seconds=deadline_seconds)
        assert (refusal(admission, query, long) is not None) is is_refused
    assert refusal(admission, replace(QUERY, deadline_seconds=600.0), long) is not None, "nor does another class"


def test_without_figures_or_with_old_ones_everybody_is_admitted(admission: Admission) -> None:
    hasty = replace(QUERY, deadline_seconds=1.0)

    assert refusal(admission, hasty, None) is None
    assert refusal(admission, hasty, BUSY, now=NOW + 6.1) is None
    assert refusal(admission, hasty, BUSY, now=NOW + 5.9) is not None


def test_an_idle_pool_admits_what_is_shorter_than_a_call(admission: Admission) -> None:
    assert refusal(admission, replace(QUERY, deadline_seconds=0.5), IDLE) is None


def test_the_setting_turns_it_off(live: LivePrograms) -> None:
    admission = Admission(replace(RULES, by_deadline=False), live)

    assert refusal(admission, replace(QUERY, deadline_seconds=1.0), BUSY) is None


def test_many_queries_between_two_looks_are_counted_until_the_next(admission: Admission) -> None:
    """Programs begin with 3 calls, and each call takes 6 s in one of 3 places; the deadline is in 20 s."""
    query, idle = replace(QUERY, deadline_seconds=20.0), pool(IDLE)
    admitted = 0
    while refusal(admission, query, IDLE) is None:
        admission.enter(query, idle, SHARD, calls=3)
        admitted += 1
    assert admitted == 4, "the first fills the places, and a fifth would wait for the three after it"

    admission.leave(query, idle, SHARD, calls=3)
    assert refusal(admission, query, IDLE) is None, "one of them was not accepted after all"

    admission.enter(query, idle, SHARD, calls=3)
    told_anew = replace(IDLE, told_at=NOW + 2.0)
    assert refusal(admission, query, told_anew, NOW + 2.0) is None


# --- bounds ---


def test_less_urgent_classes_leave_a_part_of_every_bound(admission: Admission) -> None:
    bounds = {}
    for each in QueryClass:
        limits = admission.limits(replace(QUERY, query_class=each), pool(None), SHARD)
        bounds[each] = (
            limits.live_queries_per_tenant, limits.queued_programs_per_shard, limits.live_programs_of_pool,
        )  # fmt: skip

    assert bounds == {INTERACTIVE: (100,) * 3, STANDARD: (90,) * 3, BATCH: (80,) * 3}


@given(most=st.integers(1, 10**6), share=st.floats(0, 0.4))
def test_every_class_has_a_place_in_every_bound(most: int, share: float) -> None:
    rules = replace(RULES, urgent_share=share)

    assert 1 <= rules.bound(most, BATCH) <= rules.bound(most, STANDARD) <= rules.bound(most, INTERACTIVE) == most


def test_programs_of_other_shards_count_in_the_pools_bound(admission: Admission, live: LivePrograms) -> None:
    live.add("pool", OTHER, 60)
    live.add("pool", SHARD, 25)
    live.add("another pool", OTHER, 7)

    assert admission.limits(QUERY, pool(None), SHARD).live_programs_of_pool == 30

    live.add("pool", OTHER, 60)
    assert admission.limits(QUERY, pool(None), SHARD).live_programs_of_pool == 0


def test_budgets_are_those_of_the_tenant_or_of_all_others(live: LivePrograms) -> None:
    admission = Admission(replace(RULES, tenant_budgets={"ada": 5, "*": 7}, budget_window_seconds=60), live)

    assert admission.limits(replace(QUERY, tenant="ada"), pool(None), SHARD).budget == TokenBudget(5, 60)
    assert admission.limits(replace(QUERY, tenant="bob"), pool(None), SHARD).budget == TokenBudget(7, 60)

    named_only = Admission(replace(RULES, tenant_budgets={"ada": 5}), live)
    assert named_only.limits(replace(QUERY, tenant="bob"), pool(None), SHARD).budget is None


@pytest.mark.parametrize(
    ("status", "present", "reason", "retry_seconds", "words"),
    [
        # The pool ends one of its 50 programs in 10 s; a tenant with 25 of them has every second one.
        (AcceptStatus.TENANT_FULL, 25, Reason.TENANT_FULL, 20.0, "tenant 'default' has 25 live queries; at most 90 "),
        (
            AcceptStatus.QUEUE_FULL,
            10,
            Reason.QUEUE_FULL,
            50.0,
            "10 programs wait for a tracker in shard 00; at most 90",
        ),
        # Five more than a standard query finds room beside: six must end.
        (AcceptStatus.POOL_FULL, 45, Reason.POOL_FULL, 60.0, "pool 'pool' has 95 live queries; at most 90 while"),
    ],
)
def test_a_refusal_names_the_bound_the_figure_and_when_to_come_back(
    live: LivePrograms, status: AcceptStatus, present: int, reason: Reason, retry_seconds: float, words: str
) -> None:
    live.add("pool", OTHER, 50)
    acceptance = Acceptance(status, QueryId(""), present)

    error = Admission(RULES, live).refusal(acceptance, QUERY, pool(BUSY), SHARD)

    assert (error.reason, error.retry_after_seconds) == (reason, retry_seconds)
    assert words in str(error)
    assert "of 100 in all" in str(error)
    assert Admission(RULES, live).refusal(acceptance, QUERY, pool(None), SHARD).retry_after_seconds == 1.0


def test_a_spent_budget_says_when_the_next_window_begins(live: LivePrograms) -> None:
    admission = Admission(replace(RULES, tenant_budgets={"*": 5000}), live)
    acceptance = Acceptance(AcceptStatus.BUDGET_SPENT, QueryId(""), 5100, window_seconds_left=1234.5)

    error = admission.refusal(acceptance, QUERY, pool(BUSY), SHARD)

    assert (error.reason, error.retry_after_seconds) == (Reason.TENANT_BUDGET_SPENT, 1234.5)
    assert "5100 completion tokens of its 5000 per 3600 s" in str(error)
