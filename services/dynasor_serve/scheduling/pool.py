"""One pool: what its programs want, what its workers run, and the grants that follow.

Pure but for its own state: every method takes what it needs, the present time included. The scheduler process and the
simulator drive the same class.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

from dynasor_serve.scheduling.backlog import CLASSES, Backlog, Entry
from dynasor_serve.scheduling.demand import CallEnd, CallId, Grant, Want
from dynasor_serve.scheduling.fairness import Fairness, PassedOver, ProgramKey, Trickle
from dynasor_serve.scheduling.history import MOST_TOKENS_PER_BRANCH, BranchHistory
from dynasor_serve.scheduling.orderings.registry import Ordering
from dynasor_serve.scheduling.placement import FAILURES_TO_QUARANTINE, Worker, WorkerState, least_work
from dynasor_serve.scheduling.tenants import TenantShares

FORGET_DRAINED_SECONDS = 60.0  # longer than any tracker takes to reconnect
_CLASS_STRIDE = 1_000_000  # of the engine priority, so that a class never overtakes a more urgent one
_MOST_STALE_ENTRIES = 64  # in the queue by age, beside as many as calls wait; then it is rebuilt


@dataclass(frozen=True, slots=True)
class _Waiting:
    arrival: int  # number of the call's arrival
    wanted_at: float  # seconds


@dataclass(slots=True)
class _Program:
    tracker: str
    want: Want
    arrival: int
    waiting: dict[CallId, _Waiting] = field(default_factory=dict)
    version: int = 0  # of the want; entries of the heap with another one are stale
    home: str = ""  # the worker that has its prefixes; of programs whose calls share them

    @property
    def key(self) -> ProgramKey:
        return self.tracker, self.want.program

    @property
    def rank(self) -> int:
        return max(0, min(CLASSES - 1, self.want.class_rank))


@dataclass(frozen=True, slots=True)
class _Running:
    tracker: str
    algorithm: str
    worker: str
    tenant: str = ""
    charged_tokens: float = 0.0  # to the tenant


_Aged = tuple[float, int, CallId]  # (wanted at [s], arrival of the call, call)


class Pool:
    """Grants calls to the programs of one model.

    A more urgent class goes first, and within a class the ordering decides, but for what `Fairness` promises: first a
    class whose trickle is due, then a program that was passed over too often, then a call that has waited too long.
    """

    def __init__(self, ordering: Ordering, fairness: Fairness) -> None:
        self._ordering = ordering
        self._longest_wait_seconds = fairness.longest_wait_seconds
        self._trickle = Trickle(fairness.trickle_grants)
        self._passed_over = PassedOver(fairness.longest_wait_shares)
        self._history = BranchHistory()
        self._workers: dict[str, Worker] = {}  # name -> worker
        # While a lease changes hands, two trackers may want the same program.
        self._programs: dict[ProgramKey, _Program] = {}
        self._waiting: dict[CallId, _Program] = {}  # waiting call -> whose it is
        self._running: dict[CallId, _Running] = {}  # granted or running call -> where
        self._backlog = Backlog(TenantShares(fairness.tenant_weights), self._is_current)
        self._oldest: list[_Aged] = []  # a heap by age
        self._arrivals = count()
        self._versions = count()

    @property
    def workers(self) -> Iterable[Worker]:
        return self._workers.values()

    @property
    def waiting_calls(self) -> int:
        return len(self._waiting)

    @property
    def running_calls(self) -> int:
        return len(self._running)

    @property
    def queue_entries(self) -> int:
        """Entries that the queues hold, stale ones included: at most a few times the calls that wait."""
        return self._backlog.entries + len(self._oldest)

    def longest_wait(self, now: float) -> float:
        """How long the call has waited that waits longest, in seconds; 0 where none waits."""
        while self._oldest and not self._still_waits(self._oldest[0]):
            heapq.heappop(self._oldest)
        return max(0.0, now - self._oldest[0][0]) if self._oldest else 0.0

    # --- what trackers say ---

    def want(self, tracker: str, want: Want, now: float) -> None:
        """States what a program wants, replacing what its tracker wanted before. `now` in seconds."""
        program = self._programs.get((tracker, want.program))
        if program is None:
            program = _Program(tracker, want, next(self._arrivals))
            self._programs[tracker, want.program] = program
        program.want, program.version = want, next(self._versions)
        for call in want.calls:
            if call not in self._waiting and call not in self._running:
                arrival = next(self._arrivals)
                program.waiting[call] = _Waiting(arrival, now)
                self._waiting[call] = program
                self._passed_over.waits(program.key)
                heapq.heappush(self._oldest, (now, arrival, call))
        # After what is new: a program that wants other calls than before has not stopped to wait.
        for call in program.waiting.keys() - set(want.calls):
            self._take_out(call)
        self._push(program)

    def withdraw(self, tracker: str, program: str) -> None:
        """Forgets what a tracker's program wants. Its running calls still end one by one."""
        gone = self._programs.pop((tracker, program), None)
        for call in list(gone.waiting) if gone else ():
            self._take_out(call)
        self._drop_stale_entries()

    def restate_running(self, tracker: str, call: CallId, worker: str, algorithm: str = "") -> None:
        """A call that runs already, told by its tracker after a fail-over."""
        self.ended(call, CallEnd.CANCELLED, 0)  # where it was thought to run before
        self._running[call] = _Running(tracker, algorithm, worker)
        if worker in self._workers:
            self._workers[worker].in_flight[call] = self._history.tokens_per_branch(algorithm, 0)
        if call in self._waiting:
            self._take_out(call)

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
        if 0 <= tokens <= MOST_TOKENS_PER_BRANCH:  # else the forecast is the better guess
            self._backlog.settle(running.tenant, tokens - running.charged_tokens)
        self._drop_stale_entries()

    def tracker_gone(self, tracker: str) -> list[CallId]:
        """Forgets a tracker: its calls died with it, or it will restate them. Returns the calls it ran."""
        for owner, program in [key for key in self._programs if key[0] == tracker]:
            self.withdraw(owner, program)
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
            for call, running in self._running.items():  # restated before the worker was known
                if running.worker == name:
                    worker.in_flight[call] = self._history.tokens_per_branch(running.algorithm, 0)
        if worker.url != url or worker.state is WorkerState.DRAINING:
            worker.state = WorkerState.STARTING
        worker.url, worker.engine, worker.max_in_flight = url, engine, max_in_flight
        return worker

    def drain_worker(self, name: str) -> int:
        """Grants it nothing more. Returns its running calls, 0 also where there is no such worker (any more)."""
        worker = self._workers.get(name)
        if worker is None:
            return 0
        worker.state = WorkerState.DRAINING
        return len(worker.in_flight)

    def forget_drained(self, now: float) -> None:
        """Forgets draining workers that have been idle for a while. `now` in seconds.

        Not at once: a tracker that reconnects restates calls that still run there.
        """
        for worker in list(self._workers.values()):
            if worker.in_flight or worker.state is not WorkerState.DRAINING:
                worker.idle_since = None
            elif worker.idle_since is None:
                worker.idle_since = now
            elif now - worker.idle_since > FORGET_DRAINED_SECONDS:
                del self._workers[worker.name]

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
        while self._waiting and (worker := least_work(self._workers.values())) is not None:
            call = self._next_call(now)
            if call is None:
                break
            granted.append(self._grant(call, self._near(call) or worker, now))
        return granted

    def _near(self, call: CallId) -> Worker | None:
        """The worker that has the call's prefix cached, if it has room; a full one is not waited for."""
        home = self._workers.get(self._waiting[call].home)
        return home if home is not None and home.has_room else None

    def _is_ready(self, name: str) -> bool:
        worker = self._workers.get(name)
        return worker is not None and worker.state is WorkerState.READY

    def _next_call(self, now: float) -> CallId | None:
        firsts = [self._backlog.first(rank) for rank in range(CLASSES)]
        rank = self._trickle.due([call is not None for call in firsts])
        if rank is not None:
            return firsts[rank]
        passed_over = self._passed_over.due()
        if passed_over is not None:
            return next(iter(self._programs[passed_over].waiting))
        while self._oldest and not self._still_waits(self._oldest[0]):
            heapq.heappop(self._oldest)
        if self._oldest and now - self._oldest[0][0] > self._longest_wait_seconds:
            return self._oldest[0][2]
        return next((call for call in firsts if call is not None), None)

    def _grant(self, call: CallId, worker: Worker, now: float) -> Grant:
        program = self._waiting[call]
        want, tenant = program.want, self._tenant(program.want)
        tokens = self._tokens_per_branch(want)
        waited = now - program.waiting[call].wanted_at
        self._trickle.granted(program.rank)
        self._passed_over.granted(program.key)
        self._backlog.serve(tenant, tokens)
        self._take_out(call)
        worker.in_flight[call] = tokens
        if want.shares_prefixes and not self._is_ready(program.home):
            program.home = worker.name
        self._running[call] = _Running(program.tracker, want.algorithm, worker.name, tenant, tokens)
        priority = program.rank * _CLASS_STRIDE + self._ordering.engine_priority(want, tokens)
        return Grant(program.tracker, call, worker.name, worker.url, worker.engine, priority, waited)

    def _take_out(self, call: CallId) -> None:
        """A call waits no longer."""
        program = self._waiting.pop(call)
        del program.waiting[call]
        if not program.waiting:
            self._passed_over.gone(program.key)

    def _push(self, program: _Program) -> None:
        want = program.want
        tokens = self._tokens_per_branch(want)
        for call, waiting in program.waiting.items():
            key = self._ordering.key(want, waiting.arrival, tokens)
            entry = Entry(key, program.arrival, waiting.arrival, program.version, call)
            self._backlog.push(program.rank, self._tenant(want), entry)
        self._drop_stale_entries()

    def _tenant(self, want: Want) -> str:
        """Whose virtual time counts; all are one where tenants do not share."""
        return want.tenant if self._ordering.tenants_share else ""

    def _is_current(self, entry: Entry) -> bool:
        program = self._waiting.get(entry.call)
        return program is not None and program.version == entry.version

    def _still_waits(self, entry: _Aged) -> bool:
        _, arrival, call = entry
        program = self._waiting.get(call)
        return program is not None and program.waiting[call].arrival == arrival

    def _drop_stale_entries(self) -> None:
        """Rebuilds queues once most of their entries are stale; the cost is shared by those that became so."""
        self._backlog.sweep(len(self._waiting))
        most = 2 * len(self._waiting) + _MOST_STALE_ENTRIES if self._waiting else 0
        if len(self._oldest) > most:
            self._oldest = list(filter(self._still_waits, self._oldest))
            heapq.heapify(self._oldest)

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
