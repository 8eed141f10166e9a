"""One long chain: probed, settled, cut, concluded, taken over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.chain_of_thought import ChainOfThought
from dynasor_serve.programs.events import (
    BudgetReached,
    CallFailed,
    CallFinished,
    Checkpointed,
    DeadlineReached,
    Phase,
    Probed,
    ProgramError,
    StopReason,
)
from dynasor_serve.programs.program import MAX_ATTEMPTS, directive, finish, fold_log
from dynasor_serve.programs.query import Branch, InvalidQuery, ProbeParameters
from dynasor_serve.programs.registry import parse_algorithm
from unit.programs.chain_lives import NOW_MS, STEP, ChainLife, Thought, asked

CONVERGES = Thought(tokens=200, trials=("5", "3", "1", "1", "1"), answer="1")
WANDERS = Thought(tokens=200, trials=[str(i) for i in range(100, 120)], answer="1")


def test_a_chain_that_settles_is_stopped_with_the_answer_of_its_probes() -> None:
    life = ChainLife(asked(), (CONVERGES,))
    outcome = life.run()
    assert (outcome.phase, outcome.answer, outcome.stop_reason) == (Phase.SUCCEEDED, "1", StopReason.STOP_CERTAIN)
    assert outcome.text == CONVERGES.text(0, 80)
    assert (outcome.ledger.spent, outcome.ledger.probes) == (80 + 4 * 3, 4 * 3)
    assert outcome.ledger.saved_estimate is None, "nobody knows how long it would have become"


def test_a_chain_that_never_settles_runs_to_its_own_end() -> None:
    outcome = ChainLife(asked(), (WANDERS,)).run()
    assert (outcome.answer, outcome.stop_reason, outcome.samples) == ("1", StopReason.CAP, 1)
    assert outcome.text == WANDERS.text(0, 200)
    assert outcome.ledger.spent == 200 + outcome.ledger.probes
    assert outcome.ledger.saved_estimate == -outcome.ledger.probes, "the same chain without probes would have cost 200"


def test_the_rule_even_asks_no_probe() -> None:
    outcome = ChainLife(asked(rule="even"), (CONVERGES,)).run()
    assert (outcome.ledger.spent, outcome.ledger.probes, outcome.ledger.saved_estimate) == (200, 0, 0)


def test_a_chain_that_runs_out_of_tokens_is_asked_for_its_answer_with_those_that_were_kept() -> None:
    life = ChainLife(asked("chain-of-thought:answer_tokens=20", max_tokens=100), (WANDERS,))
    outcome = life.run()
    assert (outcome.answer, outcome.stop_reason) == ("7", StopReason.CAP)
    thinking, concluding = life.prefilled
    assert thinking.max_tokens == 80
    assert (concluding.max_tokens, concluding.closes_thinking, concluding.opened_box) == (20, True, True)
    assert concluding.continuation == WANDERS.text(0, 80)
    assert outcome.text == f"{WANDERS.text(0, 80)}{concluding.suffix}7}}."


def test_a_budget_ends_with_an_answer() -> None:
    life = ChainLife(asked("chain-of-thought:answer_tokens=20", max_tokens=190, budget=100), (WANDERS,))
    while not any(isinstance(event, BudgetReached) for event in life.log) and life.program.stop is None:
        life.turn()
        running = sum(said for _, said in life.running.values()) % STEP
        if life.program.budget_now and life.program.ledger.spent + running >= life.program.budget_now:
            life.post(BudgetReached(life.program.ledger.spent))
    outcome = life.run()
    assert outcome.answer == "7"
    assert outcome.ledger.spent <= 100 + STEP, "at most an interval more than the budget"


def test_prose_is_written_out_on_demand_and_does_not_change_the_answer() -> None:
    life = ChainLife(asked("chain-of-thought:prose=1"), (CONVERGES,))
    outcome = life.run()
    assert (outcome.answer, outcome.stop_reason) == ("1", StopReason.STOP_CERTAIN)
    assert len(life.prefilled) == 2
    assert "\\boxed{1}" in life.prefilled[1].suffix
    assert outcome.text.startswith(CONVERGES.text(0, 80))


def test_where_the_prose_cannot_be_written_the_settled_answer_is_given() -> None:
    life = ChainLife(asked("chain-of-thought:prose=1"), (CONVERGES,))
    while directive(life.program).wanted == (Branch(0),):
        life.turn()
    refused = ProgramError("ENGINE_REFUSED", "no", retryable=False)
    life.post(CallFailed(Branch(1), "1.1", refused))
    assert life.program.stop is not None
    assert finish(life.program, NOW_MS).outcome.answer == "1"


@pytest.mark.parametrize(("turns", "answer"), [(0, None), (3, "102")])
def test_a_chain_that_cannot_go_on_is_answered_by_its_probes(turns: int, answer: str | None) -> None:
    life = ChainLife(asked(), (WANDERS,))
    for _ in range(turns):
        life.turn()
    broken_off = ProgramError("ENGINE_BROKE_OFF", "the engine broke the stream off", retryable=True)
    for attempt in range(MAX_ATTEMPTS):
        assert life.program.stop is None
        life.post(CallFailed(Branch(0), f"1.{attempt + 5}", broken_off, tokens=1))
    assert life.program.stop is not None
    outcome = finish(life.program, NOW_MS).outcome
    assert outcome.answer == answer
    assert outcome.phase is (Phase.FAILED if answer is None else Phase.SUCCEEDED)


def test_an_open_thought_is_closed_before_the_answer_is_written_down() -> None:
    life = ChainLife(asked("chain-of-thought:answer_tokens=20,prose=1", max_tokens=300), (CONVERGES,))
    life.post(Checkpointed(Branch(0), "1.1", 5, "<think>"))
    outcome = life.run()
    assert outcome.text.startswith("<think>")
    assert outcome.text.index("</think>") < outcome.text.index("\\boxed{1}")


REFUSED = ProgramError("PROMPT_TOO_LONG", "too long", retryable=False)


def test_a_refused_conclusion_leaves_the_answer_of_the_probes() -> None:
    life = ChainLife(asked("chain-of-thought:answer_tokens=20", max_tokens=300, budget=100), (WANDERS,))
    life.turn()
    life.turn()
    life.post(BudgetReached(80))
    assert directive(life.program).wanted == (Branch(1),)
    life.post(CallFailed(Branch(1), "1.1", REFUSED))
    assert life.program.stop is not None
    outcome = finish(life.program, NOW_MS).outcome
    assert (outcome.phase, outcome.answer) == (Phase.SUCCEEDED, "101")


def test_a_refused_second_attempt_leaves_the_answer_of_the_probes() -> None:
    life = ChainLife(asked(), (WANDERS,))
    life.turn()
    life.post(CallFailed(Branch(0), "1.1", ProgramError("ENGINE_BROKE_OFF", "broke off", retryable=True)))
    life.post(CallFailed(Branch(0), "1.2", REFUSED))
    assert life.program.stop is not None
    outcome = finish(life.program, NOW_MS).outcome
    assert (outcome.phase, outcome.answer) == (Phase.SUCCEEDED, "100")


def test_a_refused_conclusion_without_any_answer_fails_with_the_engines_reason() -> None:
    life = ChainLife(asked("chain-of-thought:answer_tokens=20", rule="even", max_tokens=60), (WANDERS,))
    while directive(life.program).wanted == (Branch(0),):
        life.turn()
    life.post(CallFailed(Branch(1), "1.1", REFUSED))
    assert life.program.stop is not None
    outcome = finish(life.program, NOW_MS).outcome
    assert outcome.phase is Phase.FAILED
    assert outcome.error == REFUSED


def test_at_the_deadline_the_last_probe_that_counts_answers() -> None:
    life = ChainLife(asked(), (WANDERS,))
    for _ in range(3):
        life.turn()
    life.post(DeadlineReached())
    outcome = finish(life.program, NOW_MS).outcome
    assert (outcome.phase, outcome.answer, outcome.stop_reason) == (Phase.SUCCEEDED, "102", StopReason.STOP_DEADLINE)


def test_without_a_single_probe_a_deadline_leaves_no_answer() -> None:
    life = ChainLife(asked(rule="even"), (WANDERS,))
    life.turn()
    life.post(DeadlineReached())
    outcome = finish(life.program, NOW_MS).outcome
    assert outcome.phase is Phase.FAILED
    assert outcome.error is not None


def test_empty_and_hesitant_probes_never_settle_a_chain() -> None:
    for answer, hesitates in ((None, False), ("1", True)):
        life = ChainLife(asked(), (CONVERGES,))
        for position in range(20, 200, 20):
            life.post(Checkpointed(Branch(0), "1.1", position, "x" * 40))
            life.post(Probed(Branch(0), "1.1", position, answer, hesitates, 1.0, tokens=3))
        assert life.program.stop is None
        assert life.program.assessment.certaindex == 0


@given(crashes=st.lists(st.integers(0, 15), max_size=4))
def test_a_crash_repeats_no_more_than_one_probe_interval(crashes: list[int]) -> None:
    life = ChainLife(asked(rule="consensus-window:window=5,interval=20"), (WANDERS,))
    outcome = life.run(crashes)
    assert (outcome.answer, outcome.text) == ("1", WANDERS.text(0, 200)), "it goes on where it was"
    for plan in life.prefilled:
        assert plan.watch is not None
        assert plan.continuation == WANDERS.text(0, plan.watch.position)
    assert outcome.ledger.spent == 200 + outcome.ledger.probes, "nothing was generated twice here"


@given(data=st.data())
def test_repetitions_change_nothing(data: st.DataObject) -> None:
    """A journal folds what it had kept behind a log that may hold it already."""
    life = ChainLife(asked(rule="consensus-window:window=5,interval=20"), (WANDERS,))
    life.run()
    log = list(life.log)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(1, len(log) - 1))
        repeated = data.draw(st.sampled_from(log[1 : place + 1]))
        if isinstance(repeated, Checkpointed | Probed | CallFinished):
            log.insert(place, repeated)
    assert fold_log(log) == life.program


@given(cut=st.integers(1, 30))
def test_any_prefix_of_a_log_is_a_program_that_goes_on(cut: int) -> None:
    life = ChainLife(asked(), (WANDERS,))
    life.run()
    prefix = life.log[: min(cut, len(life.log) - 1)]
    again = ChainLife(asked(), (WANDERS,), log=[])
    for event in prefix[1:]:
        again.post(event)
    if again.program.stop is None:
        again.crash()
        assert again.run().text == WANDERS.text(0, 200)


def test_tokens_of_a_call_that_is_cancelled_are_booked() -> None:
    life = ChainLife(asked("chain-of-thought:prose=1"), (CONVERGES,))
    outcome = life.run()
    assert outcome.ledger.spent == 80 + 12 + 5


@pytest.mark.parametrize("settings", ["answer_tokens=200", "answer_tokens=300"])
def test_a_chain_without_room_to_think_is_refused(settings: str) -> None:
    with pytest.raises(InvalidQuery, match=r"algorithm\.answer_tokens"):
        parse_algorithm(f"chain-of-thought:{settings}").start(asked(max_tokens=200).query)


def test_the_query_may_probe_otherwise_than_its_rule() -> None:
    first = asked(probe=ProbeParameters(prompt="So the answer is \\boxed{", interval=25, marks=True, max_tokens=9))
    algorithm = parse_algorithm(first.query.algorithm).start(first.query)
    assert isinstance(algorithm, ChainOfThought)
    watch = algorithm.call(Branch(0)).watch
    assert watch is not None
    assert watch.probe is not None
    assert (watch.schedule.interval, watch.schedule.marks) == (25, ("Wait", "Alternatively"))
    assert (watch.probe.suffix, watch.probe.opened_box, watch.probe.max_tokens) == (first.query.probe.prompt, True, 9)
