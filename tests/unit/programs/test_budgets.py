"""A token budget never ends a program without an answer where one could be had, and it bounds what is spent."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.events import BudgetReached, CallFinished, Checkpointed, Event, Phase, Probed, StopReason
from dynasor_serve.programs.program import accept, directive, finish, fold, fold_log
from dynasor_serve.programs.query import Branch, InvalidQuery, RewardSource
from unit.programs.budget_lives import Spending
from unit.programs.chain_lives import STEP, ChainLife, Thought
from unit.programs.chain_lives import asked as asked_chain
from unit.programs.lives import Table, asked, given_up, judged, said

LENGTH = 60  # most tokens of a sample or path
VOTES = "self-consistency:max_samples={},width={}"
JUDGED = [
    "best-of-n:max_samples={},width={}",
    "rebase:width={},max_depth={},step_tokens=10",
    "mcts:rollouts={},width={},expansions=2,max_depth=3,step_tokens=10",
]
units, width = st.integers(1, 8), st.integers(1, 5)
tables = st.builds(
    Table, seed=st.integers(0, 2**32), ends=st.sampled_from([0.0, 0.3, 1.0]), rewards=st.just((0.0, 0.5, 1.0))
)
budgets, intervals, seeds = st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32)


@given(
    st.sampled_from([VOTES, "iterative-cot:max_rounds={}", *JUDGED]), units, width, tables, budgets, intervals, seeds
)
def test_a_budget_ends_with_an_answer_and_bounds_what_is_spent(
    algorithm: str, units: int, width: int, table: Table, budget: int, interval: int, seed: int
) -> None:
    source = RewardSource.OWN if algorithm in JUDGED else None
    rule = "even" if "cot" not in algorithm else "consensus-window:window=3"
    first = asked(algorithm.format(units, width), rule=rule, source=source, max_tokens=LENGTH, budget=budget)
    life = Spending(first, table, random.Random(seed), interval)

    outcome = life.run()

    assert outcome.answer is not None
    assert outcome.phase is Phase.SUCCEEDED
    assert outcome.ledger.spent <= budget + interval * (life.most_at_once + 1)
    assert outcome.stop_reason in (StopReason.CAP, StopReason.STOP_BUDGET, StopReason.STOP_CERTAIN)


@given(st.sampled_from(JUDGED), units, width, tables, budgets, seeds)
def test_a_verifier_that_takes_its_time_keeps_no_answer_back(
    algorithm: str, units: int, width: int, table: Table, budget: int, seed: int
) -> None:
    source = RewardSource.VERIFIER
    first = asked(algorithm.format(units, width), source=source, max_tokens=LENGTH, budget=budget)
    life = Spending(first, table, random.Random(seed), interval=5)

    assert life.run().answer is not None
    assert life.program.ledger.spent <= budget + 5 * (life.most_at_once + 1)


thoughts = st.lists(
    st.builds(
        Thought,
        tokens=st.integers(20, 300),
        trials=st.sampled_from([(None,), (None, None, "3"), ("1", "2"), ("4",)]),
    ),
    min_size=1,
    max_size=3,
)


@given(
    thoughts,
    st.sampled_from(["even", "consensus-window:window=2,interval=20"]),
    units,
    width,
    st.integers(21, 400),
    st.lists(st.integers(0, 30), max_size=2),
)
def test_chains_under_a_budget_end_with_an_answer(
    thoughts: list[Thought], chain_rule: str, units: int, width: int, budget: int, crashes: list[int]
) -> None:
    algorithm = f"{VOTES.format(units, width)},answer_tokens=20"
    first = asked_chain(algorithm, rule="even", chain_rule=chain_rule, max_tokens=200, budget=budget)
    life = ChainLife(first, thoughts)

    outcome = life.run(crashes)

    assert outcome.answer is not None
    assert outcome.ledger.spent <= budget + (STEP + 3) * width


# --- whom the reserve goes to


def test_of_samples_the_first_goes_on_and_the_others_do_not() -> None:
    here = accept(asked("self-consistency:max_samples=8,width=3", source=None, max_tokens=400, budget=1000))
    assert here.budget_now == 600, "a whole sample's tokens are kept"
    assert directive(here).wanted == (0, 1, 2)

    here = fold(here, BudgetReached(600))

    assert here.stop is None
    assert directive(here).wanted == (0,)
    assert here.budget_now == 0, "the call bounds itself"
    here = fold(here, said(0, "It is 1.", "1", tokens=300))
    assert directive(here).wanted == (1, 2, 3), "what is left serves the others"
    assert here.budget_now == 1000


def test_with_an_answer_nothing_is_kept() -> None:
    first = asked("self-consistency:max_samples=8,width=3", source=None, max_tokens=400, budget=1000)
    here = fold_log([first, said(1, "Well.", None), said(2, "It is 1.", "1")])
    assert here.budget_now == 1000

    here = fold(here, BudgetReached(1000))

    assert here.stop is not None
    assert here.stop.reason is StopReason.STOP_BUDGET


@pytest.mark.parametrize(
    "algorithm", ["self-consistency", "best-of-n", "iterative-cot", "rebase:step_tokens=50", "mcts"]
)
def test_where_the_budget_is_no_larger_than_one_there_is_one_within_it(algorithm: str) -> None:
    source = RewardSource.OWN if algorithm[0] in "brm" else None
    rule = "even" if "cot" not in algorithm else "consensus-window:window=3"
    here = accept(asked(algorithm, rule=rule, source=source, max_tokens=400, budget=300))

    (branch,) = directive(here).wanted
    assert here.algorithm.call(branch).max_tokens == 300
    assert here.algorithm.call(branch).stop is None, "it runs to its end"
    assert here.budget_now == 0


def test_one_that_brings_no_answer_has_spent_the_reserve() -> None:
    here = accept(asked("self-consistency:max_samples=8,width=3", source=None, max_tokens=400, budget=300))

    here = fold(here, said(0, "Well.", None, tokens=100))

    assert here.budget_now == 300
    assert here.stop is None
    assert directive(here).wanted == (1,), "one after the other, as long as there is no answer"
    here = fold(here, BudgetReached(300))
    assert here.stop is not None


def test_a_budget_that_is_told_of_twice_is_reached_once() -> None:
    """As where a reply of Redis is lost: what the log has already is folded once more behind it."""
    first = asked("self-consistency:max_samples=8,width=3", source=None, max_tokens=400, budget=1000)
    written: list[Event] = [BudgetReached(600), said(0, "Well.", None, tokens=300)]
    here = fold_log([first, *written])

    assert fold_log([first, *written, *written]) == here
    assert here.stop is None
    assert directive(here).wanted == (1,), "700 of the 1000 tokens are left"


@pytest.mark.parametrize(
    ("algorithm", "source"),
    [
        ("self-consistency", None),
        ("best-of-n", RewardSource.OWN),
        ("rebase", RewardSource.OWN),
        ("mcts", RewardSource.OWN),
    ],
)
def test_one_that_is_given_up_lets_the_others_go_on(algorithm: str, source: RewardSource | None) -> None:
    here = accept(asked(algorithm, source=source, max_tokens=400, budget=300))
    (branch,) = directive(here).wanted

    for event in given_up(branch):
        here = fold(here, event)

    assert branch not in directive(here).wanted
    assert len(directive(here).wanted) == 1
    assert here.budget_now == 300


def test_best_of_n_answers_without_judging() -> None:
    first = asked("best-of-n:max_samples=4,width=2", max_tokens=400, budget=500)
    here = fold_log([first, said(0, "Well.", None), BudgetReached(100)])
    assert directive(here).wanted == (1,), "neither the judging of an unanswered sample nor another sample"

    here = fold(here, said(1, "It is 1.", "1", tokens=400))
    here = fold(here, BudgetReached(500))

    assert finish(here, 0).outcome.answer == "1"


def test_the_furthest_chain_writes_its_answer_down() -> None:
    first = asked_chain(
        "self-consistency:max_samples=4,width=3,answer_tokens=20", rule="even", chain_rule="even", budget=200
    )
    here = accept(first)
    assert here.budget_now == 180
    for branch, position in ((0, 50), (1, 70), (2, 60)):
        here = fold(here, Checkpointed(Branch(branch), "1.1", position, "x" * position))

    assert here.stop is None
    assert directive(here).wanted == (5,)
    plan = here.algorithm.call(Branch(5))
    assert (plan.continuation, plan.max_tokens, plan.opened_box) == ("x" * 70, 20, True)
    here = fold(here, CallFinished(Branch(5), "1.1", "7", "7}", tokens=15))
    assert here.assessment.samples == 1
    here = fold(here, BudgetReached(200))
    assert finish(here, 0).outcome.answer == "7"


def test_a_trial_answer_is_answer_enough() -> None:
    chain_rule = "consensus-window:window=3,interval=20"
    first = asked_chain(
        "self-consistency:max_samples=4,width=3,answer_tokens=20", rule="even", chain_rule=chain_rule, budget=200
    )
    here = fold_log(
        [first, Checkpointed(Branch(0), "1.1", 20, "x"), Probed(Branch(0), "1.1", 20, "3", False, 1.0, tokens=3)]
    )
    assert here.budget_now == 200
    here = fold(here, BudgetReached(200))
    assert finish(here, 0).outcome.answer == "3"


def test_a_budget_without_room_to_think_is_refused() -> None:
    first = asked_chain("self-consistency:answer_tokens=20", rule="even", chain_rule="even", budget=20)
    with pytest.raises(InvalidQuery, match=r"algorithm\.answer_tokens: is 20, and a chain has 20 tokens"):
        accept(first)


def test_of_a_tree_the_best_path_goes_on_to_its_end() -> None:
    first = asked("rebase:width=2,max_depth=4,step_tokens=50", max_tokens=400, budget=700)
    most = 2 * 4
    steps = [said(0, "One.\n\n", tokens=100, stopped_at="\n\n"), said(1, "Two.\n\n", tokens=100, stopped_at="\n\n")]
    here = fold_log([first, *steps, judged(most + 0, 0.2), judged(most + 1, 0.9)])
    assert directive(here).wanted == (2, 3)
    assert here.budget_now == 300

    here = fold(here, BudgetReached(300))

    (branch,) = directive(here).wanted
    plan = here.algorithm.call(branch)
    assert (plan.continuation, plan.max_tokens, plan.stop) == ("Two.\n\n", 300, None)
    late = fold(here, said(2, "Late.\n\n", tokens=10, stopped_at="\n\n"))
    assert directive(late).wanted == (branch,), "a step that came too late changes nothing"
    here = fold(late, said(branch, "It is \\boxed{5}.", "5", tokens=200))
    assert directive(here).wanted[0] == most + 2, "the path may be judged with what is left"
    assert finish(fold(here, BudgetReached(700)), 0).outcome.answer == "5"


def test_a_tree_does_not_wait_for_rewards_when_its_budget_is_spent() -> None:
    first = asked("rebase:width=2,max_depth=4,step_tokens=50", max_tokens=400, budget=700)
    steps = [said(0, "One.\n\n", tokens=100, stopped_at="\n\n"), said(1, "Two.\n\n", tokens=100, stopped_at="\n\n")]
    here = fold_log([first, *steps, judged(8 + 1, 0.9), BudgetReached(300)])

    (branch,) = directive(here).wanted
    assert here.algorithm.call(branch).continuation == "Two.\n\n"


def test_a_rollout_goes_on_to_its_end_from_its_best_candidate() -> None:
    first = asked("mcts:rollouts=4,expansions=2,width=1,step_tokens=50", max_tokens=400, budget=700)
    steps = [said(0, "One.\n\n", tokens=50, stopped_at="\n\n"), said(1, "Two.\n\n", tokens=50, stopped_at="\n\n")]
    here = fold_log([first, *steps, judged(8 + 1, 0.9), BudgetReached(300)])

    (branch,) = directive(here).wanted
    plan = here.algorithm.call(branch)
    assert (plan.continuation, plan.max_tokens, plan.stop) == ("Two.\n\n", 350, None)
    here = fold(here, said(branch, "It is \\boxed{5}.", "5", tokens=200))
    assert finish(fold(here, BudgetReached(700)), 0).outcome.answer == "5"


def test_a_rollout_that_is_judged_gives_way_to_one_that_may_answer() -> None:
    first = asked("mcts:rollouts=4,expansions=1,width=1,step_tokens=50", max_tokens=400, budget=700)
    here = fold_log([first, said(0, "One.\n\n", tokens=50, stopped_at="\n\n"), judged(4, 0.5)])
    (completion,) = directive(here).wanted
    here = fold(here, said(completion, "Well.", None, tokens=100))
    assert directive(here).wanted == (completion + 4,), "it is judged"

    here = fold(here, BudgetReached(300))

    (branch,) = directive(here).wanted
    assert here.algorithm.call(branch).judge is None
    assert here.algorithm.call(branch).stop is None
