"""One pool: what its programs want, what its workers run, and the grants that follow.

Pure but for its own state: every method takes what it needs, the present time included. The scheduler process and the
simulator drive the same class.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from dynasor_serve.scheduling.demand import CallEnd, CallId, Grant, Want
from dynasor_serve.scheduling.history import BranchHistory
from dynasor_serve.scheduling.orderings.registry import Ordering
from dynasor_serve.scheduling.placement import FAILURES_TO_QUARANTINE, Worker, WorkerState, least_work

_CLASS_STRIDE = 1_000_000  # of the engine priority, so that a class never overtakes a more urgent one


@dataclass(slots=True)
class _Program:
    tracker: str
    want: Want
    arrival: int
    waiting: dict[CallId, int] = field(default_factory=dict)  # call -> number of its arrival
    version: int = 0  # of the want; entries of the heap with an older one are stale


@dataclass(frozen=True, slots=True)
class _Running:
    tracker: str
    algorithm: str
    worker: str


# (class rank, key, arrival of the program, arrival of the call, version of the want, call): smaller goes first
_Entry = tuple[int, float, int, int, int, CallId]


class Pool:
    """Grants calls to the programs of one model.

    `longest_wait_seconds` is the ageing bound: a call that has waited longer goes first, oldest first, whatever the
    ordering and class say.
    """

    def __init__(self, ordering: Ordering, *, longest_wait_seconds: float) -> None:
        self._ordering = ordering
        self._longest_wait_seconds = longest_wait_seconds
        self._history = BranchHistory()
        self._workers: dict[str, Worker] = {}  # name -> worker
        self._programs: dict[str, _Program] = {}  # program -> its want
        self._running: dict[CallId, _Running] = {}  # granted or running call -> where
        self._heap: list[_Entry] = []
        self._oldest: list[tuple[float, int, CallId]] = []  # (wanted at [s], arrival, call): a heap by age
        self._wanted_at: dict[CallId, float] = {}  # waiting call -> when it was first wanted [s]
        self._arrivals = count()

    @property
    def workers(self) -> Iterable[Worker]:
        return self._workers.values()

    @property
    def waiting_calls(self) -> int:
        return len(self._wanted_at)

    @property
    def running_calls(self) -> int:
        return len(self._running)

    # --- what trackers say ---

    def want(self, tracker: str, want: Want, now: float) -> None:
        """States what a program wants, replacing what it wanted before. `now` in seconds."""
        program = self._programs.get(want.program)
        if program is None:
            program = _Program(tracker, want, next(self._arrivals))
            self._programs[want.program] = program
        program.tracker, program.want, program.version = tracker, want, program.version + 1
        for call in program.waiting.keys() - set(want.calls):
            del program.waiting[call], self._wanted_at[call]
        for call in want.calls:
            if call not in program.waiting and call not in self._running:
                arrival = next(self._arrivals)
                program.waiting[call] = arrival
                self._wanted_at[call] = now
                heapq.heappush(self._oldest, (now, arrival, call))
        self._push(program)

    def withdraw(self, program: str) -> None:
        """Forgets what a program wants. Its running calls still end one by one."""
        gone = self._programs.pop(program, None)
        for call in gone.waiting if gone else ():
            del self._wanted_at[call]

    def restate_running(self, tracker: str, call: CallId, worker: str, algorithm: str = "") -> None:
        """A call that runs already, told by its tracker after a fail-over."""
        self._running[call] = _Running(tracker, algorithm, worker)
        if worker in self._workers:
            self._workers[worker].in_flight[call] = self._history.tokens_per_branch(algorithm, 0)
        program = self._programs.get(call.program)
        if program is not None and program.waiting.pop(call, None) is not None:
            del self._wanted_at[call]

    def ended(self, call: CallId, end: CallEnd, tokens: int) -> None:
        """A call no longer runs; its place is free."""
        running = self._running.pop(call, None)
        if running is None:
            return
        worker = self._workers.get(running.worker)
        if worker is not None:
            worker.in_flight.pop(call, None)
            self._judge(worker, end)
        if end is CallEnd.FINISHED:
            self._history.observe(running.algorithm, tokens)

    def tracker_gone(self, tracker: str) -> list[CallId]:
        """Forgets a tracker: its calls died with it, or it will restate them. Returns the calls it ran."""
        for program in [name for name, entry in self._programs.items() if entry.tracker == tracker]:
            self.withdraw(program)
        calls = [call for call, running in self._running.items() if running.tracker == tracker]
        for call in calls:
            self.ended(call, CallEnd.CANCELLED, 0)
        return calls

    # --- what is known of workers ---

    def add_worker(self, name: str, url: str, engine: str, max_in_flight: int) -> Worker:
        """Adds a worker or changes it; a draining worker that is added again takes calls again."""
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = Worker(name, url, engine, max_in_flight)
        if worker.url != url or worker.state is WorkerState.DRAINING:
            worker.state = WorkerState.STARTING
        worker.url, worker.engine, worker.max_in_flight = url, engine, max_in_flight
        return worker

    def drain_worker(self, name: str) -> int | None:
        """Grants it nothing more. Returns its running calls, None where there is no such worker."""
        worker = self._workers.get(name)
        if worker is None:
            return None
        worker.state = WorkerState.DRAINING
        return len(worker.in_flight)

    def worker_health(self, name: str, healthy: bool, message: str = "") -> None:
        """The result of a health check."""
        worker = self._workers.get(name)
        if worker is None or worker.state is WorkerState.DRAINING:
            return
        if not healthy:
            worker.state, worker.message = WorkerState.QUARANTINED, message
        elif worker.state is not WorkerState.READY:
            worker.state, worker.message, worker.failures_in_a_row = WorkerState.READY, "", 0

    # --- what follows ---

    def grants(self, now: float) -> list[Grant]:
        """All calls that may start now, in order. `now` in seconds."""
        granted: list[Grant] = []
        while self._wanted_at and (worker := least_work(self._workers.values())) is not None:
            call = self._next_call(now)
            if call is None:
                break
            granted.append(self._grant(call, worker, now))
        return granted

    def _next_call(self, now: float) -> CallId | None:
        while self._oldest and self._oldest[0][2] not in self._wanted_at:
            heapq.heappop(self._oldest)
        if self._oldest and now - self._oldest[0][0] > self._longest_wait_seconds:
            return self._oldest[0][2]
        while self._heap:
            *_, version, call = self._heap[0]
            program = self._programs.get(call.program)
            if program is not None and program.version == version and call in program.waiting:
                return call
            heapq.heappop(self._heap)
        return None

    def _grant(self, call: CallId, worker: Worker, now: float) -> Grant:
        program = self._programs[call.program]
        want = program.want
        tokens = self._tokens_per_branch(want)
        del program.waiting[call]
        waited = now - self._wanted_at.pop(call)
        worker.in_flight[call] = tokens
        self._running[call] = _Running(program.tracker, want.algorithm, worker.name)
        priority = want.class_rank * _CLASS_STRIDE + self._ordering.engine_priority(want, tokens)
        return Grant(program.tracker, call, worker.name, worker.url, worker.engine, priority, waited)

    def _push(self, program: _Program) -> None:
        want = program.want
        tokens = self._tokens_per_branch(want)
        for call, arrival in program.waiting.items():
            key = self._ordering.key(want, arrival, tokens)
            heapq.heappush(self._heap, (want.class_rank, key, program.arrival, arrival, program.version, call))

    def _tokens_per_branch(self, want: Want) -> float:
        return self._history.tokens_per_branch(want.algorithm, want.mean_tokens_per_branch)

    def _judge(self, worker: Worker, end: CallEnd) -> None:
        if end is CallEnd.FINISHED:
            worker.failures_in_a_row = 0
        elif end is CallEnd.WORKER_FAILED:
            worker.failures_in_a_row += 1
            if worker.failures_in_a_row >= FAILURES_TO_QUARANTINE and worker.state is WorkerState.READY:
                worker.state = WorkerState.QUARANTINED
                worker.message = f"failed {worker.failures_in_a_row} calls in a row"
