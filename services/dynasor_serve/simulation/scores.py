"""Scores of replayed programs: means over programs, with intervals over questions.

A program is one shuffle of a vote, one chain or one tree. Programs of one question are alike, so the interval of a
change is a percentile bootstrap over questions, each with all its programs. Beside each score stands what a plain
smaller budget would have had for the same tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dynasor_serve.simulation.outcomes import Ladder, Replayed

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles
_BUDGETS = 200  # points of a curve over token budgets


@dataclass(slots=True)
class QuestionScore:
    """Sums over the programs of one question."""

    programs: int = 0
    right: int = 0
    right_full: int = 0
    tokens: float = 0.0
    tokens_full: float = 0.0
    harmed: int = 0  # right at the cap, wrong when stopped
    rescued: int = 0

    def add(self, replayed: Replayed) -> None:
        """Counts one more program."""
        stopped, full = replayed
        self.programs += 1
        self.right += stopped.is_right
        self.right_full += full.is_right
        self.tokens += stopped.tokens
        self.tokens_full += full.tokens
        self.harmed += full.is_right and not stopped.is_right
        self.rescued += stopped.is_right and not full.is_right


@dataclass(frozen=True, slots=True)
class Score:
    """How one rule did on one set of questions.

    Attributes:
        questions: how many.
        accuracy, accuracy_full: in percent, under the rule and at the cap.
        delta_points: their difference, in points, with the ends of its 95 % interval.
        tokens, tokens_full: mean completion tokens of a program, net of everything: probes and cancelled siblings
            are in the first.
        harm, rescue: questions that the rule turned wrong, and right, in the mean over their programs.
        equal_token_accuracy: of a plain smaller budget at `tokens`, in percent.
    """

    questions: int
    accuracy: float
    accuracy_full: float
    delta_points: float
    delta_low: float
    delta_high: float
    tokens: float
    tokens_full: float
    harm: float
    rescue: float
    equal_token_accuracy: float

    @property
    def saved_percent(self) -> float:
        """Tokens saved, in percent of those at the cap; negative where the probes cost more than they saved."""
        return 100 * (1 - self.tokens / self.tokens_full) if self.tokens_full else 0.0


class Tally:
    """The scores of one rule on one run, question by question."""

    def __init__(self) -> None:
        """Builds one without questions."""
        self._questions: defaultdict[str, QuestionScore] = defaultdict(QuestionScore)

    def add(self, question_id: str, replayed: Replayed) -> None:
        """Counts one more program of a question."""
        self._questions[question_id].add(replayed)

    @property
    def question_ids(self) -> list[str]:
        """In the order first seen."""
        return list(self._questions)

    def changes(self) -> dict[str, tuple[int, int]]:
        """Question -> (programs that the rule turned right less those that it turned wrong, programs)."""
        questions = self._questions.items()
        return {each: (score.rescued - score.harmed, score.programs) for each, score in questions}

    def score(self, plain: PlainBudgets) -> Score:
        """Adds up; `plain` is the curve of the same run."""
        scores = self._questions.values()
        programs = sum(score.programs for score in scores)
        low, high = _interval([self])
        tokens = sum(score.tokens for score in scores) / programs
        right, right_full = sum(score.right for score in scores), sum(score.right_full for score in scores)
        return Score(
            questions=len(scores),
            accuracy=100 * right / programs,
            accuracy_full=100 * right_full / programs,
            delta_points=100 * (right - right_full) / programs,
            delta_low=low,
            delta_high=high,
            tokens=tokens,
            tokens_full=sum(score.tokens_full for score in scores) / programs,
            harm=sum(score.harmed / score.programs for score in scores),
            rescue=sum(score.rescued / score.programs for score in scores),
            equal_token_accuracy=plain.accuracy_at(tokens),
        )


class PlainBudgets:
    """What the plain program scores when every question gets the same smaller budget.

    Votes and trees: the same number of samples or paths for each, so that a token budget between two numbers gives some
    questions one more. Chains: the same number of tokens for each.
    """

    def __init__(self, *, by_tokens: bool) -> None:
        """Builds an empty curve, over budgets in tokens or in samples."""
        self._by_tokens = by_tokens
        self._ladders: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        self._tokens: list[float] = []  # summed over programs, by number of samples
        self._right: list[float] = []
        self._programs = 0
        self._curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def add(self, ladder: Ladder) -> None:
        """Takes one more program: what it would score at each of its ends, cheapest first, the full one last."""
        self._programs += 1
        self._curve = None
        if self._by_tokens:
            tokens = np.array([ending.tokens for ending in ladder])
            self._ladders.append((tokens, np.array([float(ending.is_right) for ending in ladder])))
            return
        while len(self._tokens) < len(ladder):  # those before had all that they could have
            self._tokens.append(self._tokens[-1] if self._tokens else 0.0)
            self._right.append(self._right[-1] if self._right else 0.0)
        last = len(ladder) - 1
        for count in range(len(self._tokens)):
            ending = ladder[min(count, last)]
            self._tokens[count] += ending.tokens
            self._right[count] += ending.is_right

    def accuracy_at(self, tokens: float) -> float:
        """Accuracy in percent at a mean number of tokens; nothing is right for nothing."""
        spent, right = self.curve()
        return float(np.interp(tokens, spent, right))

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean tokens of a program, rising, and accuracy in percent."""
        if self._curve is None:
            points = self._token_points() if self._by_tokens else self._sample_points()
            spent, right = np.array([(0.0, 0.0), *points]).T
            self._curve = spent, 100 * right
        return self._curve

    def _sample_points(self) -> list[tuple[float, float]]:
        programs = self._programs
        return [(tokens / programs, right / programs) for tokens, right in zip(self._tokens, self._right, strict=True)]

    def _token_points(self) -> list[tuple[float, float]]:
        costs = np.unique(np.concatenate([tokens for tokens, _ in self._ladders]))
        budgets = np.unique(np.quantile(costs, np.linspace(0, 1, _BUDGETS), method="nearest"))
        spent, right = np.zeros(len(budgets)), np.zeros(len(budgets))
        for tokens, is_right in self._ladders:
            at = np.searchsorted(tokens, budgets, side="right") - 1
            has_begun = at >= 0
            # Without an answer yet, the budget is spent all the same.
            spent += np.where(has_begun, tokens[at], np.minimum(budgets, tokens[-1]))
            right += np.where(has_begun, is_right[at], 0.0)
        return list(zip(spent / self._programs, right / self._programs, strict=True))


