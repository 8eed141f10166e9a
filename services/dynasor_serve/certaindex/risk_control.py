"""Which thresholds may be promised? Fixed-sequence testing along a path from strict to loose.

A family of rules has two thresholds that loosen in steps: an upper one ("certain already") and a lower one
("unpromising"). Questions are split in two. Those for *ordering* choose a path through the grid of both thresholds,
from the strictest pair to the loosest, and teach the bets. Those for *testing* are bet on, pair by pair along the path,
each at the full δ, up to the first pair that fails. Whatever the family, a pair whose mean loss is the target or more
passes with probability δ at most: before it could, the first such pair on the path would have to pass, and that one
does with probability δ at most. Both thresholds share δ, since there is one path.

Source: fixed-sequence testing with an order learnt on a separate split: Angelopoulos et al., "Learn then Test",
arXiv 2110.01052, section 3.2; for several risks, Laufer-Goldshtein et al., arXiv 2210.07913.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynasor_serve.certaindex.betting import Floats, learnt_log_parts, log_capital, log_growths

Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """What a family of rules loses and costs on questions: upper thresholds × lower ones, each from strict to loose.

    Attributes:
        losses: [questions, upper, lower] in [-1, 1]: correctness of the full program less that of the stopped one.
        harms: the same shape: the part of it that right programs turned wrong make, in [0, 1].
        tokens: the same shape, of the stopped program.

    Raises:
        ValueError: the shapes differ, there is no question or no rule, or a loss is not in [-1, 1].
    """

    losses: Floats
    harms: Floats
    tokens: Floats

    def __post_init__(self) -> None:
        if self.losses.ndim != 3 or not self.losses.size:
            raise ValueError(f"losses have shape {self.losses.shape}; they are [questions, upper, lower], none empty")
        if not self.losses.shape == self.harms.shape == self.tokens.shape:
            raise ValueError("losses, harms and tokens differ in shape; they are of the same rules and questions")
        if not np.abs(self.losses).max() <= 1:  # NaN is not
            raise ValueError("a loss is not in [-1, 1]")


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What was chosen from each of several calibration sets.

    Attributes:
        upper, lower: [sets] the loosest pair that passed on each; -1 where none did.
        tested, passed: [sets] pairs on the path, and how many of them passed.
    """

    upper: NDArray[np.intp]
    lower: NDArray[np.intp]
    tested: NDArray[np.intp]
    passed: NDArray[np.intp]

    @property
    def is_certified(self) -> NDArray[np.bool_]:
        """[sets] Whether any pair passed."""
        return self.passed > 0


class RiskControl:
    """Chooses thresholds of one family for one target."""

    def __init__(self, grid: Grid, *, target: float, confidence: float) -> None:
        """Prepares the bets on each question.

        Args:
            grid: the family on the questions that are drawn from.
            target: the mean loss that is promised not to be exceeded, above 0 and below 1.
            confidence: of the promise, above 0 and below 1.
        """
        self._grid = grid
        self._refuting = log(1 / (1 - confidence))
        self._growths = log_growths(grid.losses, target)

    def log_parts(self, ordering: Counts, upper: int, lower: int) -> Floats:
        """Return what the bets on one pair have learnt from a set's ordering questions; see `choose`."""
        return learnt_log_parts(ordering @ self._growths[:, upper, lower])

    def choose(self, ordering: Counts, testing: Counts) -> Chosen:
        """Choose the loosest pair that passes, for each calibration set.

        Args:
            ordering, testing: [sets, questions] how often each question is in either part of each set.
        """
        upper, lower = self.path(ordering)
        questions = len(self._growths)
        growths = self._growths.reshape(questions, -1)
        shape = (len(ordering), *self._growths.shape[1:])
        learnt = learnt_log_parts((ordering @ growths).reshape(shape))
        capital = log_capital((testing @ growths).reshape(shape), learnt)
        passes = capital[np.arange(len(ordering))[:, np.newaxis], upper, lower] >= self._refuting
        passed = np.cumprod(passes, axis=1).sum(axis=1)
        last = np.maximum(passed - 1, 0)[:, np.newaxis]
        return Chosen(
            upper=np.where(passed > 0, np.take_along_axis(upper, last, axis=1)[:, 0], -1),
            lower=np.where(passed > 0, np.take_along_axis(lower, last, axis=1)[:, 0], -1),
            tested=np.minimum(passed + 1, upper.shape[1]),
            passed=passed,
        )

    def path(self, ordering: Counts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the path of each set, as the indices of its upper and lower thresholds, [sets, steps].

        Each step loosens the threshold whose next step does less harm per token that it saves. Harm counts, not net
        loss: a rescue among few questions is luck.

        Args:
            ordering: [sets, questions] how often each question may be looked at.
        """
        _, uppers, lowers = self._grid.losses.shape
        harms = np.tensordot(ordering, self._grid.harms, axes=1)
        tokens = np.tensordot(ordering, self._grid.tokens, axes=1)
        sets = np.arange(len(ordering))
        upper, lower = np.zeros(len(sets), dtype=np.intp), np.zeros(len(sets), dtype=np.intp)
        path = [(upper, lower)]
        for _ in range(uppers + lowers - 2):
            above, below = np.minimum(upper + 1, uppers - 1), np.minimum(lower + 1, lowers - 1)
            harm, cost = harms[sets, upper, lower], tokens[sets, upper, lower]
            price_above = _price(harms[sets, above, lower] - harm, cost - tokens[sets, above, lower])
            price_below = _price(harms[sets, upper, below] - harm, cost - tokens[sets, upper, below])
            takes_above = (above > upper) & ((price_above <= price_below) | (below == lower))
            upper, lower = np.where(takes_above, above, upper), np.where(takes_above, lower, below)
            path.append((upper, lower))
        return np.stack([each for each, _ in path], axis=1), np.stack([each for _, each in path], axis=1)


def _price(harm: Floats, saved: Floats) -> Floats:
    """Harm per token saved; what saves nothing is dear, for it brings nothing."""
    return np.where(saved > 0, harm / np.where(saved > 0, saved, 1), np.inf)
