"""To which worker does a call go? To the one with the least outstanding work, in predicted tokens.

Work, not calls: a worker with two long branches is busier than one with three short ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from dynasor_serve.scheduling.demand import CallId

# A worker that fails this many calls in a row gets none until its health check passes again.
FAILURES_TO_QUARANTINE = 3


class WorkerState(StrEnum):
    """Whether a worker gets calls."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    QUARANTINED = "quarantined"


@dataclass(slots=True)
class Worker:
    """One engine endpoint."""

    name: str
    url: str
    engine: str  # its kind, passed through to whoever calls it
    max_in_flight: int  # calls; keeps the order outside the engine, whose own queue stays short
    state: WorkerState = WorkerState.STARTING
    message: str = ""
    failures_in_a_row: int = 0
    idle_since: float | None = None  # seconds; while it drains
    in_flight: dict[CallId, float] = field(default_factory=dict)  # call -> predicted completion tokens

    @property
    def outstanding_tokens(self) -> float:
        return sum(self.in_flight.values())

    @property
    def has_room(self) -> bool:
        return self.state is WorkerState.READY and len(self.in_flight) < self.max_in_flight


def least_work(workers: Iterable[Worker]) -> Worker | None:
    """The worker with room and the least outstanding work; ties go by name. None where no worker has room."""
    candidates = [worker for worker in workers if worker.has_room]
    return min(candidates, key=lambda worker: (worker.outstanding_tokens, worker.name), default=None)
