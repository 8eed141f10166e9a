"""Each rule against verdicts worked out by hand, and against what it must never do."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from dynasor_serve.certaindex.rules import Rule, parse_rule
from dynasor_serve.certaindex.rules.beta_posterior import lead_probability
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from dynasor_serve.certaindex.votes import Votes

EVERY_RULE = (
    "even",
    "static-threshold",
    "static-threshold:threshold=0.1,detect=2",
    "n-step-threshold",
    "n-step-threshold:threshold=0.01,every=1",
    "beta-posterior",
    "beta-posterior:confidence=0.6",
    "majority-locked",
)


def ask(rule: str, answers: str, cap: int = 16, undecided: str = "") -> Verdict:
    """Ask a rule about samples written as one character each; `-` has no answer."""
    names = {name: label for label, name in enumerate(dict.fromkeys(answers.replace("-", "")))}
    labels = tuple(names.get(answer) for answer in answers)
    return parse_rule(rule).verdict(Votes(labels, cap, frozenset(names[name] for name in undecided)))


def stops(rule: str, answers: str, cap: int = 16, undecided: str = "") -> bool:
    verdict = ask(rule, answers, cap, undecided)
    assert verdict.kind in (VerdictKind.STOP_CERTAIN, VerdictKind.CONTINUE)
    return verdict.stops


def test_even_never_stops() -> None:
    assert not stops("even", "aaaaaaaa", cap=8)


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        ("static-threshold", "aaaa", False),  # too early
        ("static-threshold", "aaaaa", True),
        ("static-threshold", "aaaab", False),  # 0.689
        ("static-threshold", "aaaabaaaaaaaaa", False),  # one check only: later agreement does not count
        ("static-threshold", "aaaaabcde", True),  # nor does later disagreement
        ("static-threshold:threshold=0.4", "abaca", True),  # LiveCodeBench: 3-1-1 is 0.410
        ("static-threshold:threshold=0.4", "abbac", False),  # 0.345
        ("static-threshold:threshold=0.85,detect=16", "a" * 14 + "bb", True),  # 0.864
        ("static-threshold:threshold=0.85,detect=16", "a" * 14 + "bc", False),  # 0.833
        ("static-threshold:threshold=0.99,detect=3", "aaa", True),
        ("static-threshold:threshold=1.0,detect=2", "aa", True),
        ("n-step-threshold:threshold=0.7,every=2", "a", False),
        ("n-step-threshold:threshold=0.7,every=2", "aa", True),
        ("n-step-threshold:threshold=0.7,every=2", "ab", False),
        ("n-step-threshold:threshold=0.7,every=2", "abaaaa", True),  # 5-1 of 6 is 0.749
        ("n-step-threshold:threshold=0.7,every=4", "abbbbbbb", True),
        ("n-step-threshold:threshold=0.7,every=4", "aaaab", True),  # judged on the first four
        ("beta-posterior", "aaa", False),  # 0.9375
        ("beta-posterior", "aaaa", True),  # 0.96875
        ("beta-posterior", "aabaaa", False),  # 5:1, 0.9375
        ("beta-posterior", "aabaaaa", True),  # 6:1, 0.965
        ("beta-posterior", "a-a-a-a", True),  # only real answers count
        ("beta-posterior", "aaaabcdefg", False),  # 4:1, 0.890
    ],
)
def test_verdicts_worked_out_by_hand(rule: str, answers: str, expected: bool) -> None:
    assert stops(rule, answers) is expected


def test_reasons_give_the_numbers() -> None:
    assert ask("static-threshold:threshold=0.7,detect=5", "aaaaa").reason == "H̃ 1.00 ≥ 0.7 after 5 of 16 samples"
    assert ask("n-step-threshold:threshold=0.7,every=2", "abbbbb").reason == "H̃ 0.75 ≥ 0.7 after 6 of 16 samples"
    assert "0.969 ≥ 0.95, 4:0 votes after 4 of 16 samples" in ask("beta-posterior", "aaaa").reason
    assert "it has 5 of 8, the strongest rival can reach 3" in ask("majority-locked", "aaaaa", cap=8).reason


@pytest.mark.parametrize(("first", "second"), list(product(range(0, 41, 5), range(0, 41, 4))))
def test_beta_posterior_is_the_incomplete_beta_function(first: int, second: int) -> None:
    assert lead_probability(first, second) == pytest.approx(float(beta.sf(0.5, first + 1, second + 1)), abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "cap", "undecided", "expected"),
    [
        ("aaaa", 8, "", True),  # a rival with the other four ties, and a tie goes to the answer seen first
        ("aaa", 8, "", False),
        ("baaaa", 8, "", False),  # b was first: it would win the tie at 4:4
        ("abaaaa", 8, "", True),
        ("aaab", 5, "", True),
        ("aabb", 4, "", True),
        ("aabb", 5, "", False),
        ("aaabb", 5, "b", True),
        ("aaabc", 6, "", True),
        ("aaabc", 6, "bc", True),  # even as one they reach 3, and came later
        ("baaac", 6, "", True),
        ("baaac", 6, "bc", False),  # as one they reach 3 and were first
        ("aaaabbcc", 8, "", True),
        ("aaaabbcc", 8, "bc", True),
        ("aaaabbccd", 9, "bcd", False),  # 5 against 4
        ("aaaabbccd", 9, "bc", True),
        ("aaaabbcc", 8, "abc", True),  # the leader may only gain
        ("--a", 3, "", True),
        ("--a", 4, "", True),
        ("--a", 5, "", False),
    ],
)
def test_majority_locked(answers: str, cap: int, undecided: str, expected: bool) -> None:
    assert stops("majority-locked", answers, cap, undecided) is expected


def _winner(labels: tuple[int | None, ...]) -> int | None:
    return Votes(labels, cap=len(labels)).leader


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=6).map(tuple), st.integers(0, 3))
def test_a_locked_majority_wins_however_it_goes_on(labels: tuple[int | None, ...], remaining: int) -> None:
    verdict = parse_rule("majority-locked").verdict(Votes(labels, len(labels) + remaining))
    leader = _winner(labels)
    rest = product((None, 0, 1, 2, 3, 9), repeat=remaining)
    always_wins = leader is not None and all(_winner((*labels, *more)) == leader for more in rest)
    assert verdict.stops is always_wins, "it must stop exactly when the winner is fixed"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9).map(tuple), st.sets(st.integers(0, 4)))
def test_a_locked_majority_survives_every_merge_of_undecided_rivals(
    labels: tuple[int, ...], undecided: set[int]
) -> None:
    votes = Votes(labels, len(labels), frozenset(undecided))
    if parse_rule("majority-locked").verdict(votes).stops:
        leader = _winner(labels)
        rivals = undecided - {leader}
        merged = tuple(min(rivals) if label in rivals else label for label in labels)
        assert _winner(merged) == leader


@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("finished", [0, 1, 2, 5, 8, 16])
def test_nothing_stops_without_a_real_answer(rule: str, finished: int) -> None:
    """The research code's empty answers agree with one another, and stop a program."""
    assert not stops(rule, "-" * finished)


