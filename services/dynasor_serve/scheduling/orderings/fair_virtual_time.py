"""Weighted fair sharing between tenants by virtual time (start-time fair queuing, Goyal et al., SIGCOMM'96).

Of tenants that wait, the one whose tokens divided by its weight are fewest goes next, as in the fair queues for
language models (VTC, arXiv 2401.00588; Justitia, arXiv 2510.17015, which shares KV memory-time between programs). What
a tenant did not use while it had nothing to ask for is not owed to it. `tenants` keeps the virtual times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.scheduling.demand import Want


@dataclass(frozen=True, slots=True)
class FairVirtualTime:
    """Tenants by their weighted share; within a tenant, programs in the order in which they were accepted."""

    name: ClassVar[str] = "fair-virtual-time"
    tenants_share: ClassVar[bool] = True

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return want.accepted_at_ms

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0  # the engine keeps the order in which it is called, that of the grants
