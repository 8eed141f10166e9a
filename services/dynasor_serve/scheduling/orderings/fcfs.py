"""First come, first served, call by call: what an engine's own queue does. A baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class Fcfs:
    """Calls in the order in which they were first wanted, whatever program they belong to."""

    name: ClassVar[str] = "fcfs"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return arrival

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0
