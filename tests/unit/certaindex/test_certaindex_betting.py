"""Bets against a mean loss: closed cases, the bound by other means, and how often the truth is refuted."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.betting import (
    FIRST_LOG_PARTS,
    SHARES,
    Floats,
    learnt_log_parts,
    log_capital,
    log_growths,
    questions_needed,
    upper_bound,
)

# All on the largest share, as where ordering has shown no loss at all.
ALL_ON_THE_LARGEST = np.where(np.arange(len(SHARES)) == 0, 0.0, -np.inf)
LOSSES = st.lists(st.floats(-1, 1), min_size=1, max_size=30).map(np.array)


def capital(losses: Floats, mean: float, parts: Floats = FIRST_LOG_PARTS) -> float:
    return float(np.exp(log_capital(log_growths(losses, mean).sum(axis=0), parts)))


def test_the_first_capital_is_one() -> None:
    assert np.exp(FIRST_LOG_PARTS).sum() == pytest.approx(1)
    assert capital(np.array([]), 0.02) == pytest.approx(1)


@pytest.mark.parametrize(
    ("loss", "share", "factor"), [(0, 1, 1 / 0.99), (0.5, 0.5, 1 - 0.5 * 0.49 / 0.99), (-1, 1, 2 / 0.99)]
)
def test_a_question_multiplies_what_is_at_stake(loss: float, share: float, factor: float) -> None:
    at = int(np.abs(SHARES - share).argmin())
    assert exp(log_growths(np.array([loss]), 0.01)[0, at]) == pytest.approx(factor, rel=2e-3)


def test_no_harm_in_299_questions_refutes_one_point_and_in_298_does_not() -> None:
    assert capital(np.zeros(299), 0.01, ALL_ON_THE_LARGEST) >= 20
    assert capital(np.zeros(298), 0.01, ALL_ON_THE_LARGEST) < 20


def test_without_anything_learnt_no_harm_takes_more_questions() -> None:
    needed = questions_needed(np.zeros(1), 0.01, 0.95)
    assert needed is not None
    assert needed > 299
    assert capital(np.zeros(needed), 0.01) >= 20 > capital(np.zeros(needed - 1), 0.01)


def test_one_lost_question_does_not_end_the_game() -> None:
    assert capital(np.array([1.0, *np.zeros(2000)]), 0.01) > 20


@pytest.mark.parametrize("losses", [np.ones(1), np.array([0.02]), np.array([1.0, -0.9])])
def test_no_number_of_questions_shows_what_they_contradict(losses: Floats) -> None:
    assert questions_needed(losses, 0.02, 0.95) is None


def test_the_spread_of_losses_takes_questions() -> None:
    calm = questions_needed(np.array([0.005, 0.005]), 0.02, 0.95)
    wild = questions_needed(np.array([0.505, -0.495]), 0.02, 0.95)
    assert calm is not None
    assert wild is not None
    assert wild > 10 * calm


@given(LOSSES, st.floats(-0.9, 0.9), st.floats(0.001, 0.09))
def test_the_capital_grows_with_the_mean_that_is_doubted(losses: Floats, mean: float, more: float) -> None:
    assert capital(losses, mean + more) >= capital(losses, mean) * (1 - 1e-9)


@given(LOSSES, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_bound_is_where_the_capital_reaches_what_refutes(losses: Floats, confidence: float) -> None:
    bound = upper_bound(losses, confidence)
    assert losses.mean() <= bound <= 1
    if bound < 1 - 1e-6:
        assert log(capital(losses, bound)) == pytest.approx(log(1 / (1 - confidence)), abs=1e-3)


def test_parts_learnt_from_harmless_questions_go_to_the_largest_share() -> None:
    parts = np.exp(learnt_log_parts(log_growths(np.zeros(300), 0.02).sum(axis=0)))
    assert parts.sum() == pytest.approx(1)
    assert parts[0] > 0.95
    harmed = np.array([1.0] * 5 + [0.0] * 295)
    assert np.exp(learnt_log_parts(log_growths(harmed, 0.02).sum(axis=0)))[0] < 1e-6


@pytest.mark.parametrize("shape", ["rare", "fractional", "both ways"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_true_mean_is_refuted_no_more_often_than_promised(shape: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    target, sets, questions = 0.05, 2000, 300
    uniform = generator.random((sets, questions))
    losses = {
        "rare": (uniform < target).astype(float),
        "fractional": np.where(uniform < 2 * target, generator.random((sets, questions)), 0),
        "both ways": np.select([uniform < 0.15, uniform > 0.90], [1.0, -1.0], 0.0),
    }[shape]
    refuted = log_capital(log_growths(losses, target).sum(axis=1)) >= log(20)
    # 123 of 2,000 is what a test that errs in exactly 5 % exceeds in 1 % of all studies.
    assert 0 < refuted.sum() <= 123
