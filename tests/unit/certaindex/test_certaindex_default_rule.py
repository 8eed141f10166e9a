"""`default`: its verdicts against forecasts worked out by hand, and against what it must never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules import parse_vote_rule
from dynasor_serve.certaindex.rules.default import Default
from dynasor_serve.certaindex.votes import Votes

LABELS = st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=16).map(tuple)


# One concentration of 1: after 2-0 of 5 a new answer takes all three with 1/3 · 2/4 · 3/5 = 0.1.
ONE = "concentration=1.0,spread=0.1"


@pytest.mark.parametrize(
    ("rule", "labels", "cap", "expected"),
    [
        (f"default:risk=0.1001,{ONE}", (0, 0), 5, True),
        (f"default:risk=0.0999,{ONE}", (0, 0), 5, False),
        (f"default:risk=0.0,{ONE}", (0, 0), 4, True),  # nobody can overtake
        (f"default:risk=0.5,{ONE}", (0,), 2, False),  # one sample agrees with nobody
        (f"default:risk=0.5,{ONE}", (None, None), 8, False),
        (f"default:risk=0.24,{ONE}", (1, 0, 0), 4, False),  # the rival was seen first: 1/4
        (f"default:risk=0.26,{ONE}", (1, 0, 0), 4, True),
    ],
)
def test_verdicts_worked_out_by_hand(rule: str, labels: tuple[int | None, ...], cap: int, expected: bool) -> None:
    assert parse_vote_rule(rule).verdict(Votes(labels, cap)).stops is expected


def test_it_gives_its_numbers() -> None:
    verdict = parse_vote_rule(f"default:risk=0.2,{ONE}").verdict(Votes((0, 0), 5))
    assert verdict.reason == "another answer wins with probability 0.1000 ≤ 0.2: 2 votes of 2 samples, 3 to come"


def test_rivals_that_may_be_equal_are_one_rival() -> None:
    rule = parse_vote_rule(f"default:risk=0.0,{ONE}")
    labels = (0, 0, 0, 0, 1, 2)
    assert rule.verdict(Votes(labels, 8)).stops
    assert rule.verdict(Votes(labels, 8, undecided=frozenset({1, 2}))).stops  # 2 + 2 draws level, and 0 was first
    assert not rule.verdict(Votes((1, *labels[:4], 2), 8, undecided=frozenset({1, 2}))).stops  # here it was not


@given(LABELS, st.integers(0, 20), st.frozensets(st.integers(0, 4)))
def test_without_risk_it_is_majority_locked(
    labels: tuple[int | None, ...], remaining: int, undecided: frozenset[int]
) -> None:
    votes = Votes(labels, len(labels) + remaining, undecided)
    locked = parse_vote_rule("majority-locked").verdict(votes).stops
    assert parse_vote_rule("default:risk=0").verdict(votes).stops is (locked and votes.finished > 1)


@given(LABELS, st.integers(0, 20), st.floats(0, 0.5), st.floats(0, 0.5))
def test_more_risk_stops_no_later(labels: tuple[int | None, ...], remaining: int, one: float, other: float) -> None:
    votes = Votes(labels, len(labels) + remaining)
    careful, bold = (Default(risk=risk).verdict(votes).stops for risk in sorted((one, other)))
    assert bold or not careful


def test_its_type_string_fits_a_log() -> None:
    rule = Default(risk=0.123456789012345, concentration=0.0012345678901234, spread=1.2345678901234567)
    assert parse_vote_rule(str(rule)) == rule
    assert len(str(rule)) <= 256
