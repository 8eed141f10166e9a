"""Each rule over votes against verdicts worked out by hand, and against what it must never do."""

from itertools import product
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from dynasor_serve.certaindex.rules import Evidence, VoteRule, parse_vote_rule, token_window
from dynasor_serve.certaindex.rules.beta_posterior import lead_probability
from dynasor_serve.certaindex.rules.conjunction import VoteConjunction
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from dynasor_serve.certaindex.votes import Votes

EVERY_RULE = (
    "even",
    "length:tokens=100,detect=1",
    "static-threshold",
    "static-threshold:threshold=0.1,detect=2",
    "n-step-threshold",
    "n-step-threshold:threshold=0.01,every=1",
    "initial-curve",
    "initial-curve:detect=2,curve=0.1/3;0.9/2",
    "dynamic-curve",
    "dynamic-curve:curve=0.1/4;0.9/2",
    "beta-posterior",
    "beta-posterior:confidence=0.6",
    "anytime-mode",
    "anytime-mode:confidence=0.51",
    "unanimous-window",
    "unanimous-window:window=2",
    "majority-locked",
    "risk-controlled",
    "risk-controlled:certain=0.6,cap=16",
    "m-of-n",
    "m-of-n:m=1",
    "reward-threshold:mean=0.1",
    "reward-threshold:max=0.1,detect=1",
    "confidence-prune:warmup=2,keep=50",
    "static-threshold & reward-threshold:mean=0.1",
    "m-of-n:m=2 & confidence-prune:warmup=2,keep=50",
    "default",
    "default:risk=0.1,concentration=0.01,spread=0.5",
)
# `m-of-n` and `length` take answers as they come, whatever they say.
JUDGING_RULES = tuple(rule for rule in EVERY_RULE if not rule.startswith(("m-of-n", "length")))


def ask(rule: str, answers: str, cap: int = 16, undecided: str = "") -> Verdict:
    """Ask a rule about samples written as one character each; `-` has no answer."""
    return parse_vote_rule(rule).verdict(votes_of(answers, cap, undecided))


def votes_of(
    answers: str,
    cap: int = 16,
    undecided: str = "",
    *,
    rewards: tuple[float | None, ...] = (),
    confidences: tuple[float | None, ...] = (),
    running: tuple[tuple[int, float], ...] = (),
    tokens: tuple[int, ...] = (),
) -> Votes:
    names = {name: label for label, name in enumerate(dict.fromkeys(answers.replace("-", "")))}
    labels = tuple(names.get(answer) for answer in answers)
    return Votes(labels, cap, frozenset(names[name] for name in undecided), rewards, confidences, running, tokens)


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
        ("unanimous-window", "aa", False),  # no whole window yet
        ("unanimous-window", "aaa", True),
        ("unanimous-window", "baaa", False),  # windows lie end to end: b a a | a
        ("unanimous-window", "baaaa", False),  # b a a | a a
        ("unanimous-window", "baabbb", True),  # the second window
        ("unanimous-window", "aaabcd", True),  # the first, whatever came since
        ("unanimous-window", "aa-aa-", False),  # a sample without an answer agrees with nobody
        ("unanimous-window", "---aaa", True),
        ("unanimous-window:window=2", "abbaab", False),  # a b | b a | a b
        ("unanimous-window:window=2", "abaa", True),
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
    verdict = parse_vote_rule("majority-locked").verdict(Votes(labels, len(labels) + remaining))
    leader = _winner(labels)
    rest = product((None, 0, 1, 2, 3, 9), repeat=remaining)
    always_wins = leader is not None and all(_winner((*labels, *more)) == leader for more in rest)
    assert verdict.stops is always_wins, "it must stop exactly when the winner is fixed"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9).map(tuple), st.sets(st.integers(0, 4)))
def test_a_locked_majority_survives_every_merge_of_undecided_rivals(
    labels: tuple[int, ...], undecided: set[int]
) -> None:
    votes = Votes(labels, len(labels), frozenset(undecided))
    if parse_vote_rule("majority-locked").verdict(votes).stops:
        leader = _winner(labels)
        rivals = undecided - {leader}
        merged = tuple(min(rivals) if label in rivals else label for label in labels)
        assert _winner(merged) == leader