def mean_accuracy(plain: Sequence[PlainBudgets], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy of plain budgets in percent, mean over runs, at shares of each run's own full tokens."""
    accuracies = []
    for budgets in plain:
        spent, right = budgets.curve()
        accuracies.append(np.interp(shares * spent[-1], spent, right))
    mean: NDArray[np.float64] = np.mean(accuracies, axis=0)
    return mean


def mean_score(tallies: Sequence[Tally], scores: Sequence[Score]) -> Score:
    """The mean over runs. Questions are resampled together, for all runs that have them."""
    low, high = _interval(tallies)
    return Score(
        questions=len({each for tally in tallies for each in tally.question_ids}),
        accuracy=_mean(score.accuracy for score in scores),
        accuracy_full=_mean(score.accuracy_full for score in scores),
        delta_points=_mean(score.delta_points for score in scores),
        delta_low=low,
        delta_high=high,
        tokens=_mean(score.tokens for score in scores),
        tokens_full=_mean(score.tokens_full for score in scores),
        harm=_mean(score.harm for score in scores),
        rescue=_mean(score.rescue for score in scores),
        equal_token_accuracy=_mean(score.equal_token_accuracy for score in scores),
    )


def _interval(tallies: Sequence[Tally]) -> tuple[float, float]:
    """The ends of the 95 % percentile bootstrap interval of the change in points, the mean over runs."""
    questions = list(dict.fromkeys(question for tally in tallies for question in tally.question_ids))
    weights = _weights(len(questions))
    means = np.full((len(weights), len(tallies)), np.nan)
    for run, tally in enumerate(tallies):
        changes = tally.changes()
        change, programs = np.array([changes.get(question, (0, 0)) for question in questions], dtype=float).T
        drawn = weights @ programs
        # A resample may leave a run without questions.
        np.divide(weights @ change, drawn, out=means[:, run], where=drawn > 0)
    low, high = np.percentile(100 * np.nanmean(means, axis=1), _INTERVAL)
    return float(low), float(high)


@lru_cache(maxsize=8)
def _weights(questions: int) -> NDArray[np.float64]:
    """How often each question is drawn, resample by resample: the same for every rule, so that rules compare."""
    generator = np.random.default_rng(0)
    return generator.multinomial(questions, np.full(questions, 1 / questions), size=_RESAMPLES).astype(float)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
