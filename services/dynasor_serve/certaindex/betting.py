r"""Is a mean loss below a target? Bets against the opposite, for losses in [-1, 1] of questions drawn independently.

Who doubts that the mean loss is m or more bets on each question. A share c of the capital at stake multiplies it by
1 + c (m - loss) / (1 - m), which is never negative since no loss exceeds 1. If the mean is m or more, the capital does
not grow in expectation, so it reaches 1/δ with probability at most δ (Ville's inequality): then the doubt is justified
with confidence 1 - δ. The lower end of the losses plays no part, so that losses in [0, 1] are the special case.

Several shares are played side by side, each with a part of the first capital. The parts may be learnt from other
questions, never from those that are bet on: then the mixture's capital is the mean of its parts', and as honest.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024),
arXiv 2010.09686: the capital process of section 4 (theirs is in [0, 1]: x = (1 + loss) / 2), and the mixture over
shares of the universal portfolio (their appendix C; Orabona and Jun, arXiv 2110.14099).
"""

from __future__ import annotations

from math import log
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

# Shares of what may be at stake. The largest keeps a thousandth, so that one question does not end the game.
SHARES: Floats = np.array([0.999, 0.7, 0.5, 0.35, 0.25, 0.125, 0.0625])
# Half of the first capital plays the largest: rules worth calibrating lose next to nothing.
FIRST_LOG_PARTS: Floats = np.log(np.array([6, 1, 1, 1, 1, 1, 1]) / 12)

_BISECTIONS = 50
_MOST_QUESTIONS = 10**9


def log_growths(losses: Floats, mean: float) -> Floats:
    """Return the logarithm of what each question multiplies each share's capital by.

    Args:
        losses: in [-1, 1], of any shape.
        mean: the mean loss that is doubted, above -1 and below 1.

    Returns:
        The shape of `losses`, and one axis more for `SHARES`.
    """
    return np.asarray(np.log1p(SHARES * ((mean - losses) / (1 - mean))[..., np.newaxis]))


def learnt_log_parts(growth: Floats) -> Floats:
    """Return the parts of a capital of 1, as logarithms, that the shares have earned on other questions.

    Args:
        growth: sums over those questions of `log_growths`, shares on the last axis.
    """
    earned = FIRST_LOG_PARTS + growth
    return np.asarray(earned - _log_sum(earned)[..., np.newaxis])


def log_capital(growth: Floats, log_parts: Floats = FIRST_LOG_PARTS) -> Floats:
    """Return the logarithm of the capital at the end.

    Args:
        growth: sums over the questions of `log_growths`, shares on the last axis.
        log_parts: of the first capital, from `learnt_log_parts`.
    """
    return _log_sum(log_parts + growth)


def upper_bound(losses: Floats, confidence: float, log_parts: Floats = FIRST_LOG_PARTS) -> float:
    """Return the least mean that the losses refute with confidence, each greater one being refuted too; at most 1.

    Args:
        losses: one per question, in [-1, 1].
        confidence: below 1.
        log_parts: of the first capital.
    """
    refuting = log(1 / (1 - confidence))
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):  # each factor grows with the mean, so the capital does
        middle = (low + high) / 2
        if log_capital(log_growths(losses, middle).sum(axis=0), log_parts) >= refuting:
            high = middle
        else:
            low = middle
    return high


def questions_needed(losses: Floats, target: float, confidence: float) -> int | None:
    """Return how many questions like these would refute that the mean loss is `target` or more.

    The capital is taken to grow as on these questions in the mean, so one sample of that size in about two falls short.

    Args:
        losses: one per question, in [-1, 1].
        target: above -1 and below 1.
        confidence: below 1.

    Returns:
        How many, no fewer than 1; None where no number would do, or a thousand million not.
    """
    growth = log_growths(losses, target).mean(axis=0)
    refuting = log(1 / (1 - confidence))
    if growth.max() <= 0:
        return None
    enough = 1
    while log_capital(enough * growth) < refuting:
        enough *= 2
        if enough > _MOST_QUESTIONS:
            return None
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if log_capital(middle * growth) < refuting:
            too_few = middle
        else:
            enough = middle
    return enough


def _log_sum(logs: Floats) -> Floats:
    """The logarithm of the sum over the last axis."""
    most = logs.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logs - most).sum(axis=-1)) + most[..., 0])