@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("finished", [0, 1, 2, 5, 8, 16])
def test_nothing_stops_or_is_pruned_without_a_real_answer(rule: str, finished: int) -> None:
    """The research code's empty answers agree with one another, and stop a program."""
    votes = votes_of(
        "-" * finished,
        rewards=(1.0,) * finished,
        confidences=(9.0,) * finished,
        running=((finished, 0.1),),
        tokens=(1,) * finished,
    )
    assert parse_vote_rule(rule).verdict(votes).kind is VerdictKind.CONTINUE


@pytest.mark.parametrize("rule", JUDGING_RULES)
@pytest.mark.parametrize("answers", ["ab", "abc", "abcd", "abcde", "abcdefgh"])
def test_nothing_stops_early_when_all_answers_disagree(rule: str, answers: str) -> None:
    """The research code's `should_early_exit` falls through to True whatever the answers are."""
    assert not stops(rule, answers)


SAMPLES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 4)),
        st.one_of(st.none(), st.floats(0, 1)),
        st.one_of(st.none(), st.floats(0, 20)),
        st.integers(0, 200),
    ),
    max_size=20,
)


@given(
    st.sampled_from(EVERY_RULE),
    SAMPLES,
    st.integers(0, 10),
    st.frozensets(st.integers(0, 4)),
    st.dictionaries(st.integers(0, 40), st.floats(0, 20), max_size=5),
)
def test_a_rule_is_a_pure_function_that_never_fails(
    rule: str,
    samples: list[tuple[int | None, float | None, float | None, int]],
    remaining: int,
    undecided: frozenset[int],
    running: dict[int, float],
) -> None:
    votes = Votes(
        labels=tuple(label for label, *_ in samples),
        cap=len(samples) + remaining,
        undecided=undecided,
        rewards=tuple(reward for _, reward, *_ in samples),
        confidences=tuple(confidence for *_, confidence, _ in samples),
        running=tuple(running.items()),
        tokens=tuple(tokens for *_, tokens in samples),
    )
    asked: VoteRule = parse_vote_rule(rule)
    verdict = asked.verdict(votes)
    assert verdict == parse_vote_rule(str(asked)).verdict(votes)
    assert verdict.reason
    assert not verdict.stops or votes.leader is not None
    assert running.keys() >= {*verdict.pruned_branches}


def test_static_threshold_sees_answers_that_were_merged_late() -> None:
    before, after = Votes((0, 0, 1, 0, 0, 2, 3), 16), Votes((0, 0, 0, 0, 0, 2, 3), 16)
    rule = parse_vote_rule("static-threshold:threshold=0.7,detect=5")
    assert not rule.verdict(before).stops
    assert rule.verdict(after).stops


def test_unanimous_window_sees_answers_that_were_merged_late() -> None:
    rule = parse_vote_rule("unanimous-window:window=3")
    assert not rule.verdict(Votes((0, 0, 1, 0, 2), 16, undecided=frozenset({0, 1}))).stops
    assert rule.verdict(Votes((0, 0, 0, 0, 2), 16)).reason == "samples 1 to 3 of 16 have the same answer"


@pytest.mark.parametrize(
    ("answers", "tokens", "expected"),
    [
        ("ab", (10, 10), False),  # too early
        ("abc", (10, 20, 70), True),  # 100 together
        ("abc", (10, 20, 71), False),
        ("abca", (10, 20, 71, 0), False),  # counted once
        ("abca", (10, 20, 70, 900), True),
        ("---a", (1, 1, 1, 1), False),  # no answer among those judged
        ("-bc", (0, 50, 50), True),
        ("abc", (), False),  # nobody counts
    ],
)
def test_length(answers: str, tokens: tuple[int, ...], expected: bool) -> None:
    verdict = parse_vote_rule("length:tokens=100,detect=3").verdict(votes_of(answers, tokens=tokens))
    assert verdict.stops is expected


