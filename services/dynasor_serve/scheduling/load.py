"""What is asked of a pool, and what does the pool achieve? Measured at every want, grant and end; predicted when asked.

`scheduler.pools` tells a `PoolLoad` what it tells its `Pool`, and asks for the `Demand` about once a second: gateways
admit queries by it, and `scheduling.scaling` decides by it how many workers there should be. An event costs constant
time; a demand, one pass over the live programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dynasor_serve.scheduling.demand import CLASSES, CallEnd, CallId, ProgramEnd, Want
from dynasor_serve.scheduling.history import MOST_TOKENS_PER_BRANCH, BranchHistory
from dynasor_serve.scheduling.orderings.registry import Ordering
from dynasor_serve.scheduling.placement import Worker, WorkerState
from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.queue_forecast import Queued, forecast_of
from dynasor_serve.scheduling.rates import EventRate, SlidingShare
from dynasor_serve.scheduling.spending import Kind, SpendHistory, kind_of
from dynasor_serve.scheduling.steady_time import LONGEST_STEP_SECONDS
from dynasor_serve.scheduling.stream_speed import StreamSpeed

RATE_SECONDS = 60.0  # time constant of the rates
ATTAINMENT_SECONDS = 300.0  # window of the SLO attainment
_PARKED_SECONDS = 120.0  # longer than a program's lease: until then another tracker may state it again
_OLDEST_RESTATED_SECONDS = 10 * RATE_SECONDS  # what arrived before that weighs nothing
_MOST_UNITS = 100_000  # of the knob; beyond it a tracker errs
_NEWEST_CALL = 0.05  # weight of the newest call in the mean
_MOST_PROGRESS = 0.95  # of what a program was predicted to take: while a call runs, something is left


@dataclass(slots=True)
class _Live:
    """A program, from its first want to its end."""

    tracker: str
    want: Want
    kind: Kind
    arrival: int
    marks: dict[Kind, tuple[float, float]]  # kind it was -> (its tokens then, tokens then left to its cap)
    waiting: int = 0  # calls, speculative ones included
    running: int = 0  # calls
    started_sum: float = 0.0  # of the running calls' starts, in seconds
    tokens: float = 0.0  # completion tokens of its calls that ended in this pool
    parked_at: float = 0.0  # seconds

    @property
    def units(self) -> int:
        """Of the knob that it may still spend. A knob that cannot be is unknown: what is wanted now stands in."""
        return min(max(self.want.remaining_knob, self.waiting + self.running), _MOST_UNITS)

    @property
    def waiting_certain(self) -> int:
        """Waiting calls without speculative ones, which start last."""
        return max(0, self.waiting - max(0, self.want.speculative))


class _Running(NamedTuple):  # one is made per grant, and a frozen dataclass takes three times as long
    program: _Live
    worker: str
    started: float  # seconds
    beside: int  # calls on its worker when it started, itself included; 0 where its start was not seen


@dataclass(slots=True)
class _Sums:
    """What a pass over the live programs adds up."""

    outstanding: float = 0.0
    at_cap: float = 0.0
    waiting_tokens: float = 0.0
    waiting_programs: int = 0
    waiting_calls: int = 0


class PoolLoad:
    """Measures one pool, and predicts what comes.

    Times are in seconds of a monotonic clock; should it go back, or further than any clock, it has stood still. A
    program that two trackers want, while its lease changes hands, is one program, and its newest tracker's.
    """

    def __init__(self, ordering: Ordering) -> None:
        """`ordering` tells who is ahead of whom, roughly: promises and turns of tenants are not foreseen."""
        self._ordering = ordering
        self._live: dict[str, _Live] = {}  # program -> what is known of it
        self._parked: dict[str, _Live] = {}  # program without a tracker -> the same
        self._running: dict[CallId, _Running] = {}
        self._in_flight: dict[str, int] = {}  # worker -> running calls
        self._history = BranchHistory()
        self._spending = SpendHistory()
        self._speed = StreamSpeed()
        self._seconds_per_call = 0.0
        self._places_per_worker = 0.0
        self._arrived = EventRate(RATE_SECONDS)  # programs
        self._arrived_units: dict[str, EventRate] = {}  # algorithm -> units of their knobs
        self._drained = EventRate(RATE_SECONDS)  # completion tokens
        self._attained = SlidingShare(ATTAINMENT_SECONDS)
        self._arrivals = 0
        self._heard_at: float | None = None  # what the clock said last
        self._time = 0.0  # seconds that passed forwards

    # --- what is told ---

    def want(self, tracker: str, want: Want, now: float, restated_ms: int | None = None) -> None:
        """What a program wants now.

        `restated_ms` is the time, in Unix milliseconds, where a tracker states all it has to a scheduler that may be
        new: programs that are not known arrived when they were accepted, not now.
        """
        time = self._advance(now)
        live = self._live.get(want.program)
        if live is None:
            live = self._parked.pop(want.program, None)
            if live is None:
                live = self._arrival(tracker, want, time, restated_ms)
            self._live[want.program] = live
        live.tracker, live.want = tracker, want
        live.waiting = len(want.calls)
        if live.running:  # a want that crossed a grant on its way
            live.waiting -= sum(call in self._running for call in want.calls)
        live.kind = kind_of(want.algorithm, want.certaindex, want.samples, want.remaining_knob)
        if live.kind not in live.marks:
            live.marks[live.kind] = live.tokens, live.units * self._tokens_per_branch(want)

    def granted(self, call: CallId, worker: str, now: float) -> None:
        """A call of a program that wants it starts."""
        live = self._live.get(call.program)
        if live is not None:
            beside = self._in_flight.get(worker, 0) + 1
            self._start(call, _Running(live, worker, self._advance(now), beside))

    def restated(self, call: CallId, worker: str, now: float) -> None:
        """A call runs already, told by its tracker; told after what its program wants."""
        time = self._advance(now)
        self._stop(call)
        live = self._live.get(call.program)
        if live is not None:
            is_waiting = call in live.want.calls
            live.waiting += not is_waiting  # starting takes it out again
            self._start(call, _Running(live, worker, time, beside=0))

    def ended(self, call: CallId, end: CallEnd, tokens: int, now: float) -> None:
        """A call ended after so many completion tokens. A number that cannot be is ignored."""
        time = self._advance(now)
        running = self._stop(call)
        if running is None or not 0 <= tokens <= MOST_TOKENS_PER_BRANCH:
            return
        running.program.tokens += tokens
        self._drained.add(time, tokens)
        seconds = time - running.started
        if running.beside and tokens and seconds > 0 and end in {CallEnd.FINISHED, CallEnd.CANCELLED}:
            beside = self._in_flight.get(running.worker, 0) + 1
            self._speed.observe(tokens, seconds, (running.beside + beside) / 2)
        if end is CallEnd.FINISHED:
            self._history.observe(running.program.want.algorithm, tokens)
            if running.beside:
                weight = _NEWEST_CALL if self._seconds_per_call else 1.0
                self._seconds_per_call += weight * (seconds - self._seconds_per_call)

    def withdrawn(self, tracker: str, program: str, end: ProgramEnd | None, now: float, now_ms: int) -> None:
        """A program left its tracker; `end` is None where the tracker does not say how. `now_ms` in Unix ms."""
        time = self._advance(now)
        live = self._live.get(program)
        if live is None or live.tracker != tracker:
            return
        del self._live[program]
        if end is ProgramEnd.RELEASED:
            self._park(live, time)
            return
        if end is ProgramEnd.COMPLETED:
            # Only these tell what programs take: a deadline that cut others short would make a pool that is too small
            # look as if less were asked of it.
            for kind, (tokens, at_cap) in live.marks.items():
                self._spending.observe(kind, live.tokens - tokens, at_cap)
        if live.want.deadline_ms > 0 and end not in {ProgramEnd.CANCELLED, ProgramEnd.FAILED}:
            in_time = end is ProgramEnd.COMPLETED or (end is None and now_ms < live.want.deadline_ms)
            self._attained.add(time, is_hit=in_time)

    def tracker_gone(self, tracker: str, calls: Iterable[CallId], now: float) -> None:
        """A tracker hung up: its calls died with it, or it will restate them, as another will its programs.

        `calls` are those that it ran, as the pool knows them; some may be of programs that are another's by now.
        """
        time = self._advance(now)
        for call in calls:
            self._stop(call)
        for program in [program for program, live in self._live.items() if live.tracker == tracker]:
            self._park(self._live.pop(program), time)

    # --- what follows ---

    def demand(self, workers: Iterable[Worker], longest_wait_seconds: float, now: float, now_ms: int) -> Demand:
        """The demand now.

        Args:
            workers: of the pool, in any state.
            longest_wait_seconds: of a waiting call, as the pool knows it.
            now: seconds, by the clock of the events.
            now_ms: Unix milliseconds, the clock of deadlines.
        """
        time = self._advance(now)
        self._forget_parked(time)
        ready = [worker for worker in workers if worker.state is WorkerState.READY]
        places = sum(worker.max_in_flight for worker in ready)
        in_flight = [len(worker.in_flight) for worker in ready]
        running = sum(in_flight)
        if ready:
            self._places_per_worker = places / len(ready)
        per_worker = self._speed.tokens_per_second(self._places_per_worker)
        # As many as run beside one of them in the mean, itself included.
        beside = sum(calls * calls for calls in in_flight) / running if running else 1.0
        seconds_per_token = self._speed.seconds_per_token(beside)
        sums, queue, misses = self._survey(seconds_per_token, time, now_ms)
        queued = forecast_of(
            queue,
            free=max(0, places - running),
            places=places,
            drain=per_worker * len(ready),
            seconds_per_call=self._seconds_per_call,
            now_ms=now_ms,
        )
        hits, ended = self._attained.counts(time)
        return Demand(
            at_ms=now_ms,
            live_programs=len(self._live),
            waiting_programs=sums.waiting_programs,
            waiting_calls=sums.waiting_calls,
            running_calls=len(self._running),
            places=places,
            ready_workers=len(ready),
            outstanding_tokens=sums.outstanding,
            outstanding_tokens_at_cap=sums.at_cap,
            waiting_tokens=sums.waiting_tokens,
            arrivals_per_second=self._arrived.per_second(time),
            arriving_tokens_per_second=self._arriving_tokens(time),
            drained_tokens_per_second=self._drained.per_second(time),
            tokens_per_second_per_worker=per_worker,
            seconds_per_call=self._seconds_per_call,
            predicted_wait_interactive_seconds=queued.waits[0],
            predicted_wait_seconds=queued.waits[1],
            predicted_wait_batch_seconds=queued.waits[2],
            slo_attainment=hits / ended if ended else 1.0,
            deadlines_ended=ended,
            misses_to_come=misses + queued.misses,
            longest_wait_seconds=longest_wait_seconds,
        )

    def _survey(self, seconds_per_token: float, time: float, now_ms: int) -> tuple[_Sums, list[Queued], int]:
        """One pass over the live programs: their sums, those that wait, and of the others those that will miss."""
        sums, queue, misses = _Sums(), list[Queued](), 0
        ratios: dict[Kind, float] = {}  # looked up once per kind, not per program
        for live in self._live.values():
            want = live.want
            ratio = ratios.get(live.kind)
            if ratio is None:
                ratio = ratios[live.kind] = self._spending.ratio(live.kind)
            per_branch = self._tokens_per_branch(want)
            at_cap = live.units * per_branch
            tokens = at_cap * ratio
            if live.running and seconds_per_token:
                generated = (live.running * time - live.started_sum) / seconds_per_token
                tokens -= min(generated, tokens * _MOST_PROGRESS)
                at_cap -= min(generated, at_cap * _MOST_PROGRESS)
            sums.outstanding += tokens
            sums.at_cap += at_cap
            waiting = live.waiting_certain
            own_seconds = tokens * seconds_per_token / max(1, live.running + waiting)
            if not waiting:
                misses += 0 < want.deadline_ms < now_ms + own_seconds * 1000
                continue
            sums.waiting_calls += waiting
            sums.waiting_programs += not live.running
            waiting_tokens = min(waiting * per_branch, tokens) if live.running else tokens
            sums.waiting_tokens += waiting_tokens
            rank = max(0, min(CLASSES - 1, want.class_rank))
            key = self._ordering.key(want, live.arrival, per_branch)
            queue.append((rank, key, live.arrival, waiting, waiting_tokens, own_seconds, want.deadline_ms))
        return sums, queue, misses

    def _arrival(self, tracker: str, want: Want, time: float, restated_ms: int | None) -> _Live:
        """A program that was never wanted before."""
        units = min(max(want.remaining_knob, len(want.calls)), _MOST_UNITS)
        age = 0.0
        if restated_ms is not None:
            units = min(units + max(0, want.samples), _MOST_UNITS)
            age = min(max(0.0, (restated_ms - want.accepted_at_ms) / 1000), _OLDEST_RESTATED_SECONDS)
        self._arrived.add(time, 1, age)
        self._arrived_units.setdefault(want.algorithm, EventRate(RATE_SECONDS)).add(time, units, age)
        self._arrivals += 1
        return _Live(tracker, want, Kind(want.algorithm, 0, 0), self._arrivals, {})

    def _arriving_tokens(self, time: float) -> float:
        return sum(
            rate.per_second(time, self._arrived.since)
            * self._history.tokens_per_branch(algorithm, 0)
            * self._spending.ratio(Kind(algorithm, 0, 0))
            for algorithm, rate in self._arrived_units.items()
        )

    def _start(self, call: CallId, running: _Running) -> None:
        live = running.program
        live.waiting -= 1
        live.running += 1
        live.started_sum += running.started
        self._running[call] = running
        self._in_flight[running.worker] = self._in_flight.get(running.worker, 0) + 1

    def _stop(self, call: CallId) -> _Running | None:
        running = self._running.pop(call, None)
        if running is None:
            return None
        running.program.running -= 1
        running.program.started_sum -= running.started
        left = self._in_flight[running.worker] - 1
        if left:
            self._in_flight[running.worker] = left
        else:
            del self._in_flight[running.worker]
        return running

    def _park(self, live: _Live, time: float) -> None:
        live.waiting, live.parked_at = 0, time
        self._parked[live.want.program] = live

    def _forget_parked(self, time: float) -> None:
        while self._parked:  # in the order in which they were parked
            program = next(iter(self._parked))
            if time - self._parked[program].parked_at <= _PARKED_SECONDS:
                return
            del self._parked[program]

    def _tokens_per_branch(self, want: Want) -> float:
        return self._history.tokens_per_branch(want.algorithm, want.mean_tokens_per_branch)

    def _advance(self, now: float) -> float:
        """The time as this meter counts it."""
        if math.isfinite(now):
            if self._heard_at is not None and 0 < now - self._heard_at <= LONGEST_STEP_SECONDS:
                self._time += now - self._heard_at
            self._heard_at = now
        return self._time