@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("answers", ["ab", "abc", "abcd", "abcde", "abcdefgh"])
def test_nothing_stops_early_when_all_answers_disagree(rule: str, answers: str) -> None:
    """The research code's `should_early_exit` falls through to True whatever the answers are."""
    assert not stops(rule, answers)


@given(
    st.sampled_from(EVERY_RULE),
    st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=20).map(tuple),
    st.integers(0, 10),
    st.frozensets(st.integers(0, 4)),
)
def test_a_rule_is_a_pure_function_that_never_fails(
    rule: str, labels: tuple[int | None, ...], remaining: int, undecided: frozenset[int]
) -> None:
    votes = Votes(labels, len(labels) + remaining, undecided)
    asked: Rule = parse_rule(rule)
    verdict = asked.verdict(votes)
    assert verdict == parse_rule(str(asked)).verdict(votes)
    assert verdict.reason
    assert not verdict.stops or votes.leader is not None


def test_static_threshold_sees_answers_that_were_merged_late() -> None:
    before, after = Votes((0, 0, 1, 0, 0, 2, 3), 16), Votes((0, 0, 0, 0, 0, 2, 3), 16)
    rule = parse_rule("static-threshold:threshold=0.7,detect=5")
    assert not rule.verdict(before).stops
    assert rule.verdict(after).stops