def test_length_gives_its_numbers() -> None:
    rule = parse_vote_rule("length:tokens=100,detect=2")
    assert rule.verdict(votes_of("ab", tokens=(40, 50))).reason == "90 tokens ≤ 100 after 2 of 16 samples"
    long = rule.verdict(votes_of("ab", tokens=(40, 61)))
    assert long.reason == "101 tokens > 100 after 2 samples: spends the cap of 16"
    assert rule.verdict(votes_of("ab")).reason == "nobody counts the tokens of the first 2 of 16 samples"


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        ("m-of-n:m=3", "ab", False),
        ("m-of-n:m=3", "abc", True),
        ("m-of-n:m=3", "a-b-", False),  # only real answers count
        ("m-of-n:m=3", "a-b-a", True),
        ("m-of-n:m=1", "a", True),
    ],
)
def test_m_of_n(rule: str, answers: str, expected: bool) -> None:
    assert stops(rule, answers) is expected


@pytest.mark.parametrize(
    ("rule", "answers", "rewards", "expected"),
    [
        ("reward-threshold:mean=0.4", "ab", (1.0, 1.0), False),  # too early
        ("reward-threshold:mean=0.4", "abc", (0.2, 0.4, 0.6), True),
        ("reward-threshold:mean=0.4", "abc", (0.2, 0.4, 0.59), False),
        ("reward-threshold:mean=0.4", "abcd", (0.2, 0.3, 0.4, 1.0), False),  # judged once
        ("reward-threshold:mean=0.4", "abcd", (0.4, 0.4, 0.4, 0.0), True),
        ("reward-threshold:mean=0.4", "abc", (None, 0.4, 0.4), True),  # the mean of those that have one
        ("reward-threshold:max=0.99,detect=2", "ab", (0.99, 0.0), True),
        ("reward-threshold:max=0.99,detect=2", "ab", (0.98, 0.98), False),
        ("reward-threshold:max=0.9,mean=0.5,detect=2", "ab", (0.9, 0.1), True),
        ("reward-threshold:max=0.9,mean=0.6,detect=2", "ab", (0.9, 0.1), False),  # both tests must pass
        ("reward-threshold:max=0.9,mean=0.5,detect=2", "ab", (0.8, 0.8), False),
        ("reward-threshold:mean=0.4", "---a", (1.0, 1.0, 1.0, 1.0), False),  # no answer among those judged
    ],
)
def test_reward_threshold(rule: str, answers: str, rewards: tuple[float | None, ...], expected: bool) -> None:
    assert parse_vote_rule(rule).verdict(votes_of(answers, rewards=rewards)).stops is expected


@pytest.mark.parametrize("rewards", [(), (None, None, None)])
def test_reward_threshold_says_when_there_are_no_rewards(rewards: tuple[float | None, ...]) -> None:
    verdict = parse_vote_rule("reward-threshold:mean=0.4").verdict(votes_of("aaa", rewards=rewards))
    assert verdict.kind is VerdictKind.CONTINUE
    assert verdict.reason == "no rewards of the first 3 of 16 samples"


def test_reward_threshold_names_the_tests_that_fail() -> None:
    verdict = parse_vote_rule("reward-threshold:max=0.9,mean=0.4").verdict(votes_of("aaa", rewards=(0.1, 0.2, 0.3)))
    assert verdict.reason == ("best reward 0.300 < 0.9, mean reward 0.200 < 0.4 after 3 samples: spends the cap of 16")


def prune(rule: str, confidences: tuple[float | None, ...], running: dict[int, float], answers: str = "") -> Verdict:
    finished = answers or "a" * len(confidences)
    votes = votes_of(finished, cap=64, confidences=confidences, running=tuple(running.items()))
    return parse_vote_rule(rule).verdict(votes)


def test_confidence_prune_cuts_off_branches_below_the_bar() -> None:
    rule = "confidence-prune:warmup=5,keep=50"
    confidences = (5.0, 1.0, 3.0, 4.0, 2.0)  # the bar is their median, 3
    verdict = prune(rule, confidences, {5: 2.9, 6: 3.0, 7: 9.0, 9: 0.1})
    assert (verdict.kind, verdict.pruned_branches) == (VerdictKind.PRUNE, (5, 9))
    assert verdict.reason == "2 of 4 running branches are below the bar of 3.000"
    assert prune(rule, confidences, {6: 3.0}).kind is VerdictKind.CONTINUE
    assert prune(rule, confidences, {}).kind is VerdictKind.CONTINUE


