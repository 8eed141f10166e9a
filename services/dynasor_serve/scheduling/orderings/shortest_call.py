"""Shortest call first, whatever program it belongs to: what a queue in front of an engine does. A baseline.

The classic shortest-job-first rule on single calls, as in the schedulers that arXiv 2502.13965 (Autellix) calls
request-level: it knows how long a call is forecast to be, and nothing of the program that waits for all of its calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class ShortestCall:
    """Calls with the fewest forecast completion tokens first."""

    name: ClassVar[str] = "shortest-call"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return tokens_per_branch

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return min(999_999, int(tokens_per_branch))
