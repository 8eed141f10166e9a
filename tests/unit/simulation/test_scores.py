"""Scores by hand: means over programs, intervals over questions, and the plain budget beside them."""

from __future__ import annotations

import pytest

from dynasor_serve.simulation.outcomes import Ending, Replayed
from dynasor_serve.simulation.scores import PlainBudgets, Tally, mean_score

WRONG, RIGHT = False, True


def replayed(stopped: bool, tokens: float, full: bool, tokens_full: float) -> Replayed:
    return Replayed(Ending(stopped, tokens), Ending(full, tokens_full))


def plain(*ladders: tuple[Ending, ...], by_tokens: bool = False) -> PlainBudgets:
    budgets = PlainBudgets(by_tokens=by_tokens)
    for ladder in ladders:
        budgets.add(ladder)
    return budgets


def test_every_program_counts_the_same() -> None:
    tally = Tally()
    tally.add("p", replayed(RIGHT, 10, RIGHT, 40))
    for _ in range(3):
        tally.add("q", replayed(WRONG, 20, RIGHT, 40))
    score = tally.score(plain((Ending(WRONG, 0), Ending(RIGHT, 40))))
    assert score.questions == 2
    assert (score.accuracy, score.accuracy_full, score.delta_points) == (25.0, 100.0, -75.0)
    assert (score.tokens, score.tokens_full) == (17.5, 40.0)
    assert score.saved_percent == pytest.approx(56.25)
    assert (score.harm, score.rescue) == (1.0, 0.0)
    # Resamples of two questions: p alone, q alone, or both.
    assert (score.delta_low, score.delta_high) == (-100.0, 0.0)


def test_the_interval_of_questions_that_all_change_alike_is_a_point() -> None:
    tally = Tally()
    for question in "pqrs":
        tally.add(question, replayed(RIGHT, 10, WRONG, 20))
    score = tally.score(plain((Ending(WRONG, 20),)))
    assert (score.delta_low, score.delta_points, score.delta_high) == (100.0, 100.0, 100.0)
    assert (score.harm, score.rescue) == (0.0, 4.0)


def test_the_mean_over_runs_weighs_runs_and_not_questions() -> None:
    small, large = Tally(), Tally()
    small.add("p", replayed(WRONG, 10, RIGHT, 20))
    for question in "pqr":
        large.add(question, replayed(RIGHT, 10, RIGHT, 20))
    budgets = plain((Ending(RIGHT, 20),))
    score = mean_score([small, large], [small.score(budgets), large.score(budgets)])
    assert score.questions == 3
    assert score.delta_points == -50.0


def test_a_plain_budget_between_two_numbers_of_samples_is_between_their_scores() -> None:
    budgets = plain(
        (Ending(WRONG, 10), Ending(RIGHT, 20)),
        (Ending(RIGHT, 10), Ending(RIGHT, 40)),
    )
    assert budgets.accuracy_at(10) == pytest.approx(50.0)
    assert budgets.accuracy_at(20) == pytest.approx(75.0)
    assert budgets.accuracy_at(30) == budgets.accuracy_at(99) == pytest.approx(100.0)
    assert budgets.accuracy_at(0) == 0.0


def test_a_program_with_fewer_samples_has_had_all_it_can_have() -> None:
    budgets = plain((Ending(RIGHT, 10),), (Ending(WRONG, 10), Ending(RIGHT, 20)))
    spent, right = budgets.curve()
    assert list(spent) == [0.0, 10.0, 15.0]
    assert list(right) == [0.0, 50.0, 100.0]


def test_a_plain_budget_of_tokens_is_the_same_for_every_chain() -> None:
    budgets = plain(
        (Ending(WRONG, 100), Ending(RIGHT, 200), Ending(RIGHT, 1000)),
        (Ending(RIGHT, 150), Ending(RIGHT, 300)),
        by_tokens=True,
    )
    # 200 tokens each: the first has its second answer, the second spends 150.
    assert budgets.accuracy_at((200 + 150) / 2) == pytest.approx(100.0)
    # 100 each: the first is wrong, the second has spent 100 and said nothing.
    assert budgets.accuracy_at(100) == pytest.approx(0.0)
