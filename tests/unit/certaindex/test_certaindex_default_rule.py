"""`default`: its verdicts against forecasts worked out by hand, and against what it must never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.probe_schedule import REFLECTION_MARKS
from dynasor_serve.certaindex.rules import parse_chain_rule, parse_vote_rule
from dynasor_serve.certaindex.rules.default import Default
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.votes import Votes
from unit.certaindex.chains import chain

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
    rule = Default(
        risk=0.123456789012345, concentration=0.0012345678901234, spread=1.2345678901234567, chain_risk=0.1234567890123
    )
    assert parse_vote_rule(str(rule)) == rule
    assert len(str(rule)) <= 256


# (answers, confidences, tokens between trials, probability of another answer)
CHAINS = [
    ("a", (0.9,), 200, 0.6792),  # 1.929 + 0.645 · ln 0.10001 + 0.442 · ln 2 = 0.750
    ("ba", (0.99, 0.9), 100, 0.6792),  # what another answer said before counts for nothing
    ("aa", (0.9, 0.9), 100, 0.5607),  # 0.750 + 0.144 · ln 0.10001 − 0.159 · ln 3 = 0.244
    ("a", (1.0,), 200, 0.0086),  # sureness ends at −ln 0.00002 = 10.82
]


@pytest.mark.parametrize(("answers", "confidences", "interval", "expected"), CHAINS)
def test_chains_worked_out_by_hand(
    answers: str, confidences: tuple[float, ...], interval: int, expected: float
) -> None:
    trials = chain(answers, confidences=confidences, interval=interval)
    assert Default().certaindex(trials) == pytest.approx(1 - expected, abs=1e-4)
    for chain_risk in (expected - 0.001, expected + 0.001):
        if chain_risk <= 0.5:
            assert Default(chain_risk=chain_risk).verdict(trials).stops is (chain_risk > expected)


@pytest.mark.parametrize(("answers", "confidences"), [("", ()), ("a-", (1.0, 1.0)), ("aA", (1.0, 1.0)), ("a", (None,))])
def test_a_chain_that_cannot_be_judged_goes_on(answers: str, confidences: tuple[float | None, ...]) -> None:
    rule = Default(chain_risk=0.5)
    trials = chain(answers, confidences=confidences)
    assert not rule.verdict(trials).stops
    assert rule.certaindex(trials) == 0


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 30_000))
def test_a_surer_trial_stops_no_later(one: float, other: float, position: int) -> None:
    def certainty(confidence: float) -> float:
        return Default().certaindex(Trials((0,), (position,), (confidence,), (False,)))

    doubtful, sure = sorted((one, other))
    assert 0 <= certainty(doubtful) <= certainty(sure) <= 1


def test_a_chain_is_asked_at_marks_of_reflection() -> None:
    assert parse_chain_rule("default").schedule.marks == REFLECTION_MARKS
    assert parse_chain_rule("default").verdict(chain("a", confidences=(0.9999,))).reason == (
        "another answer follows with probability 0.0213 ≤ 0.12 after 1 trials, 64 tokens"
    )
