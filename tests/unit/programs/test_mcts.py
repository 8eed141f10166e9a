"""Monte Carlo tree search: what is selected, expanded, tried out and believed."""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import pytest

from dynasor_serve.programs.calls import Judge
from dynasor_serve.programs.events import DeadlineReached, Event, Phase, Rewarded, StopReason
from dynasor_serve.programs.mcts import Mcts, MctsParameters
from dynasor_serve.programs.program import Program, directive, finish, fold_log
from dynasor_serve.programs.query import Branch, RewardSource
from dynasor_serve.programs.rollout import Stage
from dynasor_serve.programs.selection import uct
from dynasor_serve.programs.tree import STEP_END
from unit.programs.lives import NOW_MS, asked, given_up, judged, said

# Calls of `mcts:rollouts=4,expansions=2`: node i is said by call i and judged by 8 + i, rollout j is completed by call
# 16 + j and judged by 20 + j.
M, COMPLETION, JUDGEMENT = 8, 16, 20


def program(*events: Event, width: int = 1, settings: str = "", **query: Any) -> Program:
    algorithm = f"mcts:rollouts=4,expansions=2,step_tokens=50,width={width}{settings}"
    return fold_log([asked(algorithm, **query), *events])


def state(program: Program) -> Mcts:
    """The state of its algorithm."""
    assert isinstance(program.algorithm, Mcts)
    return program.algorithm


def step(node: int) -> Event:
    return said(node, f"Step {node}.\n\n", stopped_at=STEP_END)


def solved(node: int, answer: str) -> Event:
    return said(node, f"It is \\boxed{{{answer}}}.", answer)


def expansion(first: int, *rewards: float) -> list[Event]:
    """Candidates that go on, and what the model thinks of them."""
    nodes = range(first, first + len(rewards))
    return [*map(step, nodes), *(judged(M + node, rewards[node - first]) for node in nodes)]


def rollout(number: int, reward: float, answer: str = "7") -> list[Event]:
    """A completion, and what it is worth."""
    return [solved(COMPLETION + number, answer), judged(JUDGEMENT + number, reward)]


# --- selection


@pytest.mark.parametrize(
    ("mean", "visits", "parent_visits", "value"),
    [
        (0.6, 0, 0, 0.6),  # the first choice is the judge's
        (0.6, 0, 1, 0.6),  # ln 1 = 0
        (0.6, 1, 3, 0.6 + sqrt(log(3))),
        (0.6, 0, 3, 0.6 + sqrt(log(3))),  # its own judgement stands for a visit
        (0.25, 4, 10, 0.25 + sqrt(log(10) / 4)),
    ],
)
def test_uct_is_raps(mean: float, visits: int, parent_visits: int, value: float) -> None:
    assert uct(mean, visits, parent_visits, 1.0) == pytest.approx(value)
    assert uct(mean, visits, parent_visits, 0.0) == mean


def test_a_search_by_hand() -> None:
    here = program()
    assert directive(here).wanted == (0, 1), "the root is expanded at once"
    assert directive(program(step(1))).wanted == (0, M + 1), "each candidate is judged when it is said"

    events = expansion(0, 0.4, 0.6)
    assert directive(program(*events)).wanted == (COMPLETION,)
    plan = program(*events).algorithm.call(Branch(COMPLETION))
    assert plan.continuation == "Step 1.\n\n", "0.6 > 0.4"
    assert (plan.stop, plan.max_tokens) == (None, 390), "it runs to the end of the solution"

    events += rollout(0, 0.2)
    # Node 0 is thought to be worth 0.4, node 1 has shown 0.2; ln 1 = 0.
    assert state(program(*events)).rollouts[1].node == 0

    events += rollout(1, 0.1)
    # 0.1 + √ln 2 < 0.2 + √ln 2: node 1 again, which is expanded now.
    selected = state(program(*events)).rollouts[2]
    assert (selected.node, selected.stage, selected.candidates) == (1, Stage.EXPANDING, (2, 3))
    plan = program(*events).algorithm.call(Branch(3))
    assert (plan.continuation, plan.stop, plan.max_tokens) == ("Step 1.\n\n", ("\n\n",), 50)

    events += expansion(2, 0.3, 0.9)
    assert state(program(*events)).rollouts[2].node == 3
    assert program(*events).algorithm.call(Branch(COMPLETION + 2)).continuation == "Step 1.\n\nStep 3.\n\n"

    events += rollout(2, 0.0)
    # Node 0: 0.1 + √(ln 3 / 1) = 1.148; node 1: (0.2 + 0.0) / 2 + √(ln 3 / 2) = 0.841.
    assert state(program(*events)).rollouts[3].node == 0

    events += [*expansion(4, 0.5, 0.5), *rollout(3, 0.8, "8")]
    ended = program(*events)
    assert state(ended).rollouts[3].node == 4, "a tie goes to the step asked for first"
    assert ended.stop is not None
    assert ended.stop.reason is StopReason.CAP
    outcome = finish(ended, NOW_MS).outcome
    assert outcome.answer == "8"
    assert outcome.text == "Step 0.\n\nStep 4.\n\nIt is \\boxed{8}."
    assert outcome.votes == (("7", 3), ("8", 1))
    assert outcome.certaindex == pytest.approx((0.2 + 0.1 + 0.0 + 0.8) / 4), "the mean reward"
    assert outcome.ledger.saved_estimate == 0


