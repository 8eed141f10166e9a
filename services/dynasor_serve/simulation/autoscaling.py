"""Does the scaling law keep the SLO, and for how many worker-hours? A pool in virtual time, opened and closed by a law.

The scheduler's own `Pool` grants and its own `PoolLoad` measures; programs, engines and the starting of workers are
made up here: votes that their rule stops after some of their samples, workers whose streams slow each other down, and a
start-up of two minutes. Beside the law of `scheduling.scaling` runs what people otherwise use: an autoscaler like
Kubernetes' HPA on the calls per worker, waiting and running.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dynasor_serve.scheduling.demand import CallEnd, CallId, ProgramEnd, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.load import PoolLoad
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.placement import Worker, WorkerState
from dynasor_serve.scheduling.pool import Pool
from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.scaling import desired_workers
from dynasor_serve.scheduling.scaling_history import Observation
from dynasor_serve.scheduling.scaling_settings import ScalingSettings

STEP_SECONDS = 0.5
OBSERVE_SECONDS = 5.0
START_UP_SECONDS = 120.0
DEADLINE_SECONDS = 120.0
PLACES = 16  # per worker
_STEP_FIXED, _STEP_PER_CALL = 0.015, 0.0005  # seconds per token: alone, and for each call beside it
_CAP, _WIDTH = 8, 4  # samples of a program, and how many run side by side
_MEAN_TOKENS = 300.0  # per sample; log-normal
_SPREAD = 0.5
# (share of programs, samples after which their rule stops them, Certaindex from the third sample on)
_HARDNESS = ((0.6, 3, 0.95), (0.25, 5, 0.6), (0.15, _CAP, 0.2))

Load = Callable[[float], float]  # seconds -> programs per second


def diurnal(mean_per_second: float, day_seconds: float) -> Load:
    """A day: a tenth at night and nearly twice the mean at noon; it begins at night."""
    return lambda now: mean_per_second * (1 - 0.9 * math.cos(2 * math.pi * now / day_seconds))


def bursty(base_per_second: float, burst_per_second: float, seconds: float, seed: int) -> Load:
    """A low load with bursts of two to five minutes, about one in twenty."""
    draw = random.Random(seed)
    bursts: list[tuple[float, float]] = []
    now = draw.uniform(300, 900)
    while now < seconds:
        bursts.append((now, now + draw.uniform(120, 300)))
        now += draw.uniform(600, 1800)
    return lambda now: burst_per_second if any(begin <= now < end for begin, end in bursts) else base_per_second


class Law(Protocol):
    """How many workers should there be now?"""

    def workers(self, history: list[Observation], now: float) -> int:
        """`history` is oldest first and reaches back as far as any law looks."""
        ...


@dataclass(frozen=True, slots=True)
class DynasorLaw:
    """The law of `scheduling.scaling`."""

    settings: ScalingSettings

    def workers(self, history: list[Observation], now: float) -> int:
        return desired_workers(history, self.settings, now).workers


@dataclass(frozen=True, slots=True)
class QueueLaw:
    """Kubernetes' HPA (autoscaling/v2 and its default behaviour) on the pool's calls, waiting and running, per worker.

    Decides every 15 s; within a tenth of the target it does nothing; it adds at most four workers or as many as there
    are, whichever is more; it takes away what the most of its recommendations of five minutes leaves over.
    """

    target_share: float  # of a worker's places: calls that one worker is to have
    most: int

    def workers(self, history: list[Observation], now: float) -> int:
        current = history[-1].current_workers
        if now % 15.0 >= OBSERVE_SECONDS:
            return current
        wanted = self._recommendation(history[-1])
        if wanted > current:
            return min(wanted, current + max(4, current), self.most)
        return min(current, max(self._recommendation(each) for each in history if each.at_seconds > now - 300.0))

    def _recommendation(self, seen: Observation) -> int:
        assert seen.demand is not None
        calls = seen.demand.waiting_calls + seen.demand.running_calls
        ratio = calls / (self.target_share * PLACES * max(1, seen.current_workers))
        if abs(ratio - 1) <= 0.1:
            return seen.current_workers
        return min(max(1, math.ceil(seen.current_workers * ratio)), self.most)


@dataclass(frozen=True, slots=True)
class FixedLaw:
    """Always so many."""

    count: int

    def workers(self, history: list[Observation], now: float) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class ScalingOutcome:
    """What a law achieved.

    Attributes:
        programs: that ended.
        attainment: share of them that ended before their deadline.
        worker_hours: of workers that started, served or drained.
        changes: of the number of workers.
        most_workers: at any time.
    """

    programs: int
    attainment: float
    worker_hours: float
    changes: int
    most_workers: int


@dataclass(slots=True)
class _Vote:
    """A program: what its samples will be, and how far it is."""

    name: str
    accepted: float  # seconds
    stops_after: int  # samples
    certaindex: float  # once it has enough samples
    tokens: list[float]  # of each sample
    started: set[int] = field(default_factory=set)
    finished: list[int] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        return self.accepted + DEADLINE_SECONDS

    def want(self) -> Want:
        """The next samples, so that as many run side by side as may."""
        running = len(self.started) - len(self.finished)
        new = range(len(self.started), min(_CAP, len(self.started) + _WIDTH - running))
        done = len(self.finished)
        return Want(
            program=self.name,
            pool="pool",
            algorithm="self-consistency",
            calls=tuple(CallId(self.name, branch, "1") for branch in new),
            class_rank=1,
            tenant="default",
            remaining_knob=_CAP - done,
            mean_tokens_per_branch=sum(self.tokens[each] for each in self.finished) / done if done else 0.0,
            accepted_at_ms=round(self.accepted * 1000),
            deadline_ms=round(self.deadline * 1000),
            tokens_spent=0,
            certaindex=self.certaindex if done >= 3 else 0.0,
            samples=done,
        )


@dataclass(slots=True)
class _Engine:
    """A worker's calls, and the tokens that are left of each."""

    ready_at: float
    left: dict[CallId, float] = field(default_factory=dict)


