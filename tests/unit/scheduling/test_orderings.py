"""What each ordering goes by, on the real pool, and that no prediction can confuse it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId
from dynasor_serve.scheduling.history import BranchHistory
from dynasor_serve.scheduling.orderings.deadline_slack import MILLISECONDS_PER_TOKEN
from dynasor_serve.scheduling.orderings.registry import ordering_names, parse_ordering
from dynasor_serve.scheduling.pool import Pool
from unit.scheduling.pools import NO_PROMISES, granted, order_of, pool_with, wanting

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)


def served(pool: Pool, grants: int, tokens: int = 100) -> Counter[str]:
    """How many of the next grants, one at a time, go to each program; every call takes so many tokens."""
    count = Counter[str]()
    for _ in range(grants):
        (grant,) = pool.grants(0.0)
        count[grant.call.program] += 1
        pool.ended(grant.call, CallEnd.FINISHED, tokens)
    return count


def test_shortest_call_looks_at_the_call_and_not_at_what_its_program_has_left() -> None:
    pool = pool_with(1, ordering="shortest-call")
    pool.want("t", wanting("brief", 0, 1, knob=500, mean_tokens=50), 0.0)
    pool.want("t", wanting("wordy", 0, 1, knob=2, mean_tokens=60), 0.0)

    assert order_of(pool) == ["brief/0", "brief/1", "wordy/0", "wordy/1"]


def test_gang_fcfs_finishes_the_program_that_was_accepted_first() -> None:
    pool = pool_with(1, ordering="gang-fcfs")
    pool.want("t", wanting("second", 0, 1, accepted_at_ms=2000, knob=1), 0.0)
    pool.want("t", wanting("first", 0, accepted_at_ms=1000, knob=99), 1.0)
    assert granted(pool) == ["first/0"]
    pool.want("t", wanting("first", 0, 1, 2, accepted_at_ms=1000, knob=99), 2.0)
    pool.ended(CallId("first", 0, "1.1"), CallEnd.FINISHED, 100)

    pool.want("t", wanting("first", 1, 2, accepted_at_ms=1000, knob=98), 3.0)

    assert order_of(pool) == ["first/1", "first/2", "second/0", "second/1"]


def test_least_attained_service_yields_to_whoever_was_served_less() -> None:
    pool = pool_with(1, ordering="least-attained-service")
    pool.want("t", wanting("served", 0, tokens_spent=300, knob=1), 0.0)
    pool.want("t", wanting("new", 0, 1, tokens_spent=0, knob=99), 1.0)
    assert granted(pool) == ["new/0"]

    pool.want("t", wanting("new", 1, tokens_spent=400, knob=98), 2.0)
    pool.ended(CallId("new", 0, "1.1"), CallEnd.FINISHED, 400)

    assert order_of(pool) == ["served/0", "new/1"]


def test_deadline_slack_weighs_the_deadline_against_the_length_of_a_branch() -> None:
    long, short = 1000, 100
    apart = int(MILLISECONDS_PER_TOKEN * (long - short))
    pool = pool_with(1, ordering="deadline-slack")
    pool.want("t", wanting("never", 0, deadline_ms=0), 0.0)
    pool.want("t", wanting("soon", 0, deadline_ms=50_000, mean_tokens=short), 0.0)
    pool.want("t", wanting("later-but-long", 0, deadline_ms=50_000 + apart - 1, mean_tokens=long), 0.0)
    pool.want("t", wanting("later", 0, deadline_ms=50_000 + apart + 1, mean_tokens=long), 0.0)

    assert order_of(pool) == ["later-but-long/0", "soon/0", "later/0", "never/0"]


def test_tenants_share_by_their_weights_however_much_each_asks_for() -> None:
    pool = pool_with(1, ordering="fair-virtual-time", fairness=replace(NO_PROMISES, tenant_weights={"heavy": 3.0}))
    for number in range(50):
        pool.want("t", wanting(f"many-{number}", *range(8), tenant="many"), 0.0)
    pool.want("t", wanting("heavy", *range(200), tenant="heavy"), 1.0)
    pool.want("t", wanting("light", *range(200), tenant="light"), 2.0)

    count = served(pool, 100)

    assert (count["heavy"], count["light"]) == (60, 20)
    assert {name for name in count if name.startswith("many")} == {"many-0", "many-1", "many-2"}, "a gang at a time"


def test_a_tenant_pays_for_the_tokens_that_its_calls_took_and_not_for_those_forecast() -> None:
    pool = pool_with(1, ordering="fair-virtual-time")
    pool.want("t", wanting("as-said", *range(100), tenant="as-said", mean_tokens=100), 0.0)
    pool.want("t", wanting("boaster", *range(100), tenant="boaster", mean_tokens=10), 0.0)
    count, tokens = Counter[str](), {"as-said": 100, "boaster": 300}
    for _ in range(80):
        (grant,) = pool.grants(0.0)
        count[grant.call.program] += 1
        pool.ended(grant.call, CallEnd.FINISHED, tokens[grant.call.program])

    assert count == {"as-said": 60, "boaster": 20}


def test_a_tenant_is_not_owed_the_time_in_which_it_wanted_nothing() -> None:
    pool = pool_with(1, ordering="fair-virtual-time")
    pool.want("t", wanting("busy", *range(100), tenant="busy"), 0.0)
    pool.want("t", wanting("early", 0, tenant="idle"), 0.0)
    served(pool, 41)

    pool.want("t", wanting("late", *range(20), tenant="idle"), 0.0)

    assert served(pool, 20) == {"late": 10, "busy": 10}


def test_a_tenants_grant_that_came_back_is_not_charged() -> None:
    pool = pool_with(1, ordering="fair-virtual-time")
    pool.want("t", wanting("a", *range(9), tenant="a"), 0.0)
    pool.want("t", wanting("b", *range(9), tenant="b"), 0.0)
    (grant,) = pool.grants(0.0)
    pool.ended(grant.call, CallEnd.NOT_STARTED, 0)

    assert granted(pool) == ["a/1"]


# --- what cannot be


@pytest.mark.parametrize("name", ordering_names())
@given(
    knob=INT32,
    mean_tokens=st.floats(),
    spent=INT64,
    accepted_at_ms=INT64,
    deadline_ms=INT64,
    arrival=st.integers(0, 2**40),
    gain=st.floats(),
    samples=INT32,
    position=st.integers(0, 1024),
)
def test_no_prediction_makes_a_key_that_cannot_be_compared(
    name: str,
    knob: int,
    mean_tokens: float,
    spent: int,
    accepted_at_ms: int,
    deadline_ms: int,
    arrival: int,
    gain: float,
    samples: int,
    position: int,
) -> None:
    want = wanting(
        "a",
        0,
        knob=knob,
        mean_tokens=mean_tokens,
        tokens_spent=spent,
        accepted_at_ms=accepted_at_ms,
        deadline_ms=deadline_ms,
        gain_per_token=gain,
        samples=samples,
    )
    ordering, tokens = parse_ordering(name), BranchHistory().tokens_per_branch(want.algorithm, mean_tokens)

    assert 0 < tokens < math.inf
    assert not math.isnan(ordering.key(want, arrival, tokens, position))
    assert 0 <= ordering.engine_priority(want, tokens) <= 999_999


@pytest.mark.parametrize("name", ["gang-shortest", "shortest-call", "deadline-slack"])
@pytest.mark.parametrize("absurd", [math.nan, math.inf, -math.inf, -5.0, 1e300])
def test_an_absurd_mean_is_as_good_as_none(name: str, absurd: float) -> None:
    orders = []
    for mean_tokens in (absurd, 0.0):
        pool = pool_with(1, ordering=name)
        pool.want("t", wanting("short", 0, mean_tokens=50), 0.0)
        pool.want("t", wanting("unknown", 0, mean_tokens=mean_tokens), 0.0)
        pool.want("t", wanting("long", 0, mean_tokens=1000), 0.0)
        orders.append(order_of(pool))

    assert orders[0] == orders[1]
    assert orders[0][1] == "unknown/0", "of middling length until something is known"


@pytest.mark.parametrize("absurd", [-1, -(2**62), 2**62])
def test_an_absurd_length_of_a_finished_call_teaches_nothing(absurd: int) -> None:
    pool = pool_with(1, ordering="fair-virtual-time")
    pool.want("t", wanting("a", 0, 1, tenant="a", mean_tokens=0), 0.0)
    pool.want("t", wanting("b", 0, 1, tenant="b", mean_tokens=100), 0.0)
    (grant,) = pool.grants(0.0)
    pool.ended(grant.call, CallEnd.FINISHED, absurd)

    assert order_of(pool) == ["b/0", "b/1", "a/1"], "it is charged what was forecast, 256 tokens"


def test_a_negative_knob_is_as_good_as_none() -> None:
    pool = pool_with(1, ordering="gang-shortest")
    pool.want("t", wanting("four", *range(4), knob=4), 0.0)
    pool.want("t", wanting("absurd", *range(3), knob=-7), 0.0)
    pool.want("t", wanting("two", 0, 1, knob=2), 0.0)

    assert [call.partition("/")[0] for call in order_of(pool)] == ["two"] * 2 + ["absurd"] * 3 + ["four"] * 4
