"""Least attained service over whole programs (Autellix, arXiv 2502.13965: PLAS).

Who has been served least goes next. No length is predicted: a short program finishes before it has attained much, a
long one yields to newcomers. Unlike PLAS, a call that runs is not preempted, so service is not put into bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class LeastAttainedService:
    """Programs that have spent the fewest completion tokens first."""

    name: ClassVar[str] = "least-attained-service"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return max(0, want.tokens_spent)

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return max(0, min(999_999, want.tokens_spent))
