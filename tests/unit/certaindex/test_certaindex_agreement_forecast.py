"""The forecast behind `default`, against every way in which an urn can go on, and its fit against drawn votes."""

import random
from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynasor_serve.certaindex.agreement_forecast import fitted_concentration, overturn_bound
from dynasor_serve.certaindex.rules import parse_vote_rule
from dynasor_serve.certaindex.votes import Votes

SURELY = 0.1  # a spread that leaves one concentration
LABELS = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=7).map(tuple)


def overturned(labels: tuple[int | None, ...], concentration: float, remaining: int, leader: int) -> float:
    """The probability that somebody else leads, by going through all that may come."""
    if not remaining:
        return float(Votes(labels, len(labels)).leader != leader)
    whole = len(labels) + concentration
    chances: list[tuple[int | None, float]] = [(label, size / whole) for label, size in Counter(labels).items()]
    chances.append((99 + len(labels), concentration / whole))
    return sum(chance * overturned((*labels, label), concentration, remaining - 1, leader) for label, chance in chances)


def bound(labels: tuple[int | None, ...], remaining: int, median: float = 0.1, spread: float = SURELY) -> float:
    votes = Votes(labels, len(labels) + remaining)
    sizes = votes.answer_sizes
    lost = votes.finished - votes.answered
    assert votes.leader is not None
    return overturn_bound(tuple(sizes.values()), [*sizes].index(votes.leader), lost, remaining, median, spread)


@pytest.mark.parametrize(
    ("labels", "remaining", "expected"),
    [
        # After 2-0 a new answer needs all three: c/(2+c) · (1+c)/(3+c) · (2+c)/(4+c), c = 1.
        ((0, 0), 3, 1 / 3 * 2 / 4 * 3 / 5),
        ((0, 0), 2, 0.0),  # at 2:2 the first seen wins
        # The rival was seen first, so it wins by drawing level: the next one is for it, or it is lost.
        ((1, 0, 0), 1, 1 / 4),
        ((0, 1, 0), 1, 0.0),
        # A lead of none, won by being first: the rival's next, 1/(2+c), and no new answer can win with one.
        ((0, 1), 1, 1 / 3),
        ((0, None), 1, 0.0),
    ],
)
def test_bounds_worked_out_by_hand(labels: tuple[int | None, ...], remaining: int, expected: float) -> None:
    assert bound(labels, remaining, median=1.0) == pytest.approx(expected)


@given(LABELS.filter(lambda labels: {*labels} != {None}), st.integers(0, 4), st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_no_urn_overturns_a_leader_more_often_than_the_bound(
    labels: tuple[int | None, ...], remaining: int, concentration: float
) -> None:
    leader = Votes(labels, len(labels)).leader
    assert leader is not None
    exact = overturned(labels, concentration, remaining, leader)
    assert exact <= bound(labels, remaining, concentration) + 1e-9
    assert (exact == 0) == (bound(labels, remaining, concentration) == 0)


@given(LABELS.filter(lambda labels: {*labels} != {None}), st.integers(0, 40))
def test_it_is_nought_exactly_where_the_majority_is_locked(labels: tuple[int | None, ...], remaining: int) -> None:
    locked = parse_vote_rule("majority-locked").verdict(Votes(labels, len(labels) + remaining)).stops
    assert (bound(labels, remaining, spread=2.0) == 0) == locked


@given(st.integers(1, 40), st.integers(0, 60))
def test_one_more_vote_for_the_leader_makes_it_safer(lead: int, remaining: int) -> None:
    def two(first: int) -> float:
        return overturn_bound((first, 1), 0, 0, remaining, 0.1, 2.0)

    assert two(lead + 1) <= two(lead) + 1e-12


def test_beyond_the_furthest_look_the_cap_does_not_matter() -> None:
    assert overturn_bound((5, 2), 0, 0, 32, 0.1, 2.0) == overturn_bound((5, 2), 0, 0, 1000, 0.1, 2.0)


def drawn_votes(concentrations: list[float], samples: int) -> list[list[int]]:
    generator = random.Random(0)
    votes = []
    for concentration in concentrations:
        sizes: list[int] = []
        for _ in range(samples):
            spot = generator.random() * (sum(sizes) + concentration)
            at = next((at for at, upto in enumerate(accumulate(sizes)) if spot < upto), len(sizes))
            sizes[at:] = [sizes[at] + 1, *sizes[at + 1 :]] if at < len(sizes) else [1]
        votes.append(sizes)
    return votes


@pytest.mark.parametrize("concentration", [0.1, 1.0])
def test_the_fit_finds_the_concentration_that_votes_were_drawn_with(concentration: float) -> None:
    median, spread = fitted_concentration(drawn_votes([concentration] * 2000, 8))
    assert concentration / 1.6 <= median <= concentration * 1.6
    assert spread <= 1


def test_the_fit_sees_that_questions_differ() -> None:
    _, spread = fitted_concentration(drawn_votes([0.03, 3.0] * 1000, 8))
    assert spread >= 1.5


def test_votes_of_one_sample_fit_nothing() -> None:
    with pytest.raises(ValueError, match="two samples or more"):
        fitted_concentration([[1], [1], []])
