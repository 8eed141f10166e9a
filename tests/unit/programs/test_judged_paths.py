"""Which path wins: by the best reward, or by the weight of those that agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.programs.events import AnswersCompared, BudgetReached, Event, Rewarded
from dynasor_serve.programs.judged_paths import Chosen, JudgedPaths, parse_rule_over_paths
from dynasor_serve.programs.program import finish, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from unit.programs.lives import BROKEN_OFF, NOW_MS, asked, given_up, judged, said

Paths = list[tuple[str | None, float]]


def of(paths: Paths, answer_type: AnswerType = AnswerType.NUMBER) -> JudgedPaths:
    """Paths numbered 10, 11, …"""
    judged = JudgedPaths.start(answer_type)
    for number, (answer, reward) in enumerate(paths, start=10):
        judged = judged.with_judged(number, answer, reward, 10)
    return judged


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        ([], None),
        ([("1", 0.2), ("2", 0.9), ("1", 0.3)], Chosen("2", 11)),
        ([("1", 0.5), ("2", 0.5), ("2", 0.1)], Chosen("2", 11)),  # a tie goes to the larger cluster,
        ([("1", 0.5), ("2", 0.5)], Chosen("1", 10)),  # then to the earlier path
        ([("1", 0.0), ("2", 0.0), ("2", 0.0)], Chosen("2", 11)),
        ([(None, 0.9), ("1", 0.1)], Chosen("1", 11)),  # a path without an answer wins only where none has one
        ([(None, 0.1), (None, 0.9)], Chosen(None, 11)),
        ([("0.5", 0.1), ("1/2", 0.9)], Chosen("0.5", 11)),  # the cluster's answer, shown by the path that won
    ],
)
def test_the_best_reward_wins(paths: Paths, chosen: Chosen | None) -> None:
    assert of(paths).best() == chosen


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        ([], None),
        ([("1", 0.4), ("2", 0.9), ("1", 0.4)], Chosen("2", 11)),  # 0.8 < 0.9
        ([("1", 0.4), ("2", 0.9), ("1", 0.6)], Chosen("1", 12)),  # 1.0 > 0.9, shown by the better of the two
        ([("1", 0.0), ("2", 0.0), ("2", 0.0)], Chosen("2", 11)),  # nothing but zeros: a plain majority
        ([("1", 0.8), ("2", 0.4), ("2", 0.4)], Chosen("2", 11)),  # a tie goes to the larger cluster
        ([(None, 0.9), (None, 0.9), ("3", 0.0)], Chosen("3", 12)),
        ([(None, 0.1), (None, 0.9)], Chosen(None, 11)),
    ],
)
def test_the_largest_sum_of_rewards_wins(paths: Paths, chosen: Chosen | None) -> None:
    assert of(paths).heaviest() == chosen


def test_what_the_evaluator_merges_adds_up() -> None:
    judged = of([("x+1", 0.4), ("2x", 0.5), ("1+x", 0.4)], AnswerType.MATH)
    assert judged.heaviest() == Chosen("2x", 11)
    one, _, other = (pair for pair in judged.clusters.questions())
    keys = {*one, *other}
    assert len(keys) == 3

    (equal,) = [pair for pair in judged.clusters.questions() if pair[0] == one[0] and pair != one]
    merged = judged.compared(AnswersCompared(equal=(equal,)))

    assert merged.heaviest() == Chosen("x+1", 10)


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3"]), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_winning_weight_does_not_depend_on_the_order(paths: Paths) -> None:
    def weight(paths: Paths) -> float:
        chosen = of(paths).heaviest()
        assert chosen is not None
        return sum(sorted(reward for answer, reward in paths if answer == chosen.answer))

    assert weight(paths) == pytest.approx(weight(paths[::-1]))
    assert weight(paths) == pytest.approx(
        max(sum(sorted(reward for answer, reward in paths if answer == each)) for each in "123")
    )


def test_a_rule_that_prunes_running_samples_is_refused() -> None:
    with pytest.raises(InvalidRule, match="self-consistency"):
        parse_rule_over_paths("confidence-prune")


# --- what the outcome says of paths that nobody could judge

JUDGING = {"best-of-n:max_samples=2,width=2": (2, 3), "rebase:width=2,step_tokens=50,max_depth=3": (6, 7)}


@pytest.mark.parametrize("algorithm", JUDGING)
def test_the_outcome_says_how_many_paths_could_not_be_judged_and_why(algorithm: str) -> None:
    first, second = JUDGING[algorithm]
    said_both = [said(0, "It is \\boxed{1}.", "1"), said(1, "It is \\boxed{2}.", "2")]
    judged_one = fold_log([asked(algorithm), *said_both, *given_up(first), judged(second, 0.5)])
    outcome = finish(judged_one, NOW_MS).outcome
    assert outcome.answer == "2"
    assert "1 path could not be judged and got reward 0" in outcome.stop_detail
    assert outcome.stop_detail.endswith(f"last: {BROKEN_OFF.message}")

    judged_none = fold_log([asked(algorithm), *said_both, *given_up(first), *given_up(second)])
    assert "2 paths could not be judged" in finish(judged_none, NOW_MS).outcome.stop_detail

    all_judged = fold_log([asked(algorithm), *said_both, judged(first, 0.0), judged(second, 0.5)])
    assert "judged" not in finish(all_judged, NOW_MS).outcome.stop_detail, "a reward of 0 is one"


def test_a_lost_sample_is_no_judgement() -> None:
    events = [*given_up(0), said(1, "It is 2.", "2"), judged(3, 0.5)]
    outcome = finish(fold_log([asked("best-of-n:max_samples=2,width=2"), *events]), NOW_MS).outcome
    assert "judged" not in outcome.stop_detail


def test_a_verifier_that_is_silent_is_told_of() -> None:
    first = asked("best-of-n:max_samples=2,width=2", source=RewardSource.VERIFIER)
    silent = Rewarded(Branch(0), 0.0, "not verified: the evaluator does not answer", is_judged=False)
    wrong = Rewarded(Branch(1), 0.0, "12 is not 24")
    here = fold_log([first, said(0, "It is 1.", "1"), said(1, "It is 2.", "2"), silent, wrong])
    detail = finish(here, NOW_MS).outcome.stop_detail
    assert detail.endswith("; 1 path could not be judged and got reward 0; last: " + silent.detail)


@pytest.mark.parametrize("algorithm", ["best-of-n", "rebase", "mcts:expansions=1"])
def test_an_answer_that_is_not_judged_is_told_of(algorithm: str) -> None:
    here = fold_log(
        [asked(algorithm, max_tokens=400, budget=1000), said(0, "It is \\boxed{1}.", "1"), BudgetReached(1000)]
    )
    outcome = finish(here, NOW_MS).outcome
    assert outcome.answer == "1"
    assert outcome.stop_detail.endswith("; the answer was not judged")


@pytest.mark.parametrize(
    ("algorithm", "events"),
    [
        ("self-consistency:max_samples=8", [said(0, "It is 7.", "7", tokens=10), said(1, "It is 7.", "7", tokens=15)]),
        (
            "best-of-n:max_samples=8",
            [said(0, "It is 7.", "7", tokens=10), judged(8, 0.5), said(1, "It is 7.", "7", tokens=15), judged(9, 0.5)],
        ),
    ],
)
def test_a_rule_over_tokens_sees_those_of_each_sample(algorithm: str, events: list[Event]) -> None:
    source = None if algorithm.startswith("self") else RewardSource.OWN
    stopped = fold_log([asked(algorithm, rule="length:tokens=25,detect=2", source=source), *events])
    assert stopped.stop is not None
    assert "25 tokens ≤ 25 after 2 of 8 samples" in stopped.stop.detail