def test_exploration_weighs_what_is_seldom_visited() -> None:
    events = [*expansion(0, 0.4, 0.6), *rollout(0, 0.5)]

    assert state(program(*events)).rollouts[1].node == 1  # 0.5 > 0.4, and ln 1 = 0
    events += [*expansion(2, 0.5, 0.5), *rollout(1, 0.5)]
    # Node 0: 0.4 + w √ln 2; node 1: 0.5 + w √(ln 2 / 2).
    assert state(program(*events)).rollouts[2].node == 0
    assert state(program(*events, settings=",exploration=0")).rollouts[2].node != 0


def test_rollouts_under_way_count_as_lost() -> None:
    here = program(*expansion(0, 0.4, 0.6), width=2)

    assert [each.node for each in state(here).rollouts] == [1, 0]
    assert directive(here).wanted == (COMPLETION, COMPLETION + 1)
    # A third would expand node 0: two visits of the root, each child one, none of them rewarded.
    wider = program(*expansion(0, 0.4, 0.6), width=3)
    assert (state(wider).rollouts[2].node, state(wider).rollouts[2].stage) == (0, Stage.EXPANDING)
    # A fourth passes over what is being expanded.
    widest = program(*expansion(0, 0.4, 0.6), width=4)
    assert (state(widest).rollouts[3].node, state(widest).rollouts[3].stage) == (1, Stage.EXPANDING)


def test_at_the_start_all_wait_for_the_root() -> None:
    here = program(step(0), judged(M, 0.5), width=4)

    assert len(state(here).rollouts) == 1
    assert directive(here).wanted == (1,)


def test_nothing_is_expanded_below_the_greatest_depth() -> None:
    events = [*expansion(0, 0.9, 0.1), *rollout(0, 0.9)]

    again = state(program(*events, settings=",max_depth=1,exploration=0")).rollouts[1]

    assert (again.node, again.stage) == (0, Stage.COMPLETING)


# --- complete candidates


def test_a_complete_candidate_is_a_rollout_without_a_call_and_is_taken_once() -> None:
    events = [solved(0, "7"), step(1), judged(M, 0.9), judged(M + 1, 0.1)]

    here = program(*events, settings=",exploration=0")

    assert here.assessment.samples == 1
    assert state(here).judged.rewards == (0.9,)
    # Its mean of 0.9 is the best, but it has nothing more to tell.
    assert state(here).rollouts[1].node == 1
    assert directive(here).wanted == (COMPLETION + 1,)


def test_a_node_whose_children_are_all_complete_and_taken_is_expanded_again() -> None:
    events = [solved(0, "7"), solved(1, "8"), judged(M, 0.2), judged(M + 1, 0.9)]

    here = program(*events)

    assert here.assessment.samples == 2
    assert directive(here).wanted == (2, 3)
    assert state(here).tree.nodes[2].parent is None
    assert here.algorithm.aggregate().answer == "8"


def test_a_verifier_judges_solutions_and_the_model_the_steps() -> None:
    source = RewardSource.VERIFIER
    events: list[Event] = [solved(0, "7"), step(1)]
    here = program(*events, source=source)
    assert directive(here).wanted == (M + 1,)
    assert here.algorithm.call(Branch(M + 1)).judge is Judge.OWN
    assert directive(here).verify == ((0, "It is \\boxed{7}."),)

    events += [judged(M + 1, 0.5), Rewarded(Branch(0), 0.0), solved(COMPLETION, "8")]
    here = program(*events, source=source)
    assert directive(here).verify == ((COMPLETION, "Step 1.\n\nIt is \\boxed{8}."),)
    assert directive(here).wanted == (), "nobody else is under way"

    here = program(*events, Rewarded(Branch(COMPLETION), 1.0), source=source)
    assert state(here).judged.rewards == (1.0,)
    assert here.algorithm.aggregate().answer == "8"


