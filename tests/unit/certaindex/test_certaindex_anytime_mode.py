"""`anytime-mode`: its evidence against numbers worked out by hand, and its promise against draws."""

from itertools import islice
from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from dynasor_serve.certaindex.mode_evidence import lead_ratio, mode_evidence
from dynasor_serve.certaindex.rules import parse_vote_rule
from dynasor_serve.certaindex.votes import Votes

LABELS = st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=16).map(tuple)


def evidence(*labels: int | None) -> float:
    return exp(mode_evidence(labels)[1])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 1), (7, 0), (5, 2), (2, 5), (30, 11)])
def test_the_ratio_is_the_integral_over_all_shares_above_one_half(first: int, second: int) -> None:
    integral, _ = quad(lambda share: share**first * (1 - share) ** second, 0.5, 1)
    assert exp(lead_ratio(first, second)) == pytest.approx(2 ** (first + second + 1) * integral, rel=1e-9)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((0,), 1.0),  # nobody could bet on the first
        ((0, 0), 14 / 9),  # R(2,0)/R(1,0) = (7/3)/(3/2), against an answer not seen
        ((0, 0, 0), 5 / 2),  # (15/4)/(3/2)
        ((0, 0, 1), (11 / 12) / (3 / 2)),  # R(2,1) = (1 + 4 + 6)/(4 · 3), against 1
        ((0, None, 0), 14 / 9),  # samples without an answer are no draws
        # 0 reigns over one draw, lost to 1: 1 has to make up for nothing against the unseen, where 0 won nothing;
        # at 1:1 the first seen leads, so the reign of 1 begins at 2:1 and ends at 3:1.
        ((0, 1, 1, 1), (26 / 20) / (11 / 12)),  # R(3,1)/R(2,1), against 0; (15/4)/(7/3) against the unseen is more
    ],
)
def test_evidence_worked_out_by_hand(labels: tuple[int | None, ...], expected: float) -> None:
    assert evidence(*labels) == pytest.approx(expected)


def test_without_an_answer_there_is_no_evidence() -> None:
    assert mode_evidence(()) == mode_evidence((None, None)) == (None, -inf)


@given(LABELS)
def test_the_leader_is_that_of_the_votes(labels: tuple[int | None, ...]) -> None:
    assert mode_evidence(labels)[0] == Votes(labels, cap=16).leader


@given(LABELS)
def test_names_of_answers_do_not_matter(labels: tuple[int | None, ...]) -> None:
    renamed = [None if label is None else 9 - label for label in labels]
    assert mode_evidence(renamed)[1] == mode_evidence(labels)[1]


def bets_against(rival: int, labels: tuple[int | None, ...]) -> float:
    """Play the bets of `mode_evidence` draw by draw: the log gains against one rival."""
    gains = 0.0
    drawn: list[int] = []
    for label in labels:
        if label is None:
            continue
        leader = max(dict.fromkeys(drawn), key=drawn.count, default=rival)
        if leader != rival and label in (leader, rival):
            counts = (drawn.count(leader), drawn.count(rival))
            won = (counts[0] + (label == leader), counts[1] + (label == rival))
            gains += lead_ratio(*won) - lead_ratio(*counts)
        drawn.append(label)
    return gains


@given(LABELS)
def test_evidence_is_what_the_bets_against_the_luckiest_rival_have_won(labels: tuple[int | None, ...]) -> None:
    leader, found = mode_evidence(labels)
    if leader is not None:
        rivals = {*labels, 99} - {None, leader}
        assert found == pytest.approx(min(bets_against(rival, labels) for rival in rivals if rival is not None))


@given(st.floats(0.5, 1), st.integers(0, 40), st.integers(0, 40))
def test_a_bet_on_the_leader_is_fair_at_one_half_and_lost_below(share: float, first: int, second: int) -> None:
    """The expected factor of one draw, where the rival has a share of `share`, one half at least."""
    now = lead_ratio(first, second)
    up, down = exp(lead_ratio(first + 1, second) - now), exp(lead_ratio(first, second + 1) - now)
    assert (1 - share) * up + share * down <= 1 + 1e-9


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        ("anytime-mode", (0,) * 6, False),  # (127/7)/(3/2) = 12.1
        ("anytime-mode", (0,) * 7, True),  # (255/8)/(3/2) = 21.25 ≥ 20
        ("anytime-mode:confidence=0.9", (0,) * 5, False),  # 7
        ("anytime-mode:confidence=0.9", (0,) * 6, True),  # 12.1 ≥ 10
        ("anytime-mode:confidence=0.99", (0,) * 9, False),
        ("anytime-mode:confidence=0.99", (0,) * 10, True),
        ("anytime-mode", (0,) * 9 + (1,), False),
        ("anytime-mode", (0,) * 10 + (1,), True),
        ("anytime-mode", (None,) * 3 + (0,) * 7, True),
        ("anytime-mode", (None,) * 16, False),
    ],
)
def test_verdicts_worked_out_by_hand(rule: str, answers: tuple[int | None, ...], expected: bool) -> None:
    assert parse_vote_rule(rule).verdict(Votes(answers, cap=16)).stops is expected


def test_the_reason_gives_the_odds() -> None:
    verdict = parse_vote_rule("anytime-mode").verdict(Votes((0,) * 7, cap=16))
    assert verdict.reason == "the leader is the model's most probable answer: evidence 21.2 ≥ 20 after 7 samples"


def test_rivals_that_may_be_one_answer_are_held_for_one() -> None:
    rule = parse_vote_rule("anytime-mode")
    answers = (0,) * 11 + (1, 2)
    assert rule.verdict(Votes(answers, 16)).stops
    assert not rule.verdict(Votes(answers, 16, undecided=frozenset({1, 2}))).stops
    assert rule.verdict(Votes(answers, 16, undecided=frozenset({0, 1}))).stops, "the leader may only gain"


DRAWS, PROGRAMS = 60, 500
# Where it is hardest: few answers, nearly as probable as the first.
DISTRIBUTIONS = {
    "close": (0.51, 0.49),
    "three close": (0.34, 0.33, 0.33),
    "clear": (0.6, 0.4),
    "two lead": (0.4, 0.4, 0.2),
    "many": (0.1, *(0.9 / 99,) * 99),
    "many close": (0.06, *(0.94 / 16,) * 16),
}


def certified(probabilities: tuple[float, ...], alpha: float) -> list[int]:
    """The answers certified in programs that look after each draw and stop at the first certificate."""
    draws = np.random.default_rng(7).choice(len(probabilities), size=(PROGRAMS, DRAWS), p=probabilities)
    answers: list[int] = []
    for labels in draws.tolist():
        looks = (mode_evidence(labels[:count]) for count in range(1, DRAWS + 1))
        answers += islice((leader for leader, found in looks if leader is not None and found >= -log(alpha)), 1)
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_whoever_looks_after_each_draw_is_seldom_told_a_lesser_answer(distribution: str, alpha: float) -> None:
    probabilities = DISTRIBUTIONS[distribution]
    answers = certified(probabilities, alpha)
    assert sum(probabilities[answer] < max(probabilities) for answer in answers) <= alpha * PROGRAMS
    if distribution == "clear":
        assert len(answers) > PROGRAMS / 10, "it certifies something"


@pytest.mark.slow
@pytest.mark.parametrize("answers", [2, 3, 20])
def test_equally_probable_answers_are_seldom_told_apart(answers: int) -> None:
    assert len(certified((1 / answers,) * answers, alpha=0.1)) <= 0.2 * PROGRAMS
