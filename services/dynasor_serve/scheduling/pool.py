"""One pool: what its programs want, what its workers run, and the grants that follow.

Pure but for its own state: every method takes what it needs, the present time included. The scheduler process and the
simulator drive the same class. Whose call goes next is answered in `waiting_queue`, where it goes in `placement`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from dynasor_serve.scheduling.demand import CLASSES, CallEnd, CallId, Grant, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.fleet import Fleet
from dynasor_serve.scheduling.history import MOST_TOKENS_PER_BRANCH, BranchHistory
from dynasor_serve.scheduling.ignored import Ignored, IgnoredLog, IgnoredReason
from dynasor_serve.scheduling.orderings.registry import Ordering
from dynasor_serve.scheduling.placement import Worker, WorkerState, work_of
from dynasor_serve.scheduling.plausible_wants import impossible_numbers, without
from dynasor_serve.scheduling.steady_time import SteadyTime
from dynasor_serve.scheduling.waiting_programs import WaitingCall
from dynasor_serve.scheduling.waiting_queue import WaitingQueue

_CLASS_STRIDE = 1_000_000  # of the engine priority, so that a class never overtakes a more urgent one


class _Running(NamedTuple):
    tracker: str
    algorithm: str
    worker: str
    tenant: str | None  # None where no want told whose it is
    charged_tokens: float  # to the tenant


class Pool:
    """Grants calls to the programs of one model.

    What it is told is taken for true where it can be: it keeps its own book of what runs where, and what does not fit
    the book, or cannot be, goes to `ignored`.
    """

    def __init__(self, ordering: Ordering, fairness: Fairness) -> None:
        self.ignored = IgnoredLog()
        self._ordering = ordering
        self._history = BranchHistory()
        self._queue = WaitingQueue(ordering, fairness)
        self._fleet = Fleet()
        self._time = SteadyTime(self.ignored)
        self._running: dict[CallId, _Running] = {}  # granted or running call -> where

    @property
    def workers(self) -> Iterable[Worker]:
        return self._fleet.workers

    @property
    def waiting_calls(self) -> int:
        return len(self._queue)

    @property
    def running_calls(self) -> int:
        return len(self._running)

    @property
    def queue_entries(self) -> int:
        """Entries that the queues hold, stale ones included: at most a few times the programs that wait."""
        return self._queue.entries

    def longest_wait(self, now: float) -> float:
        """How long the needed call has waited that waits longest, in seconds; 0 where none waits."""
        return self._queue.longest_wait(self._time.at(now))

    # --- what trackers say ---

    def want(self, tracker: str, want: Want, now: float) -> None:
        """States what a program wants, replacing what its tracker wanted before. `now` in seconds."""
        impossible = impossible_numbers(want)
        if impossible:
            for name in impossible:
                what = f"{name} {getattr(want, name)} of {want.program}"
                self.ignored.add(Ignored(IgnoredReason.IMPOSSIBLE_NUMBER, what, "no program has that"))
            want = without(want, impossible)
        tokens = self._history.tokens_per_branch(want.algorithm, want.mean_tokens_per_branch)
        self._queue.want(tracker, want, tokens, self._running, self._time.at(now))

    def withdraw(self, tracker: str, program: str) -> None:
        """Forgets what a tracker's program wants. Its running calls still end one by one."""
        self._queue.withdraw(tracker, program)

    def restate_running(self, tracker: str, call: CallId, worker: str, algorithm: str = "") -> None:
        """A call that runs already, told by its tracker after a fail-over.

        Where its program has said what it wants, the call is forecast and charged as if it had been granted here.
        """
        if call in self._running:  # where it was thought to run before
            self._end(call, CallEnd.CANCELLED, 0)
        program = self._queue.program(tracker, call.program)
        if program is None:
            tokens = self._history.tokens_per_branch(algorithm, 0)
            self._running[call] = _Running(tracker, algorithm, worker, None, 0.0)
            self._fleet.begin(worker, call, work_of(tokens, 0))
            return
        want, tokens = program.want, program.tokens_per_branch
        if call in program.waiting:
            self._queue.drop(program.waiting[call])
        if want.shares_prefixes and program.home is None:
            program.home = self._fleet.worker(worker)
        self._running[call] = _Running(tracker, want.algorithm, worker, want.tenant, tokens)
        self._queue.charge(want.tenant, tokens)
        self._fleet.begin(worker, call, work_of(tokens, want.prompt_tokens))

    def ended(self, call: CallId, end: CallEnd, tokens: int) -> None:
        """A call no longer runs; its place is free. Told twice, it frees one."""
        if call not in self._running:
            why = "it does not run here: its end was told before, or it was never granted"
            self.ignored.add(Ignored(IgnoredReason.UNKNOWN_CALL, f"the end of {call}", why))
            return
        if 0 <= tokens <= MOST_TOKENS_PER_BRANCH:
            self._end(call, end, tokens)
        else:
            why = "no call is that long; its forecast stands"
            self.ignored.add(Ignored(IgnoredReason.IMPOSSIBLE_NUMBER, f"{tokens} tokens of {call}", why))
            self._end(call, end, None)

    def tracker_gone(self, tracker: str) -> list[CallId]:
        """Forgets a tracker: its calls died with it, or it will restate them. Returns the calls it ran."""
        for program in self._queue.programs_of(tracker):
            self.withdraw(tracker, program)
        calls = [call for call, running in self._running.items() if running.tracker == tracker]
        for call in calls:
            self._end(call, CallEnd.CANCELLED, 0)
        return calls

    # --- what is known of workers ---

    def add_worker(self, name: str, url: str, engine: str, max_in_flight: int) -> Worker:
        """Adds a worker or changes it; a draining worker that is added again takes calls again."""
        return self._fleet.add(name, url, engine, max_in_flight)

    def drain_worker(self, name: str) -> int:
        """Grants it nothing more. Returns its running calls, 0 also where there is no such worker (any more)."""
        return self._fleet.drain(name)

    def forget_drained(self, now: float) -> None:
        """Forgets draining workers that have been idle for a while. `now` in seconds."""
        self._fleet.forget_drained(self._time.at(now))

    def worker_health(self, name: str, healthy: bool, message: str = "") -> None:
        """The result of a health check."""
        self._fleet.health(name, healthy, message)

    # --- what follows ---

    def grants(self, now: float) -> list[Grant]:
        """All calls that may start now, in order. `now` in seconds."""
        time, placement = self._time.at(now), self._fleet.placement
        granted: list[Grant] = []
        while placement.least_loaded() is not None and (waiting := self._queue.first(time)) is not None:
            if waiting.call in self._running:
                self._drop_claim(waiting)
                continue
            program = waiting.line.program
            work = work_of(program.tokens_per_branch, program.want.prompt_tokens)
            worker = placement.place(program.home, work, waiting.line.is_speculative)
            if worker is None:  # the places that are left are reserved
                break
            granted.append(self._grant(waiting, worker, work, time))
        return granted

    def _grant(self, waiting: WaitingCall, worker: Worker, work: int, time: float) -> Grant:
        call, line, program = waiting.call, waiting.line, waiting.line.program
        want, tokens = program.want, program.tokens_per_branch
        self._queue.granted(waiting)
        self._fleet.begin(worker.name, call, work)
        self._running[call] = _Running(program.tracker, want.algorithm, worker.name, want.tenant, tokens)
        if want.shares_prefixes and (program.home is None or program.home.state is not WorkerState.READY):
            program.home = worker
        rank = want.class_rank + (CLASSES if line.is_speculative else 0)
        priority = rank * _CLASS_STRIDE + self._ordering.engine_priority(want, tokens)
        waited = time - waiting.wanted_at
        return Grant(program.tracker, call, worker.name, worker.url, worker.engine, priority, waited)

    def _drop_claim(self, waiting: WaitingCall) -> None:
        """Two trackers wanted the same call, and the other was granted it."""
        why = f"it runs for {self._running[waiting.call].tracker}"
        what = f"{waiting.call} wanted by {waiting.line.program.tracker}"
        self.ignored.add(Ignored(IgnoredReason.WANTED_TWICE, what, why))
        self._queue.drop(waiting)

    def _end(self, call: CallId, end: CallEnd, tokens: int | None) -> None:
        """Frees a call's place. `tokens` is None where its forecast is the better guess."""
        running = self._running.pop(call)
        self._fleet.end(running.worker, call, end)
        if tokens is None:
            return
        if end is CallEnd.FINISHED:
            self._history.observe(running.algorithm, tokens)
        if running.tenant is not None:
            self._queue.charge(running.tenant, tokens - running.charged_tokens)
