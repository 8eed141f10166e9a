"""Approximate shortest job first over whole programs (arXiv 2412.20993, §3.3 and App. D).

A program's remaining time is predicted as its remaining knob times its own mean tokens per branch ("program locality"),
from history before its first branch has finished. All calls of a program share the key, so they go as a gang.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class GangShortest:
    """Programs with the fewest predicted remaining tokens first."""

    name: ClassVar[str] = "gang-shortest"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        # A knob that cannot be is as good as unknown: what is wanted now is the least that remains.
        knob = want.remaining_knob if want.remaining_knob >= 0 else len(want.calls)
        return knob * tokens_per_branch

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return min(999_999, int(self.key(want, 0, tokens_per_branch)))
