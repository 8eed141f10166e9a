"""To which worker does a call go? To the one with the least outstanding work, unless its prefixes are elsewhere.

Work is counted in tokens: those that the worker has yet to decode, and those that it holds in its KV cache meanwhile.
So a worker with two long branches is busier than one with three short ones, and long prompts weigh more than short.
Only what this scheduler has granted and not heard the end of counts: nobody asks a worker how busy it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dynasor_serve.scheduling.demand import CallId
from dynasor_serve.scheduling.lazy_heap import LazyHeap

# A home keeps its program until it has more than this many times the work of the least loaded worker …
OVERLOADED_TIMES = 2
# … and is also ahead of it by more calls like the one to be placed than this share of its places.
OVERLOADED_SHARE = 0.5
# One of so many of a worker's places, rounded up, is not given to speculation: a needed call finds it free.
RESERVED_ONE_OF = 4


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

    @property
    def free_places(self) -> int:
        """How many more calls it takes."""
        return self.max_in_flight - len(self.in_flight) if self.state is WorkerState.READY else 0

    @property
    def reserved_places(self) -> int:
        """So many of its places speculation leaves free."""
        return -(-self.max_in_flight // RESERVED_ONE_OF)


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
        free = worker.free_places
        if free > 0:
            self._with_room.put(worker, worker.work, worker.name)
        else:
            self._with_room.discard(worker)
        if free > worker.reserved_places:
            self._with_spare_room.put(worker, worker.work, worker.name)
        else:
            self._with_spare_room.discard(worker)

    def least_loaded(self, speculative: bool = False) -> Worker | None:
        """The worker with room and the least work; ties go by name. None where no worker has room."""
        return (self._with_spare_room if speculative else self._with_room).first()

    def place(self, home: Worker | None, work: int, speculative: bool = False) -> Worker | None:
        """The worker for a call of so much work, whose prefixes are at `home`. None where no worker has room.

        A full home is not waited for: a place that is free now is worth more than a prompt read twice.
        """
        least_loaded = self.least_loaded(speculative)
        if home is None or least_loaded is None or home.free_places <= (home.reserved_places if speculative else 0):
            return least_loaded
        return least_loaded if is_overloaded(home, least_loaded, work) else home
