"""The comparison of the demonstration's two passes."""

from __future__ import annotations

import pytest

from dynasor_serve.cli.comparison import Result, compare


def result(*, tokens: int, is_correct: bool = True, samples: int = 4) -> Result:
    return Result(is_correct=is_correct, tokens=tokens, samples=samples)


def test_saving_is_the_share_of_the_fixed_tokens_that_was_not_spent() -> None:
    comparison = compare([result(tokens=10), result(tokens=50)], [result(tokens=100), result(tokens=100)])
    assert comparison.saving.estimate == pytest.approx(0.7)
    assert (comparison.early.tokens, comparison.fixed.tokens) == (60, 200)


def test_accuracy_difference_is_negative_where_stopping_early_loses_answers() -> None:
    early = [result(tokens=1, is_correct=index < 3) for index in range(10)]
    fixed = [result(tokens=2, is_correct=index < 5) for index in range(10)]
    comparison = compare(early, fixed)
    assert comparison.accuracy_difference.estimate == pytest.approx(-0.2)
    assert (comparison.early.accuracy, comparison.fixed.accuracy) == (0.3, 0.5)


def test_interval_holds_the_estimate_and_is_wider_for_questions_that_differ_more() -> None:
    fixed = [result(tokens=100)] * 20
    alike = compare([result(tokens=50)] * 20, fixed).saving
    apart = compare([result(tokens=100 * (index % 2)) for index in range(20)], fixed).saving
    assert alike.low == alike.estimate == alike.high == pytest.approx(0.5)
    assert apart.low < apart.estimate < apart.high
    assert 0.2 < apart.low < 0.4
    assert 0.6 < apart.high < 0.8


def test_questions_are_resampled_with_both_of_their_results() -> None:
    """Equal passes differ by nothing in every draw, however much the questions differ among themselves."""
    results = [result(tokens=10 * index, is_correct=index % 3 == 0) for index in range(1, 15)]
    comparison = compare(results, results)
    assert (comparison.saving.low, comparison.saving.high) == (0, 0)
    assert (comparison.accuracy_difference.low, comparison.accuracy_difference.high) == (0, 0)


def test_the_same_results_give_the_same_intervals() -> None:
    early = [result(tokens=index) for index in range(1, 12)]
    fixed = [result(tokens=20)] * 11
    assert compare(early, fixed) == compare(early, fixed)


def test_passes_of_different_lengths_and_empty_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        compare([result(tokens=1)], [result(tokens=1)] * 2)
    with pytest.raises(ValueError, match="at least one question"):
        compare([], [])


def test_a_fixed_pass_without_tokens_saves_nothing() -> None:
    assert compare([result(tokens=0)], [result(tokens=0)]).saving.estimate == 0
