"""What stopping early saved and lost against the fixed budget, measured on the same questions. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Result:
    """How one question went in one pass."""

    is_correct: bool
    tokens: int
    samples: int


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile bootstrap interval over questions."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Total:
    """One pass over all questions."""

    questions: int
    correct: int
    tokens: int
    samples: int

    @property
    def accuracy(self) -> float:
        """Share of the questions answered right."""
        return self.correct / self.questions


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two passes over the same questions.

    Attributes:
        early: stopped by the rule.
        fixed: run to the cap.
        saving: share of the fixed pass's tokens that the early pass did not spend.
        accuracy_difference: accuracy of the early pass minus that of the fixed one; negative is a loss.
    """

    early: Total
    fixed: Total
    saving: Interval
    accuracy_difference: Interval


def compare(
    early: Sequence[Result], fixed: Sequence[Result], *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compares two passes, question by question: the same index is the same question.

    The intervals are over the draw of questions: whole questions are resampled with both of their results. They say
    nothing about other models, or about questions of another kind.

    Args:
        early, fixed: at least one result each, equally many.
        resamples: how many times the questions are drawn anew, with replacement.
        seed: of the draws; the same results and seed give the same intervals.
    """
    pairs = list(zip(early, fixed, strict=True))
    if not pairs:
        raise ValueError("nothing to compare: give at least one question")
    rng = random.Random(seed)
    draws = [rng.choices(pairs, k=len(pairs)) for _ in range(resamples)]
    return Comparison(
        early=total(early),
        fixed=total(fixed),
        saving=_interval(_saving, pairs, draws),
        accuracy_difference=_interval(_accuracy_difference, pairs, draws),
    )


def total(results: Sequence[Result]) -> Total:
    """The sums of one pass."""
    return Total(
        questions=len(results),
        correct=sum(result.is_correct for result in results),
        tokens=sum(result.tokens for result in results),
        samples=sum(result.samples for result in results),
    )


Pairs = Sequence[tuple[Result, Result]]


def _saving(pairs: Pairs) -> float:
    fixed_tokens = sum(fixed.tokens for _, fixed in pairs)
    return 1 - sum(early.tokens for early, _ in pairs) / fixed_tokens if fixed_tokens else 0.0


def _accuracy_difference(pairs: Pairs) -> float:
    return sum(early.is_correct - fixed.is_correct for early, fixed in pairs) / len(pairs)


def _interval(statistic: Callable[[Pairs], float], pairs: Pairs, draws: Sequence[Pairs]) -> Interval:
    values = sorted(statistic(draw) for draw in draws)
    tail = int(len(values) * (1 - LEVEL) / 2)
    return Interval(statistic(pairs), low=values[tail], high=values[-1 - tail])
