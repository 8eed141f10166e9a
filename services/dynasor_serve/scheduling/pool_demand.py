"""The demand of a pool: what is asked of it, and what it achieves. Measured and predicted by `load`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """The demand of one pool at one moment; the fields are those of `PoolDemand` on the wire.

    Attributes:
        at_ms: when, in Unix milliseconds.
        live_programs: waiting, running or thinking.
        waiting_programs: live ones of which a call waits and none runs.
        waiting_calls: speculative ones excluded.
        running_calls: granted and not ended.
        places: calls that ready workers can run at once.
        ready_workers: which get calls.
        outstanding_tokens: completion tokens that live programs will still take, predicted from their Certaindex.
        outstanding_tokens_at_cap: the same, if every program ran to its cap.
        waiting_tokens: of those outstanding, what would be under way already had there been places.
        arrivals_per_second: programs.
        arriving_tokens_per_second: what those that arrive are predicted to take.
        drained_tokens_per_second: of calls that ended.
        tokens_per_second_per_worker: of a worker with all its places busy; 0 where nothing was measured yet.
        seconds_per_call: mean, from grant to end, of calls that finished lately; 0 where none has.
        predicted_wait_seconds: until the first call of a program of the class `standard` that arrived now. 0 while
            places are free, where nothing was measured yet, and where no worker is ready.
        predicted_wait_interactive_seconds: the same for `interactive`,
        predicted_wait_batch_seconds: … and for `batch`.
        slo_attainment: share of the programs with a deadline that ended within the window which ended in time.
            Cancelled and failed ones are not among them. 1 where none ended.
        deadlines_ended: so many ended.
        misses_to_come: live programs predicted to miss their deadline.
        longest_wait_seconds: of a waiting call.
    """

    at_ms: int
    live_programs: int = 0
    waiting_programs: int = 0
    waiting_calls: int = 0
    running_calls: int = 0
    places: int = 0
    ready_workers: int = 0
    outstanding_tokens: float = 0.0
    outstanding_tokens_at_cap: float = 0.0
    waiting_tokens: float = 0.0
    arrivals_per_second: float = 0.0
    arriving_tokens_per_second: float = 0.0
    drained_tokens_per_second: float = 0.0
    tokens_per_second_per_worker: float = 0.0
    seconds_per_call: float = 0.0
    predicted_wait_seconds: float = 0.0
    predicted_wait_interactive_seconds: float = 0.0
    predicted_wait_batch_seconds: float = 0.0
    slo_attainment: float = 1.0
    deadlines_ended: int = 0
    misses_to_come: int = 0
    longest_wait_seconds: float = 0.0
