"""What the scheduler's decisions cost, measured on a pool in this process: time for each, and memory per live program.

A decision is what one ended call brings about: its end, the renewed want of its program (or the first of another that
takes its place), and the grant of the freed place. All places are always taken, and programs wait for about three times
as many calls.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
from dataclasses import dataclass, field, replace
from itertools import count

from dynasor_serve.scheduling.demand import CLASSES, CallEnd, CallId, Grant, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.pool import Pool

CALLS_WANTED = 4  # most that a program waits for or runs at once
BRANCHES = 16  # of a program; then another takes its place
_CALLS_PER_PLACE = 4
_TENANTS = 100
_TREES = 8  # one of so many programs shares prefixes between its calls
_PROMPT_TOKENS = 300
_MEAN_TOKENS = 400
_SECONDS_PER_DECISION = 0.001  # of the pool's clock
_TRACKER = "tracker"


@dataclass(frozen=True, slots=True)
class SchedulerReport:
    """What decisions of one ordering cost.

    Attributes:
        decisions_per_second: per second of CPU spent in the pool; what prepares its input is not counted.
        p50_us, p99_us, longest_ms: of single decisions, by the clock: whatever else the machine does is in it.
        kib_per_program: Python's memory for the pool, the wants that it holds, and what this benchmark keeps of them.
    """

    ordering: str
    programs: int
    workers: int
    places: int
    decisions: int
    decisions_per_second: float
    p50_us: float
    p99_us: float
    longest_ms: float
    kib_per_program: float


def measure_scheduler(ordering: str, programs: int, workers: int, decisions: int, seed: int = 0) -> SchedulerReport:
    """Measures so many decisions with so many programs live. Raises `UnknownOrdering`."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    load = _Load(ordering, programs, workers, seed)
    kib = (tracemalloc.get_traced_memory()[0] - before) / 1024
    tracemalloc.stop()
    gc.collect()  # what an earlier measurement has left is not this one's to clear away
    for _ in range(decisions // 10):  # until programs are at different points of their lives
        load.decide()
    took = [load.decide() for _ in range(decisions)]
    cpu_seconds, seconds = sum(cpu for cpu, _ in took), sorted(clock for _, clock in took)
    return SchedulerReport(
        ordering=ordering,
        programs=programs,
        workers=workers,
        places=load.places,
        decisions=decisions,
        decisions_per_second=decisions / cpu_seconds,
        p50_us=seconds[decisions // 2] * 1e6,
        p99_us=seconds[decisions * 99 // 100] * 1e6,
        longest_ms=seconds[-1] * 1e3,
        kib_per_program=kib / programs,
    )


@dataclass(slots=True)
class _Program:
    """What its tracker knows of a program."""

    want: Want
    begun: int = 0  # branches wanted so far
    running: int = 0
    finished: int = 0
    tokens: int = 0
    waiting: list[CallId] = field(default_factory=list)

    def renewed(self) -> Want:
        """What it wants now."""
        while self.begun < BRANCHES and len(self.waiting) + self.running < CALLS_WANTED:
            self.waiting.append(CallId(self.want.program, self.begun, "1.1"))
            self.begun += 1
        return replace(
            self.want,
            calls=tuple(self.waiting),
            remaining_knob=BRANCHES - self.finished,
            mean_tokens_per_branch=self.tokens / self.finished if self.finished else 0.0,
            tokens_spent=self.tokens,
            samples=self.finished,
        )


class _Load:
    """A pool whose places are all taken, and the programs that keep it so."""

    def __init__(self, ordering: str, programs: int, workers: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._now = 0.0
        self._numbers = count()
        self._pool = Pool(parse_ordering(ordering), Fairness())
        self._programs: dict[str, _Program] = {}
        self._running: list[CallId] = []
        self.places = max(workers, programs * CALLS_WANTED // _CALLS_PER_PLACE)
        for number in range(workers):
            places = self.places // workers + (number < self.places % workers)
            self._pool.add_worker(f"worker-{number}", f"http://worker-{number}", "vllm", places)
            self._pool.worker_health(f"worker-{number}", healthy=True)
        for _ in range(programs):
            self._pool.want(_TRACKER, self._newcomer(), self._now)
        self._take(self._pool.grants(self._now))

    def decide(self) -> tuple[float, float]:
        """Ends a running call at random; returns the seconds of CPU and of the clock that the pool took."""
        place = self._random.randrange(len(self._running))
        self._running[place], self._running[-1] = self._running[-1], self._running[place]
        call = self._running.pop()
        tokens = round(self._random.expovariate(1 / _MEAN_TOKENS))
        program = self._programs[call.program]
        program.running -= 1
        program.finished += 1
        program.tokens += tokens
        self._now += _SECONDS_PER_DECISION
        over = program.finished == BRANCHES
        if over:
            del self._programs[call.program]
        want = self._newcomer() if over else program.renewed()

        began, cpu_began = time.perf_counter(), time.thread_time()
        self._pool.ended(call, CallEnd.FINISHED, tokens)
        if over:
            self._pool.withdraw(_TRACKER, call.program)
        self._pool.want(_TRACKER, want, self._now)
        grants = self._pool.grants(self._now)
        took = time.thread_time() - cpu_began, time.perf_counter() - began

        self._take(grants)
        return took

    def _take(self, grants: list[Grant]) -> None:
        for grant in grants:
            program = self._programs[grant.call.program]
            program.waiting.remove(grant.call)
            program.running += 1
            self._running.append(grant.call)

    def _newcomer(self) -> Want:
        number = next(self._numbers)
        name = f"t{number % _TENANTS}-{number:026d}"  # as long as a query's id
        want = Want(
            program=name,
            pool="pool",
            algorithm="self-consistency",
            calls=(),
            class_rank=self._random.randrange(CLASSES),
            tenant=f"tenant-{number % _TENANTS}",
            remaining_knob=BRANCHES,
            mean_tokens_per_branch=0.0,
            accepted_at_ms=number,
            deadline_ms=number + self._random.randrange(60_000),
            tokens_spent=0,
            shares_prefixes=number % _TREES == 0,
            gain_per_token=self._random.random() / 1000,
            prompt_tokens=_PROMPT_TOKENS,
        )
        program = self._programs[name] = _Program(want)
        return program.renewed()
