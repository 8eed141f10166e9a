"""Families of rules to calibrate: grids of type strings from strict to loose, upper thresholds × lower ones.

The strictest pair is no more than `majority-locked`, which costs nothing. A family is asked for its grid with the
promise, so that its rules carry it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log
from typing import TypeAlias

from dynasor_serve.certaindex.rules.beta_posterior import lead_probability
from dynasor_serve.certaindex.rules.risk_controlled import RiskControlled

_MOST_UPPER, _MOST_LOWER = 16, 6  # thresholds beside the strictest


@dataclass(frozen=True, slots=True)
class Promise:
    """What rules of a family are calibrated for.

    Attributes:
        cap: samples of the full program.
        width: samples side by side.
        target: the most mean net loss, a share.
        confidence: of that.
    """

    cap: int
    width: int
    target: float
    confidence: float


# Promise -> [upper][lower] type strings, each from strict to loose, no row longer than another.
Family: TypeAlias = Callable[[Promise], Sequence[Sequence[str]]]


def lead_family(promise: Promise) -> list[list[str]]:
    """The probability that the leader leads, as `beta-posterior` has it, and the leader's share from half the cap on.

    The first orders votes by lead and number at once, is the strongest of the known simple rules on recorded votes
    (docs/batch-results.md), and has values between which nothing changes: those are its thresholds.
    """
    return [
        [
            str(
                RiskControlled(
                    certain=upper,
                    unpromising=lower,
                    cap=promise.cap,
                    width=promise.width,
                    target=promise.target,
                    confidence=promise.confidence,
                )
            )
            for lower in _shares(promise.cap)
        ]
        for upper in _probabilities(promise.cap)
    ]


def _probabilities(cap: int) -> list[float]:
    """Falling from 1: the probabilities of leads that can still be lost, spread evenly over their odds."""
    leads = [(first, second) for first in range(1, cap // 2 + 1) for second in range(first) if first + second < cap]
    values = sorted({floor(lead_probability(*lead) * 1e6) / 1e6 for lead in leads}, reverse=True)
    return [1.0, *_spread([value for value in values if 0.5 < value < 1], _MOST_UPPER, lambda each: log(1 / each - 1))]


def _shares(cap: int) -> list[float]:
    """Rising from 0: the shares below a half that a leader may have from half of the cap on."""
    halves = range(ceil(cap / 2), cap)
    values = sorted({ceil(1000 * votes / count) / 1000 for count in halves for votes in range(1, count)})
    return [0.0, *_spread([value for value in values if value < 0.5], _MOST_LOWER, lambda each: each)]


def _spread(values: list[float], most: int, scale: Callable[[float], float]) -> list[float]:
    """At most so many of the values, both ends among them, as even as can be on a scale on which they rise."""
    if len(values) <= most:
        return values
    low, high = scale(values[0]), scale(values[-1])
    wanted = [low + (high - low) * step / (most - 1) for step in range(most)]
    kept = {min(values, key=lambda each: abs(scale(each) - where)) for where in wanted}
    return [value for value in values if value in kept]
