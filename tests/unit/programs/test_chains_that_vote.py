"""Self-consistency whose branches are chains: probed, settled, pruned."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.events import CallFinished, Checkpointed, DeadlineReached, Phase, Probed, StopReason
from dynasor_serve.programs.program import directive, finish, fold_log
from dynasor_serve.programs.query import Branch
from unit.programs.chain_lives import NOW_MS, ChainLife, Thought, asked

SETTLES = Thought(tokens=200, trials=("5", "1"), answer="1")
WANDERS = Thought(tokens=120, trials=[str(i) for i in range(100, 120)], answer="2")
VOTING = "self-consistency:max_samples=5,width=2"
PRUNING = "confidence-prune:warmup=2,keep=50,window=16"


def test_settled_chains_vote_with_what_they_were_settled_on_and_cost_no_more() -> None:
    life = ChainLife(
        asked(VOTING, rule="majority-locked", chain_rule="consensus-window:window=2,interval=20"), (SETTLES,)
    )
    outcome = life.run()
    assert (outcome.answer, outcome.stop_reason, outcome.samples) == ("1", StopReason.STOP_CERTAIN, 3)
    finished = 3 * (60 + 3 * 3)
    assert finished <= outcome.ledger.spent <= finished + 69, "a sibling may have begun"


def test_chains_that_settle_and_chains_that_end_by_themselves_vote_together() -> None:
    life = ChainLife(asked(VOTING, rule="even", chain_rule="consensus-window:window=2,interval=20"), (SETTLES, WANDERS))
    outcome = life.run()
    assert dict(outcome.votes) == {"1": 3, "2": 2}
    assert (outcome.answer, outcome.samples, outcome.stop_reason) == ("1", 5, StopReason.CAP)


def test_a_chain_that_is_cut_writes_its_answer_down_before_it_votes() -> None:
    voting = "self-consistency:max_samples=3,width=3,answer_tokens=10"
    life = ChainLife(asked(voting, rule="even", chain_rule="even", max_tokens=90), (WANDERS,))
    outcome = life.run()
    assert dict(outcome.votes) == {"7": 3}
    assert [plan.max_tokens for plan in life.prefilled] == [80, 80, 80, 10, 10, 10]


@given(crashes=st.lists(st.integers(0, 30), max_size=4), width=st.integers(1, 5))
def test_crashes_lose_no_vote(crashes: list[int], width: int) -> None:
    voting = f"self-consistency:max_samples=5,width={width}"
    life = ChainLife(asked(voting, rule="even", chain_rule="consensus-window:window=2,interval=20"), (SETTLES, WANDERS))
    outcome = life.run(crashes)
    assert dict(outcome.votes) == {"1": 3, "2": 2}
    assert fold_log(life.log) == life.program


def test_branches_of_low_confidence_are_pruned_and_the_others_vote() -> None:
    life = ChainLife(asked("self-consistency:max_samples=4,width=4", rule=PRUNING), ())
    assert directive(life.program).wanted == (0, 1, 2, 3)
    plan = life.program.algorithm.call(Branch(0))
    assert plan.token_window == 16
    assert plan.watch is not None
    assert plan.watch.probe is None, "nobody asked for probes"
    assert plan.watch.checkpoint_tokens == 16, "the rule hears of every group of tokens"
    for branch, confidence in ((0, 5.0), (1, 7.0)):
        life.post(CallFinished(Branch(branch), "1.1", "1", "so 1", tokens=20, confidence=confidence))
    life.post(Checkpointed(Branch(2), "1.1", 32, "x", confidence=4.0))
    assert directive(life.program).wanted == (3,), "4 is below the bar of 6"
    life.post(Checkpointed(Branch(3), "1.1", 32, "x", confidence=8.0))
    assert directive(life.program).wanted == (3,)
    life.post(CallFinished(Branch(3), "1.1", "1", "so 1", tokens=10, confidence=8.0))
    outcome = finish(life.program, NOW_MS).outcome
    assert (outcome.phase, dict(outcome.votes), outcome.samples) == (Phase.SUCCEEDED, {"1": 3}, 3)
    assert outcome.ledger.spent == 20 + 20 + 32 + 32 + 10
    at_the_cap = 4 * (20 + 20 + 42) / 3
    assert outcome.ledger.saved_estimate == round(at_the_cap) - outcome.ledger.spent, "by the chains that voted"


def test_a_second_attempt_does_not_make_up_for_a_low_confidence() -> None:
    life = ChainLife(asked("self-consistency:max_samples=4,width=4", rule=PRUNING), ())
    life.post(Checkpointed(Branch(2), "1.1", 32, "x", confidence=1.0))
    life.post(Checkpointed(Branch(2), "1.2", 64, "x", confidence=9.0))
    for branch, confidence in ((0, 5.0), (1, 7.0)):
        life.post(CallFinished(Branch(branch), "1.1", "1", "so 1", tokens=20, confidence=confidence))
    life.post(Checkpointed(Branch(3), "1.1", 16, "x", confidence=8.0))
    assert directive(life.program).wanted == (3,)


def test_probes_answer_where_the_only_vote_was_empty() -> None:
    life = ChainLife(asked(VOTING, rule="even", chain_rule="consensus-window:window=9,interval=20"), (SETTLES,))
    life.post(CallFinished(Branch(0), "1.1", None, "no idea", tokens=20))
    life.post(Checkpointed(Branch(1), "1.1", 20, "x"))
    life.post(Probed(Branch(1), "1.1", 20, "42", False, 1.0, tokens=3))
    life.post(DeadlineReached())
    assert finish(life.program, NOW_MS).outcome.answer == "42"


def test_a_vote_that_comes_after_its_branch_was_pruned_does_not_count() -> None:
    life = ChainLife(asked("self-consistency:max_samples=4,width=4", rule=PRUNING), ())
    for branch, confidence in ((0, 5.0), (1, 7.0)):
        life.post(CallFinished(Branch(branch), "1.1", "1", "so 1", tokens=20, confidence=confidence))
    life.post(Checkpointed(Branch(2), "1.1", 32, "x", confidence=4.0))
    life.post(CallFinished(Branch(2), "1.1", "9", "so 9", tokens=20, confidence=4.0))
    assert "9" not in dict(life.program.algorithm.aggregate().votes)
