"""The calibrated thresholds: what stops, what does not at another cap or while answers are undecided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules import InvalidRule, parse_vote_rule
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from dynasor_serve.certaindex.votes import Votes

CALIBRATED = "risk-controlled:certain=0.875,unpromising=0.25,cap=8"


def ask(rule: str, answers: str, cap: int = 8, undecided: frozenset[int] = frozenset()) -> Verdict:
    labels = tuple(None if each == "-" else "abcdefgh".index(each) for each in answers)
    return parse_vote_rule(rule).verdict(Votes(labels, cap, undecided))


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ("a", VerdictKind.CONTINUE),  # 0.75
        ("aa", VerdictKind.STOP_CERTAIN),  # 1 - 1/8
        ("aab", VerdictKind.CONTINUE),
        ("abaa", VerdictKind.CONTINUE),  # 3:1, 0.8125
        ("aaba", VerdictKind.CONTINUE),
        ("abaaa", VerdictKind.STOP_CERTAIN),  # 4:1, 0.890625
        ("abc", VerdictKind.CONTINUE),  # less than half of the cap
        ("abcd", VerdictKind.STOP_UNPROMISING),  # 1 of 4
        ("abc-", VerdictKind.STOP_UNPROMISING),  # a sample without an answer is one of four, too
        ("----", VerdictKind.CONTINUE),  # nothing to answer with
        ("abca", VerdictKind.CONTINUE),  # 2 of 4
        ("abcade-f", VerdictKind.STOP_CERTAIN),  # the cap: nobody is left to outvote it
    ],
)
def test_verdicts_worked_out_by_hand(answers: str, kind: VerdictKind) -> None:
    assert ask(CALIBRATED, answers).kind is kind


def test_reasons_give_the_numbers() -> None:
    assert "0.875 after 2 of 8 samples, which is ≥ 0.875" in ask(CALIBRATED, "aa").reason
    assert "1 of 4 samples, 0.250 ≤ 0.25" in ask(CALIBRATED, "abcd").reason
    assert "calibrated for a cap of 8 samples, not 16" in ask(CALIBRATED, "aa", cap=16).reason


@pytest.mark.parametrize("answers", ["aa", "abaaa", "abcdefgh"])
def test_at_another_cap_only_arithmetic_stops(answers: str) -> None:
    assert not ask(CALIBRATED, answers, cap=16).stops
    assert ask(CALIBRATED, "a" * 8, cap=16).stops


@pytest.mark.parametrize("certain", ["0.5", "0.7", "1.0"])
def test_a_locked_majority_stops_whatever_the_thresholds(certain: str) -> None:
    assert ask(f"risk-controlled:certain={certain},cap=8", "aaaa").kind is VerdictKind.STOP_CERTAIN


def test_undecided_rivals_count_as_one() -> None:
    lenient = "risk-controlled:certain=0.8,cap=12"
    assert ask(lenient, "aaabc", cap=12).stops  # 3:1, 0.8125
    assert not ask(lenient, "aaabc", cap=12, undecided=frozenset({1, 2})).stops  # perhaps 3:2


def test_nothing_is_unpromising_while_answers_may_be_equal() -> None:
    assert ask(CALIBRATED, "abcd", undecided=frozenset({1, 2})).kind is VerdictKind.CONTINUE


@given(st.text("abcd-", min_size=1, max_size=7), st.floats(0.5, 1), st.floats(0, 0.5), st.floats(0, 0.3))
def test_looser_thresholds_never_stop_later(answers: str, certain: float, unpromising: float, looser: float) -> None:
    strict = f"risk-controlled:certain={certain!r},unpromising={unpromising!r},cap=8"
    loose = f"risk-controlled:certain={max(0.5, certain - looser)!r},unpromising={unpromising + looser!r},cap=8"
    assert ask(loose, answers).stops or not ask(strict, answers).stops


def test_it_tells_what_is_promised() -> None:
    rule = parse_vote_rule("risk-controlled:certain=0.9,cap=8,width=4,target=0.01,confidence=0.9")
    promise = "at cap 8 and width 4: at most 0.01 of mean accuracy is lost, with confidence 0.9."
    assert rule.describe().endswith(promise)


@pytest.mark.parametrize("wrong", ["certain=0.4", "unpromising=-0.1", "cap=-1", "width=0", "policy=x.json"])
def test_what_is_no_threshold_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidRule, match=wrong.partition("=")[0]):
        parse_vote_rule(f"risk-controlled:{wrong}")