class ScaledPool:
    """The pool, its load and its workers, step by step."""

    def __init__(self, law: Law, load: Load, *, workers: int, seed: int) -> None:
        ordering = parse_ordering("gang-shortest")
        self._law, self._load_of = law, load
        self._pool, self._meter = Pool(ordering, Fairness()), PoolLoad(ordering)
        self._draw = random.Random(seed)
        self._votes: dict[str, _Vote] = {}
        self._engines: dict[str, _Engine] = {}
        self._history: list[Observation] = []
        self._names = 0
        self._wanted = 0
        self._met = self._ended = self._changes = self._most = 0
        self._worker_seconds = 0.0
        self._scale(workers, ready_at=0.0)

    def run(self, seconds: float) -> ScalingOutcome:
        """Plays so long."""
        for step in range(round(seconds / STEP_SECONDS)):
            now = step * STEP_SECONDS
            self._begin_workers(now)
            self._arrive(now)
            self._generate(now)
            self._end_late(now)
            for grant in self._pool.grants(now):
                self._meter.granted(grant.call, grant.worker, now)
                vote = self._votes[grant.call.program]
                vote.started.add(grant.call.branch)
                self._engines[grant.worker].left[grant.call] = vote.tokens[grant.call.branch]
            if now % OBSERVE_SECONDS == 0:
                self._observe(now)
            self._worker_seconds += STEP_SECONDS * len(self._engines)
            self._most = max(self._most, len(self._engines))
        attainment = self._met / self._ended if self._ended else 1.0
        return ScalingOutcome(self._ended, attainment, self._worker_seconds / 3600, self._changes, self._most)

    # --- programs ---

    def _arrive(self, now: float) -> None:
        for _ in range(_poisson(self._draw, self._load_of(now) * STEP_SECONDS)):
            self._names += 1
            _, stops_after, certaindex = self._draw.choices(_HARDNESS, [share for share, _, _ in _HARDNESS])[0]
            mu = math.log(_MEAN_TOKENS) - _SPREAD**2 / 2
            tokens = [max(1.0, self._draw.lognormvariate(mu, _SPREAD)) for _ in range(_CAP)]
            vote = _Vote(f"p{self._names}", now, stops_after, certaindex, tokens)
            self._votes[vote.name] = vote
            self._state(vote, now)

    def _state(self, vote: _Vote, now: float) -> None:
        want = vote.want()
        self._pool.want("t", want, now)
        self._meter.want("t", want, now)

    def _end_late(self, now: float) -> None:
        late = []
        for vote in self._votes.values():  # in the order of their deadlines
            if vote.deadline > now:
                break
            late.append(vote)
        for vote in late:
            self._finish(vote, ProgramEnd.DEADLINE, now)

    def _finish(self, vote: _Vote, end: ProgramEnd, now: float) -> None:
        del self._votes[vote.name]
        for engine in self._engines.values():
            for call in [call for call in engine.left if call.program == vote.name]:
                generated = round(vote.tokens[call.branch] - engine.left.pop(call))
                self._end_call(call, CallEnd.CANCELLED, generated, now)
        self._pool.withdraw("t", vote.name)
        self._meter.withdrawn("t", vote.name, end, now, round(now * 1000))
        self._ended += 1
        self._met += end is ProgramEnd.COMPLETED

    def _end_call(self, call: CallId, end: CallEnd, tokens: int, now: float) -> None:
        self._pool.ended(call, end, tokens)
        self._meter.ended(call, end, tokens, now)

    # --- workers ---

    def _generate(self, now: float) -> None:
        for engine in self._engines.values():
            tokens = STEP_SECONDS / (_STEP_FIXED + _STEP_PER_CALL * len(engine.left))
            for call in [*engine.left]:
                if call not in engine.left:  # its program has just ended
                    continue
                engine.left[call] -= tokens
                if engine.left[call] <= 0:
                    del engine.left[call]
                    self._end_call(call, CallEnd.FINISHED, round(self._votes[call.program].tokens[call.branch]), now)
                    self._sampled(self._votes[call.program], call.branch, now)

    def _sampled(self, vote: _Vote, branch: int, now: float) -> None:
        vote.finished.append(branch)
        if len(vote.finished) >= vote.stops_after:
            self._finish(vote, ProgramEnd.COMPLETED, now)
        else:
            self._state(vote, now)

    def _begin_workers(self, now: float) -> None:
        for name, engine in self._engines.items():
            if engine.ready_at == now:
                self._pool.add_worker(name, "", "replay", PLACES)
                self._pool.worker_health(name, healthy=True)
        states = {worker.name: worker.state for worker in self._pool.workers}
        for name in [name for name, engine in self._engines.items() if not engine.left]:
            if states.get(name) is WorkerState.DRAINING:
                del self._engines[name]
        self._pool.forget_drained(now)

    def _serving(self) -> list[Worker]:
        return [worker for worker in self._pool.workers if worker.state is WorkerState.READY]

    def _observe(self, now: float) -> None:
        demand: Demand = self._meter.demand(self._pool.workers, self._pool.longest_wait(now), now, round(now * 1000))
        ready = len(self._serving())
        self._history.append(Observation(now, demand, self._wanted, ready, self._wanted - ready))
        while self._history[0].at_seconds < now - 900.0:
            del self._history[0]
        wanted = self._law.workers(self._history, now)
        if wanted != self._wanted:
            self._changes += 1
            self._scale(wanted, ready_at=now + START_UP_SECONDS)

    def _scale(self, wanted: int, ready_at: float) -> None:
        for _ in range(wanted - self._wanted):
            self._names += 1
            self._engines[f"w{self._names}"] = _Engine(ready_at)
        known = {worker.name for worker in self._pool.workers}
        going = [name for name in self._engines if name not in known]  # those that start go first, the newest before
        going = going[::-1] + [worker.name for worker in sorted(self._serving(), key=lambda each: len(each.in_flight))]
        for name in going[: max(0, self._wanted - wanted)]:
            if name in known:
                self._pool.drain_worker(name)
            else:
                del self._engines[name]
        self._wanted = wanted


