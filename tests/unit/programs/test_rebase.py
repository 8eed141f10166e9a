"""Rebase: how width is shared, what waits for what, and how rewards weigh votes."""

from __future__ import annotations

import random
from itertools import pairwise
from math import log
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.programs.calls import Judge
from dynasor_serve.programs.events import DeadlineReached, Event, Phase, Rewarded, StopReason
from dynasor_serve.programs.program import Program, accept, directive, finish, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from dynasor_serve.programs.rebase import Rebase, RebaseParameters, shares
from dynasor_serve.programs.tree import STEP_END
from unit.programs.lives import NOW_MS, Table, asked, given_up, judged, live, said

HALVING = 0.5 / log(2)  # a reward that is lower by 0.5 halves the weight


# --- shares


@pytest.mark.parametrize(
    ("rewards", "width", "balance", "children"),
    [
        ([1.0, 0.5, 0.0], 7, HALVING, (4, 2, 1)),  # weights 4 : 2 : 1
        ([1.0, 0.5, 0.0], 16, HALVING, (9, 5, 2)),  # 9.14, 4.57, 2.29
        ([0.9, 0.5, 0.1], 16, 0.2, (14, 2, 0)),  # e^4.5, e^2.5, e^0.5: 13.87, 1.88, 0.25
        ([0.5] * 5, 16, 0.2, (4, 3, 3, 3, 3)),  # 3.2 each, which rounds to 15 in all
        ([0.0, 0.0, 0.0, 0.0], 8, 0.2, (2, 2, 2, 2)),  # nothing but zeros
        ([0.5] * 3, 5, 0.2, (2, 2, 1)),  # 1.67 each, which rounds to 6 in all
        ([0.2, 0.2], 1, 0.2, (1, 0)),
        ([0.0, 1.0], 4, 0.0001, (0, 4)),  # the colder, the greedier
        ([0.0, 1.0], 4, 100.0, (2, 2)),
        ([0.3], 3, 0.2, (3,)),
    ],
)
def test_width_is_shared_by_the_softmax_of_the_rewards(
    rewards: list[float], width: int, balance: float, children: tuple[int, ...]
) -> None:
    assert shares(rewards, width, balance) == children


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 256), st.floats(0.001, 100))
def test_shares_add_up_and_better_nodes_get_no_less(rewards: list[float], width: int, balance: float) -> None:
    children = shares(rewards, width, balance)

    assert sum(children) == width
    assert min(children) >= 0
    by_reward = sorted(zip(rewards, children, strict=True))
    for (worse, fewer), (better, more) in pairwise(by_reward):
        assert worse == better or fewer <= more


# --- the tree


def program(*events: Event, algorithm: str = "rebase:width=4,step_tokens=50", **query: Any) -> Program:
    return fold_log([asked(algorithm, **query), *events])


def state(program: Program) -> Rebase:
    """The state of its algorithm."""
    assert isinstance(program.algorithm, Rebase)
    return program.algorithm


def step(node: int, tokens: int = 10) -> Event:
    return said(node, f"Step {node}.\n\n", tokens=tokens, stopped_at=STEP_END)


def solved(node: int, answer: str, tokens: int = 10) -> Event:
    return said(node, f"It is \\boxed{{{answer}}}.", answer, tokens=tokens)


M = 4 * 25  # call M + i judges node i


def test_the_next_depth_starts_once_the_last_step_that_goes_on_is_judged() -> None:
    algorithm = f"rebase:width=4,step_tokens=50,balance={HALVING!r}"
    events = [step(2), step(0), step(1), judged(M, 1.0), step(3), judged(M + 3, 0.0), judged(M + 1, 0.5)]

    assert directive(program(algorithm=algorithm)).wanted == (0, 1, 2, 3)
    assert directive(program(*events[:2], algorithm=algorithm)).wanted == (M, M + 2, 1, 3), "each is judged at once"
    assert directive(program(*events, algorithm=algorithm)).wanted == (M + 2,)

    grown = program(*events, judged(M + 2, 0.0), algorithm=algorithm)

    assert directive(grown).wanted == (4, 5, 6, 7)
    assert [node.parent for node in state(grown).tree.nodes][4:] == [0, 0, 1, 2]  # 2, 1, 0.5, 0.5
    plan = grown.algorithm.call(Branch(5))
    assert (plan.continuation, plan.max_tokens, plan.stop, plan.keeps_stop) == ("Step 0.\n\n", 50, ("\n\n",), True)


def test_a_complete_path_takes_its_width_out_of_the_tree_and_its_judging_holds_nothing_up() -> None:
    events = [solved(0, "7"), step(1), step(2), step(3), *(judged(M + node, 0.5) for node in (1, 2, 3))]

    here = program(*events)

    assert directive(here).wanted == (M, 4, 5, 6)
    assert directive(here).remaining_knob == 4
    assert here.assessment.samples == 0
    counted = program(*events, judged(M, 0.9))
    assert (counted.assessment.samples, directive(counted).remaining_knob) == (1, 3)


def test_the_last_step_runs_to_the_end() -> None:
    algorithm = "rebase:width=1,max_depth=2,step_tokens=50"
    here = program(step(0), judged(2, 0.5), algorithm=algorithm)

    plan = here.algorithm.call(Branch(1))

    assert (plan.stop, plan.max_tokens, plan.keeps_stop) == (None, 390, False)
    cut = program(step(0), judged(2, 0.5), said(1, "and", tokens=390, finish_reason="length"), algorithm=algorithm)
    outcome = finish(cut, NOW_MS).outcome
    assert outcome.phase is Phase.FAILED
    assert outcome.error is not None
    assert outcome.error.reason == "NO_ANSWER"
    assert outcome.votes == ((None, 1),)


