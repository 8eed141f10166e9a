"""To which worker does a call go? To the one with the least outstanding work, unless its prefixes are elsewhere.

Work is counted in tokens: those that the worker has yet to decode, and those that it holds in its KV cache meanwhile.
So a worker with two long branches is busier than one with three short ones, and long prompts weigh more than short.
Only what this scheduler has granted and not heard the end of counts: nobody asks a worker how busy it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from dynasor_serve.scheduling.demand import CallId
from dynasor_serve.scheduling.lazy_heap import LazyHeap

# A home keeps its program until it has more than this many times the work of the least loaded worker …
OVERLOADED_TIMES = 2
# … and is also ahead of it by more calls like the one to be placed than this share of its places.
OVERLOADED_SHARE = 0.5
# This share of a worker's places, rounded up, is not given to speculation: a needed call finds one of them at once.
RESERVED_SHARE = 0.25


class WorkerState(StrEnum):
    """Whether a worker gets calls."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    QUARANTINED = "quarantined"


@dataclass(slots=True, eq=False)
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
    in_flight: dict[CallId, int] = field(default_factory=dict)  # call -> its work in tokens
    work: int = 0  # of all that is in flight; integers, so that what is added and taken away again leaves nothing

    def has_room(self, speculative: bool = False) -> bool:
        """Whether it takes one more call. Speculation leaves the reserved places free."""
        places = self.max_in_flight
        if speculative:
            places -= math.ceil(RESERVED_SHARE * places)
        return len(self.in_flight) < places and self.state is WorkerState.READY


def work_of(tokens_per_branch: float, prompt_tokens: float) -> int:
    """The work of a call: the tokens it will decode, and those that it will hold in the KV cache at its end."""
    return round(tokens_per_branch + (prompt_tokens + tokens_per_branch))


def is_overloaded(home: Worker, least_loaded: Worker, work: int) -> bool:
    """Whether a call of so much work is better off without its prefixes than at its home."""
    ahead = home.work - least_loaded.work
    return home.work > OVERLOADED_TIMES * least_loaded.work and ahead > OVERLOADED_SHARE * home.max_in_flight * work


class Placement:
    """The workers that have room, by their outstanding work."""

    def __init__(self) -> None:
        self._with_room = LazyHeap[Worker]()
        self._with_spare_room = LazyHeap[Worker]()  # for speculation

    def changed(self, worker: Worker) -> None:
        """The worker's state, places or calls in flight have changed."""
        for heap, speculative in ((self._with_room, False), (self._with_spare_room, True)):
            if worker.has_room(speculative):
                heap.put(worker, worker.work, worker.name)
            else:
                heap.discard(worker)

    def least_loaded(self, speculative: bool = False) -> Worker | None:
        """The worker with room and the least work; ties go by name. None where no worker has room."""
        return (self._with_spare_room if speculative else self._with_room).first()

    def place(self, home: Worker | None, work: int, speculative: bool = False) -> Worker | None:
        """The worker for a call of so much work, whose prefixes are at `home`. None where no worker has room.

        A full home is not waited for: a place that is free now is worth more than a prompt read twice.
        """
        least_loaded = self.least_loaded(speculative)
        if home is None or least_loaded is None or not home.has_room(speculative):
            return least_loaded
        return least_loaded if is_overloaded(home, least_loaded, work) else home
