"""What cannot be, or does not fit a pool's book: nothing is lost or doubled, and the pool says what it ignored."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.ignored import IgnoredReason
from dynasor_serve.scheduling.orderings.registry import ordering_names
from dynasor_serve.scheduling.placement import WorkerState
from dynasor_serve.scheduling.pool import Pool
from unit.scheduling.pools import granted, order_of, pool_with, wanting, worker

NUMBERS = (
    "class_rank",
    "remaining_knob",
    "mean_tokens_per_branch",
    "accepted_at_ms",
    "deadline_ms",
    "tokens_spent",
    "certaindex",
    "samples",
    "gain_per_token",
    "speculative",
    "prompt_tokens",
)
REALS = ("mean_tokens_per_branch", "certaindex", "gain_per_token", "prompt_tokens")
NO_NUMBERS = st.sampled_from([math.nan, math.inf, -math.inf])
ODD_VALUES = st.dictionaries(
    st.sampled_from(NUMBERS).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(NO_NUMBERS, st.floats() if name in REALS else st.integers()))
    ),
    st.none(),
).map(lambda pairs: dict(pairs.keys()))


def ignored(pool: Pool) -> list[tuple[IgnoredReason, str]]:
    """What was ignored since the last question, as (reason, sentence)."""
    _, newest = pool.ignored.take()
    return [(each.reason, f"{each.what}: {each.why}") for each in newest]


# --- numbers


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ordering", ordering_names())
def test_a_number_that_cannot_be_is_ignored_and_named(name: str, value: float, ordering: str) -> None:
    pool = pool_with(1, ordering=ordering, fairness=Fairness())
    odd: dict[str, Any] = {name: value}
    pool.want("t", replace(wanting("odd", 0, 1), **odd), 0.0)
    for number in range(8):
        pool.want("t", wanting(str(number), 0, 1, knob=number), 0.0)

    assert ignored(pool) == [
        (IgnoredReason.IMPOSSIBLE_NUMBER, f"{name} {value} of odd: no program has that"),
    ]
    assert len(set(order_of(pool))) == 18


@given(
    st.lists(ODD_VALUES, max_size=12),
    st.sampled_from(ordering_names()),
)
def test_no_numbers_lose_or_double_a_grant_or_spoil_the_order_of_the_others(
    odd: list[dict[str, Any]], ordering: str
) -> None:
    pool = pool_with(2, ordering=ordering)  # one place for speculation, too
    for number, values in enumerate(odd):
        pool.want("t", replace(wanting(f"odd {number}", 0, 1), **values), 0.0)
    for number in (3, 1, 2):
        sane = wanting(f"sane {number}", 0, knob=number, mean_tokens=number, accepted_at_ms=number, tokens_spent=number)
        pool.want("t", replace(sane, deadline_ms=10**6 * number, samples=1, gain_per_token=0.1 / number), 0.0)

    order = order_of(pool)

    assert len(order) == len(set(order)) == 2 * len(odd) + 3
    sane_order = [call.partition("/")[0] for call in order if call.startswith("sane")]
    if ordering == "fcfs":
        assert sane_order == ["sane 3", "sane 1", "sane 2"]
    elif ordering != "fair-virtual-time" or not odd:  # there, the tenant's order is by acceptance all the same
        assert sane_order == ["sane 1", "sane 2", "sane 3"]
    assert all(each.work == 0 for each in pool.workers)


@pytest.mark.parametrize("tokens", [-1, 2**60, math.nan, math.inf, -math.inf])
def test_an_end_after_impossible_tokens_frees_the_place_and_teaches_nothing(tokens: Any) -> None:
    pool = pool_with(1)
    pool.want("t", wanting("a", 0, 1, mean_tokens=0), 0.0)
    (grant,) = pool.grants(0.0)
    pool.ended(grant.call, CallEnd.FINISHED, tokens)

    assert granted(pool) == ["a/1"]
    assert worker(pool).work == 2 * 256, "the forecast of who knows nothing"
    ((reason, sentence),) = ignored(pool)
    assert reason is IgnoredReason.IMPOSSIBLE_NUMBER
    assert f"{tokens} tokens of" in sentence


# --- calls


def test_an_end_that_is_told_twice_frees_one_place() -> None:
    pool = pool_with(2)
    pool.want("t", wanting("a", 0, 1, 2, 3), 0.0)
    first, _ = pool.grants(0.0)
    pool.ended(first.call, CallEnd.FINISHED, 10)
    assert ignored(pool) == []
    pool.ended(first.call, CallEnd.WORKER_FAILED, 10)

    ((reason, sentence),) = ignored(pool)
    assert reason is IgnoredReason.UNKNOWN_CALL
    assert "its end was told before, or it was never granted" in sentence
    assert granted(pool) == ["a/2"]
    assert worker(pool).failures_in_a_row == 0


def test_a_call_that_is_wanted_twice_over_is_granted_once() -> None:
    pool = pool_with(4)
    call = CallId("a", 0, "1.1")
    pool.want("t", replace(wanting("a"), calls=(call, call, call)), 0.0)
    pool.want("other", replace(wanting("a"), calls=(call,)), 0.0)

    (grant,) = pool.grants(0.0)

    assert (grant.tracker, grant.call) == ("t", call)
    assert ignored(pool) == [(IgnoredReason.WANTED_TWICE, f"{call} wanted by other: it runs for t")]
    assert (pool.waiting_calls, pool.running_calls) == (0, 1)


def test_a_call_that_two_trackers_want_is_not_lost_with_one_of_them() -> None:
    pool = pool_with(4)
    call = CallId("a", 0, "1.1")
    pool.want("t", replace(wanting("a"), calls=(call,)), 0.0)
    pool.want("other", replace(wanting("a"), calls=(call,)), 0.0)
    pool.tracker_gone("t")

    assert [grant.tracker for grant in pool.grants(0.0)] == ["other"]


# --- workers


def test_a_worker_is_as_busy_as_the_book_says_whatever_it_answers() -> None:
    """It claims to be well, again and again, and is added again; its places are still taken."""
    pool = pool_with(2)
    pool.want("t", wanting("a", *range(9)), 0.0)
    grants = pool.grants(0.0)
    for _ in range(3):
        pool.worker_health("w0", healthy=True)
        pool.add_worker("w0", "http://w0", "replay", 2)
        assert granted(pool) == []

    pool.add_worker("w0", "http://w0", "replay", 1)
    pool.ended(grants[0].call, CallEnd.FINISHED, 10)
    assert granted(pool) == [], "it still has as many as it may"
    pool.ended(grants[1].call, CallEnd.FINISHED, 10)
    assert granted(pool) == ["a/2"]


@pytest.mark.parametrize(
    "vanish",
    [lambda pool: pool.worker_health("w0", healthy=False, message="gone"), lambda pool: pool.drain_worker("w0")],
    ids=["quarantined", "drained"],
)
def test_calls_of_a_worker_that_vanishes_are_their_trackers_until_they_end(vanish: Callable[[Pool], Any]) -> None:
    pool = pool_with(1, 1)
    pool.want("t", wanting("a", 0), 0.0)
    (grant,) = pool.grants(0.0)
    assert grant.worker == "w0"
    vanish(pool)
    pool.forget_drained(0.0)
    pool.forget_drained(1e6)
    pool.want("t", wanting("a", 0), 0.0)

    assert granted(pool) == [], "it is not granted again before its tracker has told its end"
    assert pool.running_calls == 1
    pool.ended(grant.call, CallEnd.WORKER_FAILED, 0)
    pool.want("t", wanting("a", 0, attempt="1.2"), 0.0)
    (again,) = pool.grants(0.0)
    assert (again.worker, again.call.attempt) == ("w1", "1.2")
    assert worker(pool, "w0").state is not WorkerState.READY
    assert worker(pool, "w0").work == 0


# --- the clock


@pytest.mark.parametrize("now", [-1e9, -1.0, math.nan, math.inf, -math.inf])
def test_a_clock_that_goes_back_or_tells_no_time_is_said_and_no_time_passes(now: float) -> None:
    pool = pool_with(1, fairness=Fairness(longest_wait_seconds=60))
    pool.want("t", wanting("a", 0), 0.0)
    pool.want("t", wanting("b", 0), now)

    grants = pool.grants(now)

    assert [(grant.call.program, grant.waited_seconds) for grant in grants] == [("a", 0.0)]
    assert {reason for reason, _ in ignored(pool)} == {IgnoredReason.CLOCK}
    pool.ended(grants[0].call, CallEnd.FINISHED, 10)
    assert [grant.call.program for grant in pool.grants(now if math.isfinite(now) else 0.0)] == ["b"]


def test_time_goes_on_from_where_the_clock_jumped_to() -> None:
    pool = pool_with(1)
    pool.want("t", wanting("a", 0), 1e6)
    assert pool.longest_wait(1e6 + 5) == 5
    assert pool.longest_wait(0.0) == 5
    assert pool.longest_wait(7.0) == 12
    (grant,) = pool.grants(8.0)

    assert grant.waited_seconds == 13


@given(
    st.lists(st.one_of(st.floats(), st.floats(0, 100), st.sampled_from([1e12, -1e12])), min_size=1, max_size=40),
    st.sampled_from(ordering_names()),
)
def test_no_clock_loses_or_doubles_a_grant(clock: list[float], ordering: str) -> None:
    pool = pool_with(2, 1, ordering=ordering, fairness=Fairness(longest_wait_seconds=5))
    grants = []
    for number, now in enumerate(clock):
        pool.want("t", wanting(str(number), 0, 1, class_rank=number % 3), now)
        grants += pool.grants(now)
        pool.forget_drained(now)
        if number % 3 == 0 and len(grants) > number // 3:
            pool.ended(grants[number // 3].call, CallEnd.FINISHED, 10)
    ended = {grant.call for number, grant in enumerate(grants) if number * 3 < len(clock)}
    for grant in grants:
        if grant.call not in ended:
            pool.ended(grant.call, CallEnd.FINISHED, 10)
    while more := pool.grants(clock[-1]):
        grants += more
        for grant in more:
            pool.ended(grant.call, CallEnd.FINISHED, 10)

    assert sorted(grant.call for grant in grants) == sorted(
        CallId(str(number), branch, "1.1") for number in range(len(clock)) for branch in range(2)
    )
    assert all(grant.waited_seconds >= 0 for grant in grants)


# --- what is said of it


def test_what_is_ignored_is_counted_in_full_and_kept_in_part() -> None:
    pool = pool_with(1)
    for number in range(1000):
        pool.ended(CallId(str(number), 0, "1.1"), CallEnd.FINISHED, 1)

    counts, newest = pool.ignored.take()

    assert counts == {IgnoredReason.UNKNOWN_CALL: 1000}
    assert len(newest) < 100
    assert "999" in newest[-1].what
    assert pool.ignored.take() == ({}, [])
