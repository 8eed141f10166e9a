"""First come, first served over whole programs (Parrot, OSDI'24: requests of one application go together).

A program goes by when its query was accepted, so a scheduler that takes over keeps the order although trackers restate
their programs in any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class GangFcfs:
    """Programs in the order in which their queries were accepted."""

    name: ClassVar[str] = "gang-fcfs"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return want.accepted_at_ms

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0  # the engine keeps the order in which it is called, that of the grants
