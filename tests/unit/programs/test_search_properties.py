"""Programs that judge, search and refine come to an end, whatever arrives in whatever order, and the log is enough."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.best_of_n import BestOfN
from dynasor_serve.programs.events import CancelRequested, Phase, Rewarded, StopReason
from dynasor_serve.programs.growing import GrowingList
from dynasor_serve.programs.mcts import Mcts
from dynasor_serve.programs.program import Program, accept, directive, fold, fold_log
from dynasor_serve.programs.query import RewardSource
from dynasor_serve.programs.rebase import Rebase
from dynasor_serve.programs.tree import Node
from unit.programs.lives import Life, Table, asked, live

VOTE_RULES = [
    "even",
    "static-threshold:threshold=0.7,detect=2",
    "reward-threshold:max=0.99,detect=2",
    "reward-threshold:mean=0.4,detect=2 & static-threshold:threshold=0.99,detect=2",
    "beta-posterior:confidence=0.9",
]
CHAIN_RULES = ["even", "consensus-window:window=2", "consensus-window:window=3,threshold=0.6"]

samples, width = st.integers(1, 8), st.integers(1, 5)
best_of_n = st.builds("best-of-n:max_samples={},width={},weighted={}".format, samples, width, st.integers(0, 1))
iterative_cot = st.builds("iterative-cot:max_rounds={}".format, st.integers(1, 6))
rebase = st.builds(
    "rebase:width={},balance={},max_depth={},step_tokens=50".format,
    samples,
    st.sampled_from([0.01, 0.2, 5.0]),
    st.integers(1, 5),
)
mcts = st.builds(
    "mcts:rollouts={},expansions={},exploration={},width={},max_depth={},step_tokens=50".format,
    samples,
    st.integers(1, 3),
    st.sampled_from([0.0, 1.0, 5.0]),
    width,
    st.integers(1, 3),
)
tables = st.builds(
    Table,
    seed=st.integers(0, 2**32),
    answers=st.sampled_from([("1",), ("1", "2", "3"), ("x+1", "1+x", "2x")]),
    lost=st.sampled_from([0.0, 0.0, 0.2, 0.6, 1.0]),
    cut=st.sampled_from([0.0, 0.2, 1.0]),
    ends=st.sampled_from([0.0, 0.3, 1.0]),
    rewards=st.sampled_from([(0.0,), (0.0, 1.0), (0.1, 0.5, 0.9)]),
)
sources = st.sampled_from(list(RewardSource))
budgets = st.sampled_from([0, 0, 0, 100])
max_tokens = st.sampled_from([50, 120, 400])


@given(st.one_of(best_of_n, rebase, mcts), st.sampled_from(VOTE_RULES), sources, tables, budgets, max_tokens, st.data())
def test_programs_that_judge_come_to_an_end(
    algorithm: str, rule: str, source: RewardSource, table: Table, budget: int, max_tokens: int, data: st.DataObject
) -> None:
    answer_type = "math" if "x+1" in table.answers else "number"
    first = asked(algorithm, rule=rule, source=source, answer_type=answer_type, budget=budget, max_tokens=max_tokens)
    chance = random.Random(data.draw(st.integers(0, 2**32), label="order of events"))

    life = live(first, table, chance, _check_vote)

    _check_end(life)


@given(iterative_cot, st.sampled_from(CHAIN_RULES), tables, budgets, st.data())
def test_programs_that_refine_come_to_an_end(
    algorithm: str, rule: str, table: Table, budget: int, data: st.DataObject
) -> None:
    answer_type = "math" if "x+1" in table.answers else "number"
    first = asked(algorithm, rule=rule, source=None, answer_type=answer_type, budget=budget)
    chance = random.Random(data.draw(st.integers(0, 2**32), label="order of events"))

    life = live(first, table, chance, _check)

    _check_end(life)
    assert life.most_at_once == 1, "rounds follow one another"


def _check(program: Program) -> None:
    now, assessment = directive(program), program.assessment
    assert len(set(now.wanted)) == len(now.wanted)
    assert not set(now.wanted) & (program.counted | program.abandoned), "a call is wanted that has ended for good"
    assert all(0 <= branch < 2**31 for branch in now.wanted)
    assert 0 <= assessment.samples <= program.algorithm.cap
    assert 0 <= assessment.certaindex <= 1
    assert 0 <= now.remaining_knob <= program.algorithm.cap - assessment.samples
    aggregate = program.algorithm.aggregate()
    assert sum(count for _, count in aggregate.votes) == assessment.samples
    assert aggregate.text or aggregate.answer is None
    assert (aggregate.answer is not None) >= any(answer is not None for answer, _ in aggregate.votes)


def _check_vote(program: Program) -> None:
    _check(program)
    aggregate = program.algorithm.aggregate()
    answers = {answer for answer, _ in aggregate.votes} - {None}
    assert not answers or aggregate.answer in answers, "the answer is none of those that were voted for"


def _check_end(life: Life) -> None:
    program, outcome = life.program, life.outcome
    assert fold_log(life.log) == program
    assert outcome.phase.is_final
    if outcome.answer is not None and outcome.stop_reason is not StopReason.FAILED:
        assert outcome.phase is Phase.SUCCEEDED
    cost_at_cap = program.algorithm.cost_at_cap(program.finished_tokens, program.abandoned)
    if outcome.stop_reason is StopReason.CAP and outcome.samples and cost_at_cap is not None:
        assert cost_at_cap == pytest.approx(program.finished_tokens), "at its cap a program has saved nothing"
    if cost_at_cap is not None:
        assert cost_at_cap >= program.finished_tokens - 1e-6


@given(rebase | mcts, tables, st.integers(0, 2**32), st.data())
def test_what_was_kept_is_folded_again_behind_a_cancellation(
    algorithm: str, table: Table, seed: int, data: st.DataObject
) -> None:
    """As a journal does that is behind: what comes after the stop may be about calls that were never asked for."""
    log = live(asked(algorithm), table, random.Random(seed), _check).log
    place = data.draw(st.integers(1, len(log)))

    program = fold_log([*log[:place], CancelRequested("changed my mind"), *log[place:]])

    assert program.stop is not None
    assert place == len(log) or program.stop.reason is StopReason.CANCELLED


@given(rebase, tables, st.integers(0, 2**32))
def test_a_tree_is_no_wider_and_no_deeper_than_asked(algorithm: str, table: Table, seed: int) -> None:
    life = live(asked(algorithm), table, random.Random(seed), _check)

    search = life.program.algorithm
    assert isinstance(search, Rebase)
    depths = [node.depth for node in search.tree.nodes]
    assert max(depths) <= search.parameters.max_depth
    assert all(depths.count(depth) <= search.parameters.width for depth in set(depths))
    assert life.most_at_once <= search.parameters.width
    assert all(node.tokens <= 400 for node in search.tree.nodes)
    lost = sum(node.is_lost for node in search.tree.nodes)
    assert search.judged.count + lost == search.parameters.width, "every path is judged or lost"


@given(mcts, tables, st.integers(0, 2**32))
def test_a_search_spends_no_more_rollouts_than_asked(algorithm: str, table: Table, seed: int) -> None:
    life = live(asked(algorithm), table, random.Random(seed), _check)

    search = life.program.algorithm
    assert isinstance(search, Mcts)
    parameters = search.parameters
    assert len(search.rollouts) == parameters.rollouts
    assert len(search.tree.nodes) <= parameters.rollouts * parameters.expansions
    assert life.most_at_once <= parameters.width * parameters.expansions
    lost = sum(rollout.stage.name == "LOST" for rollout in search.rollouts)
    assert search.judged.count + lost == parameters.rollouts, "every rollout is judged or lost"
    taken = [rollout.node for rollout in search.rollouts if rollout.node is not None and not rollout.text]
    complete = [node for node in taken if search.tree.nodes[node].is_complete]
    assert len(set(complete)) == len(complete), "a complete path was taken twice"


@given(best_of_n, sources, tables, st.integers(0, 2**32))
def test_best_of_n_keeps_to_its_width(algorithm: str, source: RewardSource, table: Table, seed: int) -> None:
    def check(program: Program) -> None:
        _check(program)
        now = directive(program)
        assert isinstance(program.algorithm, BestOfN)
        under_way = len(now.wanted) + len(now.verify)
        assert under_way <= max(program.algorithm.parameters.width, len(now.verify)), "given up, some come after all"

    life = live(asked(algorithm, source=source), table, random.Random(seed), check)

    algorithm_state = life.program.algorithm
    assert isinstance(algorithm_state, BestOfN)
    assert life.most_at_once <= algorithm_state.parameters.width
    drawn = {branch for branch in life.asked if branch < algorithm_state.cap}
    assert len(drawn) == algorithm_state.cap


@pytest.mark.parametrize("source", list(RewardSource))
@pytest.mark.parametrize("algorithm", ["rebase:width=32,max_depth=20,step_tokens=1", "mcts:rollouts=40,step_tokens=1"])
def test_no_arrival_looks_through_the_whole_tree(
    algorithm: str, source: RewardSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trees have tens of thousands of nodes, and the tracker's loop is everybody's."""
    looked_at = 0
    get = GrowingList.__getitem__

    def counted(nodes: GrowingList[Node], place: int) -> Node:
        nonlocal looked_at
        looked_at += 1
        return get(nodes, place)

    def refused(nodes: GrowingList[Node]) -> Iterator[Node]:
        raise AssertionError(f"all {len(nodes)} nodes are read")

    monkeypatch.setattr(GrowingList, "__getitem__", counted)
    monkeypatch.setattr(GrowingList, "__iter__", refused)
    program = accept(asked(algorithm, source=source, max_tokens=100_000))
    table, chance = Table(ends=0.05), random.Random(0)
    events = 0
    while program.stop is None:
        now = directive(program)
        if now.wanted:
            branch = chance.choice(now.wanted)
            program = fold(program, table.event(branch, program.algorithm.call(branch), "1.1"))
        else:
            program = fold(program, Rewarded(now.verify[0][0], chance.random()))
        events += 1
    assert events > 200
    assert looked_at / events < 60, "a path of 20 nodes is read for its text"
