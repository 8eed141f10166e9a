"""Best of n: each sample is judged when it is finished, and the best one is the answer."""

from __future__ import annotations

from typing import Any

import pytest

from dynasor_serve.programs.calls import SAMPLE, Judge
from dynasor_serve.programs.events import DeadlineReached, Event, Phase, Rewarded, StopReason
from dynasor_serve.programs.program import Program, accept, directive, finish, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from unit.programs.lives import NOW_MS, asked, given_up, judged, said


def program(*events: Event, algorithm: str = "best-of-n:max_samples=4,width=2", **query: Any) -> Program:
    return fold_log([asked(algorithm, **query), *events])


def test_a_sample_is_judged_once_it_is_finished_and_others_start_once_it_is_judged() -> None:
    assert directive(program()).wanted == (0, 1)

    one = program(said(1, "It is 3.", "3"))
    assert directive(one).wanted == (5, 0), "call 4 + i judges sample i, before others are said"
    assert one.algorithm.call(Branch(0)) == SAMPLE
    plan = one.algorithm.call(Branch(5))
    assert (plan.judge, plan.continuation, plan.max_tokens) == (Judge.OWN, "It is 3.", 1)

    assert directive(program(said(1, "It is 3.", "3"), judged(5, 0.5))).wanted == (0, 2)


def test_the_reward_model_judges_in_its_own_pool() -> None:
    plan = program(said(0, "It is 3.", "3"), source=RewardSource.MODEL).algorithm.call(Branch(4))

    assert (plan.judge, plan.pool) == (Judge.MODEL, "judges")


def test_a_verifier_is_shown_the_samples_and_keeps_no_engine_waiting() -> None:
    shown = directive(program(said(1, "It is 3.", "3"), source=RewardSource.VERIFIER))
    assert shown.verify == ((1, "It is 3."),)
    assert shown.wanted == (0,), "two are under way, one of them with the verifier"

    after = program(said(1, "It is 3.", "3"), Rewarded(Branch(1), 1.0), source=RewardSource.VERIFIER)
    assert directive(after).verify == ()
    assert after.assessment.certaindex == 1.0


def _four(rewards: list[float], algorithm: str = "best-of-n:max_samples=4,width=4") -> Program:
    answers = ["1", "2", "1", "1"]
    samples = [said(number, f"It is {answer}.", answer) for number, answer in enumerate(answers)]
    return program(
        *samples, *(judged(4 + number, reward) for number, reward in enumerate(rewards)), algorithm=algorithm
    )


def test_the_best_reward_wins_and_is_the_certaindex() -> None:
    outcome = finish(_four([0.3, 0.8, 0.4, 0.5]), NOW_MS).outcome

    assert (outcome.answer, outcome.text) == ("2", "It is 2.")
    assert outcome.certaindex == 0.8
    assert outcome.votes == (("1", 3), ("2", 1))
    assert outcome.samples == 4


def test_weighted_the_sum_wins() -> None:
    outcome = finish(_four([0.3, 0.8, 0.4, 0.5], "best-of-n:max_samples=4,width=4,weighted=1"), NOW_MS).outcome

    assert (outcome.answer, outcome.text) == ("1", "It is 1.")  # 1.2 > 0.8


def test_its_rule_sees_the_rewards() -> None:
    rule = "reward-threshold:max=0.99,detect=2"
    events = [said(0, "It is 1.", "1"), judged(4, 0.2), said(1, "It is 2.", "2")]

    assert program(*events, rule=rule).stop is None
    stopped = program(*events, judged(5, 0.995), rule=rule)
    assert stopped.stop is not None
    assert stopped.stop.reason is StopReason.STOP_CERTAIN
    outcome = finish(stopped, NOW_MS).outcome
    assert outcome.answer == "2"
    # Two samples of 10 tokens and two judgements of 1 are spent; two more of each would have been.
    assert outcome.ledger.saved_estimate == 22


def test_a_sample_that_awaits_the_verifier_is_under_way() -> None:
    events: list[Event] = [said(0, "It is 1.", "1"), said(1, "It is 2.", "2")]

    assert directive(program(*events, source=RewardSource.VERIFIER)).wanted == (), "the verifier has the say"
    judged_too = program(*events, Rewarded(Branch(1), 0.5), source=RewardSource.VERIFIER)
    assert directive(judged_too).wanted == (2,)


def test_judging_that_fails_for_good_counts_as_no_reward() -> None:
    events: list[Event] = [said(0, "It is 1.", "1"), *given_up(4), said(1, "It is 2.", "2"), judged(5, 0.1)]

    here = program(*events, algorithm="best-of-n:max_samples=2,width=2")

    assert here.assessment.samples == 2
    assert finish(here, NOW_MS).outcome.answer == "2"


def test_a_sample_that_fails_for_good_shrinks_the_cap_until_it_comes_after_all() -> None:
    algorithm = "best-of-n:max_samples=2,width=2"
    lost: list[Event] = [*given_up(0), said(1, "It is 2.", "2"), judged(3, 0.1)]
    ended = program(*lost, algorithm=algorithm)
    assert ended.stop is not None
    assert ended.stop.reason is StopReason.CAP

    late: list[Event] = [*given_up(0), said(0, "It is 1.", "1", attempt="late"), *lost[-2:]]
    assert directive(program(*late, algorithm=algorithm)).wanted == (2,)


def test_at_the_deadline_the_best_so_far_is_the_answer_even_unjudged() -> None:
    outcome = finish(program(said(0, "It is 1.", "1"), DeadlineReached()), NOW_MS).outcome
    assert (outcome.phase, outcome.answer, outcome.samples) == (Phase.SUCCEEDED, "1", 0)

    events: list[Event] = [said(0, "It is 1.", "1"), said(1, "It is 2.", "2"), judged(5, 0.1), DeadlineReached()]
    assert finish(program(*events), NOW_MS).outcome.answer == "2", "what is judged comes first"


def test_every_judgement_refused_at_once_leaves_a_majority() -> None:
    algorithm = "best-of-n:max_samples=3,width=3"
    answers = ["1", "2", "2"]
    events: list[Event] = [said(number, f"It is {answer}.", answer) for number, answer in enumerate(answers)]
    ends = [event for number in range(3) for event in given_up(3 + number)]

    outcome = finish(program(*events, *ends, algorithm=algorithm), NOW_MS).outcome

    assert (outcome.phase, outcome.answer, outcome.certaindex) == (Phase.SUCCEEDED, "2", 0.0)


@pytest.mark.parametrize("algorithm", ["best-of-n", "best-of-n:max_samples=8,width=2,weighted=1"])
def test_its_default_rule_fits(algorithm: str) -> None:
    here = accept(asked(algorithm, rule="reward-threshold:max=0.99,detect=4"))
    assert directive(here).remaining_knob == here.algorithm.cap
