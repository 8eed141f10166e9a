"""Iterative chain of thought: what each round is shown, which rounds count, and when they agree."""

from __future__ import annotations

from typing import Any

import pytest

from dynasor_serve.programs.calls import SAMPLE
from dynasor_serve.programs.events import AnswersCompared, DeadlineReached, Event, Phase, StopReason
from dynasor_serve.programs.iterative_cot import IterativeCot
from dynasor_serve.programs.program import Program, directive, finish, fold_log
from dynasor_serve.programs.query import Branch
from unit.programs.lives import NOW_MS, asked, given_up, said


def program(*events: Event, rule: str = "consensus-window:window=3", rounds: int = 8, **query: Any) -> Program:
    return fold_log([asked(f"iterative-cot:max_rounds={rounds}", rule=rule, source=None, **query), *events])


def state(program: Program) -> IterativeCot:
    """The state of its algorithm."""
    assert isinstance(program.algorithm, IterativeCot)
    return program.algorithm


def rounds(*texts: str) -> list[Event]:
    """Rounds that end with an answer, or without one where the text has no digit."""
    answers = ["".join(character for character in text if character.isdigit()) or None for text in texts]
    return [said(number, text, answers[number]) for number, text in enumerate(texts)]


def test_the_first_round_is_the_query_and_the_next_show_the_solution_before() -> None:
    here = program(*rounds("It is 1.", "It is 2."))

    assert directive(here).wanted == (2,)
    assert here.algorithm.call(Branch(0)) == SAMPLE
    plan = here.algorithm.call(Branch(2))
    (shown, request) = plan.turns
    assert (shown.role, shown.content) == ("assistant", "It is 2.")
    assert request.role == "user"
    assert "check" in request.content
    assert "refined solution" in request.content
    assert not plan.continues, "the round is a turn of its own"


def test_reasoning_is_not_shown() -> None:
    here = program(*rounds("<think>Is it 2? No.</think>\n\nIt is 3."))

    assert here.algorithm.call(Branch(1)).turns[0].content == "It is 3."


@pytest.mark.parametrize("text", ["<think>It is 3, I guess", "<think>\nIt is 3, I guess</think>\n"])
def test_reasoning_that_is_all_there_is_is_shown_without_its_tags(text: str) -> None:
    assert program(*rounds(text)).algorithm.call(Branch(1)).turns[0].content == "It is 3, I guess"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_round_that_says_nothing_is_asked_again(text: str) -> None:
    assert program(said(0, text)).algorithm.call(Branch(1)) == SAMPLE


def test_rounds_that_agree_stop_it() -> None:
    assert program(*rounds("It is 1.", "It is 2.", "It is 2.")).stop is None

    stopped = program(*rounds("It is 1.", "It is 2.", "It is 2.", "It is 2."))

    assert stopped.stop is not None
    assert stopped.stop.reason is StopReason.STOP_CERTAIN
    outcome = finish(stopped, NOW_MS).outcome
    assert (outcome.answer, outcome.samples, outcome.certaindex) == ("2", 4, 1.0)
    assert outcome.votes == (("2", 3), ("1", 1))
    assert outcome.ledger.saved_estimate == 40, "four rounds of 10 tokens are left"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("It is 2.", True),
        ("Wait, however, but hmm: 3 + 4 are not 6. It is 2.", True),  # the way there may hesitate
        ("It is 2. Wait, that is not right.", False),
        ("It is 2, but I am not sure.", False),
        ("I cannot tell.", False),
    ],
)
def test_a_round_that_takes_its_answer_back_does_not_count(text: str, counts: bool) -> None:
    answer = "2" if "2" in text else None
    events = [said(number, "It is 2.", "2") for number in range(2)]

    here = program(*events, said(2, text, answer))

    assert (here.stop is not None) == counts
    assert here.assessment.certaindex == (1.0 if counts else 0.0)


def test_the_last_round_that_counts_is_the_answer() -> None:
    events = [said(0, "It is 1.", "1"), said(1, "It is 2.", "2"), said(2, "It is 3. Hmm.", "3"), said(3, "I give up.")]

    outcome = finish(program(*events, rounds=4), NOW_MS).outcome

    assert (outcome.answer, outcome.text) == ("2", "It is 2.")
    assert outcome.stop_reason is StopReason.CAP


def test_a_doubted_answer_is_better_than_none() -> None:
    outcome = finish(program(said(0, "It is 3. Hmm.", "3"), DeadlineReached()), NOW_MS).outcome

    assert (outcome.phase, outcome.answer) == (Phase.SUCCEEDED, "3")


def test_positions_grow_even_where_an_engine_counts_no_tokens() -> None:
    here = program(*(said(number, "It is 2.", "2", tokens=0) for number in range(3)))

    assert [each.position for each in state(here).rounds] == [0, 1, 2]
    assert here.stop is not None


def test_a_round_that_fails_for_good_ends_it_with_what_there_is() -> None:
    outcome = finish(program(said(0, "It is 1.", "1"), *given_up(1)), NOW_MS).outcome

    assert (outcome.phase, outcome.answer, outcome.stop_reason) == (Phase.SUCCEEDED, "1", StopReason.CAP)
    assert outcome.ledger.saved_estimate == 0, "nothing more would have been spent"

    failed = finish(program(*given_up(0)), NOW_MS).outcome
    assert failed.phase is Phase.FAILED


def test_equal_answers_that_look_different_agree_once_the_evaluator_says_so() -> None:
    answers = ["x+1", "1+x", "x+2-1"]
    events = [said(number, f"\\boxed{{{answer}}}", answer) for number, answer in enumerate(answers)]
    here = program(*events, rounds=3, answer_type="math")
    assert here.stop is None, "at its cap it waits for the evaluator"
    asked_about = directive(here).compare
    assert len(asked_about) == 3

    merged = program(*events, AnswersCompared(equal=asked_about), rounds=3, answer_type="math")

    assert merged.assessment.certaindex == 1.0
    assert merged.stop is not None
