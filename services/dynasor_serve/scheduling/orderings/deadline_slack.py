"""Least slack first: by the latest moment at which a program's next branch may start and still end in time.

Least-laxity scheduling (Mok, 1983), which the paper has not; cf. JITServe (arXiv 2504.20068). Slack is the deadline
less the present less the time still needed. The present is the same for all, so the order needs no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want

# One stream of a 7B model on a busy GPU. It weighs length against deadlines; the order among equally long is untouched.
MILLISECONDS_PER_TOKEN = 20.0


@dataclass(frozen=True, slots=True)
class DeadlineSlack:
    """Programs that must start their next branch soonest first; those without a deadline last."""

    name: ClassVar[str] = "deadline-slack"
    tenants_share: ClassVar[bool] = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        if want.deadline_ms <= 0:
            return math.inf
        # The branches of a gang run side by side, so a program needs at least the time of one.
        return want.deadline_ms - MILLISECONDS_PER_TOKEN * tokens_per_branch

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0  # the engine keeps the order in which it is called, that of the grants
