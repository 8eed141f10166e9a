"""Largest expected gain first: places go to the programs whose next token adds most to the accuracy of all answers.

The paper gives compute to the programs that gain from it (arXiv 2412.20993, §3) by capping each; here they compete for
each place. What a program's next unit is expected to gain is its own forecast (docs/allocation.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want

_MOST_GAIN = 1.0  # per token: it is a probability, and a branch has a token at least


@dataclass(frozen=True, slots=True)
class ExpectedGain:
    """Programs with the highest expected gain per token first; before them those of which nothing is known."""

    name: ClassVar[str] = "expected-gain"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        if want.samples <= 0:
            # Optimism where nothing is known: every program gets a first call, then every one a second, and so on.
            return position - _UNKNOWN
        # Evidence that is under way already leaves less to gain: the nth call of a wave gains an nth of the first.
        return -_gain(want) / (1 + position)

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0  # the engine keeps the order in which it is called, that of the grants


_UNKNOWN = 1e9  # more than any gain, and more calls than any want has


def _gain(want: Want) -> float:
    """A gain that cannot be (negative, not a number) is none."""
    return min(want.gain_per_token, _MOST_GAIN) if want.gain_per_token > 0 else 0.0