# --- what goes wrong


def test_a_candidate_that_is_lost_is_left_out_and_one_that_comes_too_late_too() -> None:
    events = [*given_up(0), step(1), judged(M + 1, 0.1)]

    here = program(*events)
    assert state(here).rollouts[0].node == 1

    for at in range(5, len(events) + 1):
        late = program(*events[:at], solved(0, "9"), *events[at:])
        assert state(late).rollouts[0].node == 1
        assert directive(late).wanted == (COMPLETION,)


def test_a_rollout_whose_candidates_are_all_lost_is_lost() -> None:
    here = program(*given_up(0), *given_up(1))

    assert [each.stage for each in state(here).rollouts] == [Stage.LOST, Stage.EXPANDING]
    assert directive(here).wanted == (2, 3)
    assert directive(here).remaining_knob == 3


def test_a_completion_that_is_lost_ends_its_rollout_and_its_judging_gives_no_reward() -> None:
    lost = program(*expansion(0, 0.4, 0.6), *given_up(COMPLETION))
    assert state(lost).rollouts[0].stage is Stage.LOST
    assert directive(lost).wanted == (COMPLETION + 1,)
    assert directive(lost).remaining_knob == 3

    unjudged = [*expansion(0, 0.4, 0.6), solved(COMPLETION, "7"), *given_up(JUDGEMENT)]
    assert state(program(*unjudged)).judged.rewards == (0.0,)
    late = program(*unjudged, judged(JUDGEMENT, 1.0))
    assert state(late).judged.rewards == (0.0,), "the search has gone on without it"


def test_a_completion_that_is_cut_off_is_no_solution() -> None:
    cut = said(COMPLETION, "that makes 7", "7", finish_reason="length")

    here = program(*expansion(0, 0.4, 0.6), cut)

    assert state(here).judged.rewards == (0.0,)
    assert state(here).judged.answers == (None,)


def test_at_the_deadline_a_solution_that_nobody_judged_is_better_than_none() -> None:
    outcome = finish(program(*expansion(0, 0.4, 0.6), solved(COMPLETION, "7"), DeadlineReached()), NOW_MS).outcome
    assert (outcome.phase, outcome.answer, outcome.text) == (Phase.SUCCEEDED, "7", "Step 1.\n\nIt is \\boxed{7}.")

    outcome = finish(program(solved(1, "8"), DeadlineReached()), NOW_MS).outcome
    assert (outcome.phase, outcome.answer) == (Phase.SUCCEEDED, "8")


# --- the rule and the ledger


def _three(answers: str, rewards: list[float]) -> Program:
    """Three rollouts, one after another: from node 1, from node 0, and from a child of the better of them."""
    events = [*expansion(0, 0.55, 0.6), *rollout(0, rewards[0], answers[0]), *rollout(1, rewards[1], answers[1])]
    expanded = state(program(*events)).rollouts[2].candidates
    events += [*expansion(expanded[0], 0.5, 0.5), *rollout(2, rewards[2], answers[2])]
    return program(*events, rule=MctsParameters.default_rule)


def test_the_papers_rule_wants_agreement_and_reward() -> None:
    assert _three("777", [0.5, 0.5, 0.1]).stop is None, "mean reward 0.37 < 0.4"
    assert _three("778", [0.5, 0.5, 0.5]).stop is None, "they disagree"

    stopped = _three("777", [0.5, 0.5, 0.3])

    assert stopped.stop is not None
    assert stopped.stop.reason is StopReason.STOP_CERTAIN
    outcome = finish(stopped, NOW_MS).outcome
    # 2 × (two steps of 10 and two judgements of 1) + 3 × (a completion of 10 and a judgement of 1) in three rollouts.
    assert outcome.ledger.spent == 77
    assert outcome.ledger.saved_estimate == round(77 / 3)


def test_rollouts_under_way_are_charged_for_what_they_have_spent() -> None:
    events = [*expansion(0, 0.4, 0.6), *rollout(0, 0.5)]  # 22 + 11 tokens
    here = program(*events, *expansion(2, 0.5, 0.5))  # the second has spent 22

    assert here.algorithm.cost_at_cap(55, frozenset()) == pytest.approx(33 + 33 + 33 + 33)
    assert program(*expansion(0, 0.4, 0.6)).algorithm.cost_at_cap(22, frozenset()) is None