def test_what_is_lost_leaves_the_tree_and_what_comes_too_late_is_left_out() -> None:
    events = [*given_up(0), step(1), step(2), step(3), *(judged(M + node, 0.5) for node in (1, 2, 3))]

    here = program(*events)

    assert directive(here).wanted == (4, 5, 6)
    assert directive(here).remaining_knob == 3
    late = program(*events, solved(0, "9"))
    assert directive(late).wanted == (4, 5, 6)
    assert late.algorithm.aggregate().answer is None


def test_judging_that_fails_for_good_counts_as_no_reward() -> None:
    events = [step(0), step(1), judged(4 * 25, 1.0), *given_up(4 * 25 + 1)]
    algorithm = "rebase:width=2,step_tokens=50,max_depth=50,balance=0.01"

    here = program(*events, algorithm=algorithm)

    assert directive(here).wanted == (2, 3)
    assert [node.parent for node in state(here).tree.nodes][2:] == [0, 0]


def test_a_verifier_judges_solutions_and_the_model_the_steps() -> None:
    here = program(step(0), solved(1, "7"), source=RewardSource.VERIFIER)

    assert directive(here).wanted == (M, 2, 3)
    assert here.algorithm.call(Branch(M)).judge is Judge.OWN
    assert directive(here).verify == ((1, "It is \\boxed{7}."),)
    verified = program(
        step(0), solved(1, "7"), Rewarded(Branch(1), 1.0), Rewarded(Branch(1), 0.0), source=RewardSource.VERIFIER
    )
    assert state(verified).judged.rewards == (1.0,)


# --- the answer


def test_votes_are_weighted_by_the_reward_of_the_last_step() -> None:
    answers, rewards = ["1", "2", "1", "3"], [0.4, 0.9, 0.4, 0.0]
    events = [event for node in range(4) for event in (solved(node, answers[node]), judged(M + node, rewards[node]))]

    outcome = finish(program(*events), NOW_MS).outcome

    assert (outcome.answer, outcome.text) == ("2", "It is \\boxed{2}.")  # 0.9 > 0.4 + 0.4
    assert outcome.votes == (("1", 2), ("2", 1), ("3", 1))
    # H̃ of 2, 1, 1: (2 ln 2) / (4 ln 4)
    assert outcome.certaindex == pytest.approx(0.25)
    assert outcome.stop_reason is StopReason.CAP
    assert outcome.ledger.saved_estimate == 0


def test_rewards_of_zero_throughout_leave_a_plain_majority() -> None:
    first = asked("rebase:width=8,step_tokens=50,max_depth=3")
    for seed in range(20):
        life = live(first, Table(seed, rewards=(0.0,)), random.Random(seed), lambda _: None)

        counts = [count for answer, count in life.outcome.votes if answer is not None]
        assert (life.outcome.answer, max(counts)) in life.outcome.votes


def test_a_tree_that_never_completes_a_path_ends_without_an_answer() -> None:
    first = asked("rebase:width=4,step_tokens=50,max_depth=3")

    life = live(first, Table(cut=1.0), random.Random(0), lambda _: None)

    assert life.outcome.phase is Phase.FAILED
    assert life.outcome.error is not None
    assert life.outcome.error.reason == "NO_ANSWER"
    assert life.outcome.samples == 4


def test_at_the_deadline_a_path_that_nobody_judged_is_better_than_none() -> None:
    outcome = finish(program(solved(2, "7"), DeadlineReached()), NOW_MS).outcome

    assert (outcome.phase, outcome.answer, outcome.samples) == (Phase.SUCCEEDED, "7", 0)


def test_the_papers_rule_stops_a_tree_that_is_wider_than_it_judges() -> None:
    width, most = 18, 18 * 25
    events = [
        event for node in range(16) for event in (solved(node, "1" if node < 14 else "2"), judged(most + node, 0.5))
    ]

    stopped = program(*events, algorithm=f"rebase:width={width},step_tokens=50", rule=RebaseParameters.default_rule)

    assert stopped.stop is not None  # 14 : 2 of 16 is 0.864
    assert stopped.stop.reason is StopReason.STOP_CERTAIN
    outcome = finish(stopped, NOW_MS).outcome
    assert outcome.answer == "1"
    # Two paths of 18 have not begun: each would have had the mean length of 10 tokens and a judgement of 1.
    assert outcome.ledger.saved_estimate == 22


def test_paths_under_way_are_taken_to_grow_as_long_as_the_complete_ones() -> None:
    events = [solved(0, "1", tokens=30), judged(M, 0.5), step(1, 10), step(2, 10), step(3, 40)]

    here = program(*events)

    # 90 tokens of steps and 1 of judging; 20 + 20 + 0 tokens are ahead.
    assert here.algorithm.cost_at_cap(91, frozenset()) == pytest.approx(91 * (90 + 40) / 90)
    assert program(*events[2:]).algorithm.cost_at_cap(60, frozenset()) is None, "no path tells how long they are"


def test_a_rule_for_chains_is_refused() -> None:
    with pytest.raises(InvalidRule, match="watches one chain"):
        accept(asked("rebase", rule="consensus-window"))
