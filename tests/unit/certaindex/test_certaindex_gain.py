"""What one more unit of evidence is worth: bounds, what gains nothing, and who gains more than whom."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.gain import gain_of_best, gain_of_rest, gain_of_vote
from dynasor_serve.certaindex.rules.beta_posterior import lead_probability
from dynasor_serve.certaindex.rules.majority_locked import MajorityLocked
from dynasor_serve.certaindex.votes import Votes

LABELS = st.lists(st.none() | st.integers(0, 5), max_size=24).map(tuple)
REMAINING = st.integers(0, 1024)


def labels_of(*sizes: int) -> tuple[int, ...]:
    """Clusters of so many votes."""
    return tuple(label for label, size in enumerate(sizes) for _ in range(size))


@given(labels=LABELS, remaining=REMAINING)
def test_the_gain_of_a_vote_is_a_probability_of_a_quarter_at_most(
    labels: tuple[int | None, ...], remaining: int
) -> None:
    gain = gain_of_vote(labels, remaining)

    assert math.isfinite(gain)
    assert 0 <= gain <= 0.25


@given(labels=LABELS, remaining=REMAINING)
def test_a_vote_that_can_no_longer_turn_gains_nothing(labels: tuple[int | None, ...], remaining: int) -> None:
    votes = Votes(labels, len(labels) + remaining)
    if MajorityLocked().verdict(votes).stops:
        assert gain_of_vote(labels, remaining) == 0


@given(labels=LABELS, remaining=REMAINING, order=st.randoms(use_true_random=False), names=st.permutations(range(6)))
def test_neither_the_order_of_the_samples_nor_what_they_say_matters(
    labels: tuple[int | None, ...], remaining: int, order: random.Random, names: list[int]
) -> None:
    renamed = [None if label is None else names[label] for label in labels]
    order.shuffle(renamed)

    assert gain_of_vote(tuple(renamed), remaining) == gain_of_vote(labels, remaining)


@given(labels=LABELS, remaining=st.integers(0, 64))
def test_a_vote_that_may_go_on_longer_gains_no_less(labels: tuple[int | None, ...], remaining: int) -> None:
    assert gain_of_vote(labels, remaining) <= gain_of_vote(labels, remaining + 1)


def test_the_further_the_leader_is_ahead_the_less_is_gained() -> None:
    gains = [gain_of_vote(labels_of(lead, 1), 100) for lead in range(1, 16)]

    assert all(earlier > later for earlier, later in pairwise(gains))
    assert gains[-1] < 1e-4 * gains[0]


def test_a_contested_vote_gains_more_than_a_scattered_one_and_both_more_than_a_settled_one() -> None:
    contested, scattered, settled = ((4, 4), (1,) * 8, (7, 1))

    gains = [gain_of_vote(labels_of(*sizes), 8) for sizes in (contested, scattered, settled)]

    assert gains[0] > 1.5 * gains[1] > 1.5 * gains[2] > 0


def test_samples_without_an_answer_are_no_side_of_the_vote() -> None:
    assert gain_of_vote((None,) * 8, 8) < gain_of_vote((), 16)
    assert gain_of_vote((0, 0, 0, None, None), 8) < gain_of_vote((0, 0, 0), 8)


def beta(left: int, right: int) -> Fraction:
    """Euler's beta function of whole numbers."""
    return Fraction(math.factorial(left - 1) * math.factorial(right - 1), math.factorial(left + right - 1))


@pytest.mark.parametrize(
    ("first", "second", "most"), [(0, 0, 1), (0, 0, 4), (1, 0, 3), (1, 1, 6), (3, 1, 8), (5, 4, 16)]
)
def test_it_is_what_the_best_number_of_samples_gains_on_average(first: int, second: int, most: int) -> None:
    """The same by the closed form of the beta-binomial distribution."""

    def gained(samples: int) -> float:
        total = 0.0
        for leading in range(samples + 1):
            first_after, second_after = first + leading, second + samples - leading
            probability = math.comb(samples, leading) * beta(first_after + 1, second_after + 1)
            is_right = lead_probability(first_after, second_after)
            total += float(probability / beta(first + 1, second + 1)) * (max(is_right, 1 - is_right) - is_right)
        return total / samples

    expected = max(gained(samples) for samples in range(1, most + 1))  # all samples are for one of the two
    assert gain_of_vote(labels_of(first, second), most) == pytest.approx(expected, rel=1e-9)


@given(best=st.floats(0, 1), judged=st.integers(0, 1000), remaining=st.integers(0, 1000))
def test_the_gain_of_a_best_path_is_at_most_half_of_what_is_missing(best: float, judged: int, remaining: int) -> None:
    gain = gain_of_best(best, judged, remaining)

    assert 0 <= gain <= (1 - best) / 2
    assert gain >= gain_of_best(best, judged + 1, remaining)
    assert gain_of_best(1.0, judged, remaining) == gain_of_best(best, judged, 0) == 0


@given(certaindex=st.floats(0, 1), remaining=st.integers(0, 100_000))
def test_what_is_missing_is_shared_among_the_units_that_remain(certaindex: float, remaining: int) -> None:
    gain = gain_of_rest(certaindex, remaining)

    assert gain * remaining == pytest.approx(1 - certaindex if remaining else 0.0)
    assert gain_of_rest(1.0, remaining) == 0