def test_only_the_warm_up_sets_the_bar() -> None:
    rule = "confidence-prune:warmup=3,keep=50"
    assert prune(rule, (1.0, 2.0), {5: 0.0}).reason == "2 of the 3 samples that set the bar have finished"
    assert prune(rule, (1.0, 2.0, 3.0, 99.0, 99.0), {5: 2.5}).kind is VerdictKind.CONTINUE
    assert prune(rule, (1.0, None, 3.0), {5: 1.9}).pruned_branches == (5,), "the bar is 2, of those that have one"


@pytest.mark.parametrize("confidences", [(), (None, None)])
def test_without_log_probabilities_nothing_is_pruned(confidences: tuple[float | None, ...]) -> None:
    verdict = prune("confidence-prune:warmup=2", confidences, {5: 0.0}, answers="aa")
    assert verdict.kind is VerdictKind.CONTINUE
    assert "no log-probabilities" in verdict.reason


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.integers(1, 99))
def test_the_bar_is_deepconfs_percentile(confidences: list[float], keep: int) -> None:
    bar = float(np.percentile(confidences, 100 - keep))
    rule = f"confidence-prune:warmup={len(confidences)},keep={keep}"
    verdict = prune(rule, tuple(confidences), {100: bar - 1e-6, 101: bar + 1e-6})
    assert verdict.pruned_branches == (100,)


def test_who_needs_log_probabilities_says_over_how_many_tokens() -> None:
    assert token_window(parse_vote_rule("confidence-prune:window=512")) == 512
    assert token_window(parse_vote_rule("beta-posterior & confidence-prune:window=512")) == 512
    assert token_window(parse_vote_rule("beta-posterior")) == 0
    assert token_window(parse_vote_rule("beta-posterior & majority-locked")) == 0


def test_a_conjunction_is_certain_when_all_its_parts_are() -> None:
    """MCTS on GSM8K, arXiv 2412.20993, table 3."""
    rule = parse_vote_rule("static-threshold:threshold=0.99,detect=3 & reward-threshold:mean=0.4")
    certain = rule.verdict(votes_of("aaa", rewards=(0.4, 0.5, 0.6)))
    assert certain.kind is VerdictKind.STOP_CERTAIN
    assert certain.reason == ("H̃ 1.00 ≥ 0.99 after 3 of 16 samples; mean reward 0.500 ≥ 0.4 after 3 of 16 samples")
    assert not rule.verdict(votes_of("aab", rewards=(0.4, 0.5, 0.6))).stops
    unsure = rule.verdict(votes_of("aaa", rewards=(0.1, 0.2, 0.3)))
    assert unsure.reason == "mean reward 0.200 < 0.4 after 3 samples: spends the cap of 16", "what holds it up"


def test_a_conjunction_prunes_what_any_of_its_parts_prunes() -> None:
    rule = parse_vote_rule("confidence-prune:warmup=2,keep=99 & confidence-prune:warmup=2,keep=1 & m-of-n:m=2")
    verdict = rule.verdict(votes_of("aa", confidences=(1.0, 3.0), running=((7, 2.0), (2, 0.5), (3, 9.0))))
    assert (verdict.kind, verdict.pruned_branches) == (VerdictKind.PRUNE, (2, 7))


class Unpromising:
    """A rule that sees no hope."""

    name: ClassVar[str] = "unpromising"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})

    def verdict(self, votes: Votes) -> Verdict:
        return Verdict(VerdictKind.STOP_UNPROMISING, "no hope")

    def describe(self) -> str:
        return "Gives up."


def test_a_conjunction_is_certain_only_if_no_part_gives_up() -> None:
    votes = votes_of("aaaa")
    enough = parse_vote_rule("m-of-n:m=4")
    assert VoteConjunction((enough, Unpromising())).verdict(votes).kind is VerdictKind.STOP_UNPROMISING
    assert VoteConjunction((Unpromising(), Unpromising())).verdict(votes).kind is VerdictKind.STOP_UNPROMISING
    assert VoteConjunction((parse_vote_rule("even"), Unpromising())).verdict(votes).kind is VerdictKind.CONTINUE