def _poisson(draw: random.Random, mean: float) -> int:
    """Knuth's; means here are small."""
    limit, product, count = math.exp(-mean), draw.random(), 0
    while product > limit:
        product *= draw.random()
        count += 1
    return count


def compare_laws(seconds: float, seed: int = 0) -> dict[str, dict[str, ScalingOutcome]]:
    """Load -> law -> outcome: the same programs under each law.

    Both laws are tried at several targets, and a fixed pool of the most workers shows what is at stake.
    """
    most = 12
    laws: dict[str, Law] = {}
    for share in (0.6, 0.8):
        settings = ScalingSettings(
            max_workers=most,
            target_utilisation=share,
            drain_seconds=DEADLINE_SECONDS / 2,
            start_up_seconds=START_UP_SECONDS,
            most_added=most,
            most_removed=most,
        )
        laws[f"dynasor {share:g}"] = DynasorLaw(settings)
    laws |= {f"queue {share:g}": QueueLaw(share, most) for share in (0.4, 0.6, 0.8)}
    laws[f"fixed {most}"] = FixedLaw(most)
    loads = {"diurnal": diurnal(2.0, seconds), "bursty": bursty(0.8, 4.0, seconds, seed)}
    return {
        load_name: {name: ScaledPool(law, load, workers=2, seed=seed).run(seconds) for name, law in laws.items()}
        for load_name, load in loads.items()
    }
