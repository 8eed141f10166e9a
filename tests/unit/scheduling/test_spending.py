"""What is learned of programs' remaining work: exact where there is much, the cap where there is nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynasor_serve.scheduling.spending import Kind, SpendHistory, kind_of

CERTAIN = kind_of("self-consistency", 0.95, 6, 10)
DOUBTFUL = kind_of("self-consistency", 0.15, 6, 10)


def test_without_history_the_cap_is_forecast() -> None:
    assert SpendHistory().ratio(CERTAIN) == 1.0


def test_certain_programs_are_told_from_doubtful_ones() -> None:
    history = SpendHistory()
    for _ in range(200):
        history.observe(CERTAIN, spent=100.0, at_cap=1000.0)
        history.observe(DOUBTFUL, spent=900.0, at_cap=1000.0)

    assert history.ratio(CERTAIN) == pytest.approx(0.1, abs=0.02)
    assert history.ratio(DOUBTFUL) == pytest.approx(0.9, abs=0.02)


def test_an_unknown_kind_is_forecast_as_those_of_its_progress_and_then_as_its_algorithm() -> None:
    history = SpendHistory()
    for _ in range(200):
        history.observe(CERTAIN, spent=200.0, at_cap=1000.0)

    assert history.ratio(DOUBTFUL) == pytest.approx(0.2, abs=0.03)
    assert history.ratio(kind_of("self-consistency", 0.5, 15, 1)) == pytest.approx(0.2, abs=0.03)
    assert history.ratio(kind_of("rebase", 0.95, 6, 10)) == 1.0


def test_a_few_programs_move_the_forecast_a_little() -> None:
    history = SpendHistory()
    history.observe(CERTAIN, spent=0.0, at_cap=1000.0)

    assert 0.3 < history.ratio(CERTAIN) < 1.0


def test_a_change_of_policy_is_learned() -> None:
    history = SpendHistory()
    for _ in range(3000):
        history.observe(CERTAIN, spent=1000.0, at_cap=1000.0)
    for _ in range(1500):
        history.observe(CERTAIN, spent=200.0, at_cap=1000.0)

    assert history.ratio(CERTAIN) < 0.3


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True)),
        max_size=30,
    )
)
@example([(0.0, 4.5e307)])  # of which four are more than a float holds
@example([(1e306, 1e306), (1e306, 1e306)] * 100)
def test_whatever_is_told_the_ratio_stays_a_number(told: list[tuple[float, float]]) -> None:
    history = SpendHistory()
    for spent, at_cap in told:
        history.observe(CERTAIN, spent, at_cap)

    assert 0 <= history.ratio(CERTAIN) < math.inf


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(-10, 2**40), st.integers(-10, 2**40))
def test_every_certainty_has_a_kind(certaindex: float, samples: int, remaining: int) -> None:
    kind = kind_of("mcts", certaindex, samples, remaining)

    assert 0 <= kind.progress <= 8
    assert 0 <= kind.certainty <= 10
    assert kind == kind_of("mcts", certaindex, samples, remaining)


def test_certainty_of_no_samples_is_none() -> None:
    assert kind_of("mcts", 0.9, 0, 8) == Kind("mcts", 0, 0)
