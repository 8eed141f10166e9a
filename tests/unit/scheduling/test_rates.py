"""Rates that are right from the start, after idleness, and however events come."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.rates import EventRate, SlidingShare
from dynasor_serve.scheduling.stream_speed import StreamSpeed


@pytest.mark.parametrize("after", [10.0, 30.0, 60.0, 600.0])
def test_a_steady_rate_is_told_right_from_the_start(after: float) -> None:
    rate = EventRate(60.0)
    for tick in range(int(after * 10)):
        rate.add(tick / 10, 3.0)

    assert rate.per_second(after) == pytest.approx(30.0, rel=0.02)


def test_a_first_event_is_no_enormous_rate() -> None:
    rate = EventRate(60.0)
    rate.add(5.0)

    assert rate.per_second(5.0) < 0.2


def test_a_rate_fades_when_nothing_comes_and_returns_when_something_does() -> None:
    rate = EventRate(60.0)
    for tick in range(600):
        rate.add(float(tick))
    assert rate.per_second(600.0 + 600.0) < 0.001

    for tick in range(1200, 1500):
        rate.add(float(tick))
    assert rate.per_second(1500.0) == pytest.approx(1.0, rel=0.05)


def test_what_happened_before_the_meter_began_weighs_by_its_age() -> None:
    """A new scheduler is told at once of programs that arrived one per second for ten minutes."""
    rate = EventRate(60.0)
    for age in range(600):
        rate.add(1000.0, 1.0, age=float(age))

    assert rate.per_second(1000.0) == pytest.approx(1.0, rel=0.02)


def test_nothing_is_a_rate_of_zero() -> None:
    assert EventRate(60.0).per_second(100.0) == 0.0


def test_a_share_forgets_what_is_older_than_its_window() -> None:
    share = SlidingShare(300.0)
    for second in range(100):
        share.add(float(second), is_hit=False)
    for second in range(100, 150):
        share.add(float(second), is_hit=True)

    assert share.counts(150.0) == (50, 150)
    assert share.counts(405.0) == (50, 50)
    assert share.counts(1000.0) == (0, 0)


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans()), max_size=200))
def test_a_share_counts_all_of_the_window_give_or_take_a_slice(steps: list[tuple[float, bool]]) -> None:
    share, now, told = SlidingShare(300.0), 0.0, []
    for gap, is_hit in steps:
        now += gap
        share.add(now, is_hit=is_hit)
        told.append((now, is_hit))

    hits, all_ = share.counts(now)

    assert sum(at > now - 300 for at, _ in told) <= all_ <= sum(at > now - 311 for at, _ in told)
    assert 0 <= hits <= all_


def observed(speed: StreamSpeed, calls: float, fixed: float, per_call: float) -> None:
    speed.observe(200, 200 * (fixed + per_call * calls), calls)


def test_a_full_worker_is_foretold_from_emptier_ones() -> None:
    speed, draw = StreamSpeed(), random.Random(0)
    for _ in range(300):
        observed(speed, draw.uniform(1, 12), fixed=0.02, per_call=0.001)

    assert speed.tokens_per_second(32.0) == pytest.approx(32 / 0.052, rel=0.1)


def test_without_variation_a_worker_generates_in_proportion() -> None:
    speed = StreamSpeed()
    for _ in range(50):
        observed(speed, 4.0, fixed=0.02, per_call=0.001)

    assert speed.seconds_per_token(4.0) == pytest.approx(0.024)
    assert speed.tokens_per_second(8.0) == pytest.approx(8 / 0.024)


def test_nothing_measured_is_told_as_nothing() -> None:
    assert StreamSpeed().tokens_per_second(8.0) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 100_000), st.floats(1e-6, 1e6), st.floats(1, 1000)), min_size=1, max_size=30),
    st.floats(0.5, 1000),
)
def test_no_speed_is_absurd_whatever_was_measured(told: list[tuple[int, float, float]], calls: float) -> None:
    speed = StreamSpeed()
    for tokens, seconds, beside in told:
        speed.observe(tokens, seconds, beside)

    assert 0 < speed.seconds_per_token(calls) < math.inf
