"""What a pool's scheduler tells of its load, as the gateway needs it to predict a query's wait."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.programs.query import QueryClass


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """The load of a pool at one moment; 0 where the scheduler does not know a figure.

    Attributes:
        told_at: when this process heard of it, in monotonic seconds: clocks of two machines may differ.
        wait_seconds: class -> how long a program that arrived then would wait for its first call.
        seconds_per_call: mean, of calls that finished lately.
        seconds_per_program: between the ends of two programs, at the rate at which the pool works while it is busy.
        places: calls that ready workers can run at once.
        free_places: those of them that were free, and that no call waited for.
    """

    told_at: float
    wait_seconds: Mapping[QueryClass, float]
    seconds_per_call: float = 0.0
    seconds_per_program: float = 0.0
    places: int = 0
    free_places: int = 0


def load_from(demand: pb.PoolDemand, told_at: float) -> PoolLoad:
    """The load in a scheduler's words. What is negative or not a number is not known."""
    # What a pool drains just after it was idle says nothing of what it can.
    rate = _known(demand.tokens_per_second_per_worker) * max(0, demand.ready_workers)
    rate = _known(rate) or _known(demand.drained_tokens_per_second)
    arrivals, live = _known(demand.arrivals_per_second), max(0, demand.live_programs)
    if arrivals:
        tokens_per_program = _known(demand.arriving_tokens_per_second) / arrivals
    else:  # what the live ones still take is less than they take in all: rather too few than too many
        tokens_per_program = _known(demand.outstanding_tokens) / live if live else 0.0
    return PoolLoad(
        told_at=told_at,
        wait_seconds={
            QueryClass.INTERACTIVE: _known(demand.predicted_wait_interactive_seconds),
            QueryClass.STANDARD: _known(demand.predicted_wait_seconds),
            QueryClass.BATCH: _known(demand.predicted_wait_batch_seconds),
        },
        seconds_per_call=_known(demand.seconds_per_call),
        seconds_per_program=_known(tokens_per_program / rate) if rate else 0.0,
        places=max(0, demand.places),
        free_places=max(0, demand.places - demand.running_calls - demand.waiting_calls),
    )


def _known(value: float) -> float:
    return value if math.isfinite(value) and value > 0 else 0.0
