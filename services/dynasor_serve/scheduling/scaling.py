"""How many workers should a pool have? The control law: (what was observed, settings) → workers, and why.

Pure: it remembers nothing, so an operator that restarts, or a second one that takes over, decides as the first would
once it has observed for a window. `docs/scaling.md` has the formula and how to read the reasons.

Workers are added and taken away once per window at most. What is called for is computed from averages over the window
for adding, or half the window for taking away. Workers are added if more were called for throughout the window (or,
where more than twice as many are, throughout its last third), as many as are called for at its end. They are taken away
down to the most that was called for in the window, as the Kubernetes HPA does with its recommendations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from operator import attrgetter

from dynasor_serve.scheduling.load import Demand
from dynasor_serve.scheduling.scaling_settings import ScalingSettings

_LEAST_COVERAGE = 0.5  # of a window's observations must have a demand
_MOST_PUSH = 2.0  # by misses to come, times what is called for without them
_OVERWHELMING = 2.0  # times the workers there are: no noise, and not waited for throughout a window
_WIDEST_BAND = 0.5  # workers
_figures: Callable[[Demand], tuple[float, ...]] = attrgetter(*(field.name for field in fields(Demand)))


@dataclass(frozen=True, slots=True)
class Observation:
    """What an operator saw at one moment.

    Attributes:
        at_seconds: by a clock of the operator's that never goes back.
        demand: the scheduler's; None where it could not be had.
        current_workers: how many there should be at that moment: the replicas that were asked for.
        ready_workers: of these, those that serve.
        starting_workers: of these, those that do not serve yet.
    """

    at_seconds: float
    demand: Demand | None
    current_workers: int
    ready_workers: int
    starting_workers: int = 0


class ScalingCause(StrEnum):
    """Why a decision is as it is, for conditions and metrics; its sentence says more."""

    STEADY = "steady"  # the workers are what is called for
    MORE = "more"  # workers are added
    FEWER = "fewer"  # workers are taken away
    WAITING = "waiting"  # another number is called for, but a window is not over
    MISSING = "missing"  # the demand is not known
    UNMEASURED = "unmeasured"  # no worker's speed is known
    WOKEN = "woken"  # from no worker, by a program
    IDLE = "idle"  # to no worker, after the idle window
    BOUNDED = "bounded"  # the number was outside of the settings' bounds


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """So many workers, and why: a sentence for people."""

    workers: int
    cause: ScalingCause
    reason: str


def desired_workers(history: Sequence[Observation], settings: ScalingSettings, now_seconds: float) -> ScalingDecision:
    """How many workers there should be now.

    Args:
        history: oldest first, the latest last; `settings.history_seconds` of it are enough.
        settings: of the pool.
        now_seconds: by the clock of the observations.

    Returns:
        The decision; within the settings' bounds always, and the current number where nothing is to be done.
    """
    if not history:
        return ScalingDecision(settings.min_workers, ScalingCause.MISSING, "nothing was observed yet")
    history = _as_it_counts(history, settings.stale_seconds)
    latest = history[-1]
    current = latest.current_workers
    if not settings.min_workers <= current <= settings.max_workers:
        bounded = min(max(current, settings.min_workers), settings.max_workers)
        bounds = f"{settings.min_workers} to {settings.max_workers}"
        return ScalingDecision(bounded, ScalingCause.BOUNDED, f"{_workers(current)} where {bounds} are allowed")
    age = now_seconds - latest.at_seconds
    if latest.demand is None or age > settings.stale_seconds:
        why = f"was last heard of {age:.0f} s ago" if age > settings.stale_seconds else "is not known"
        return ScalingDecision(current, ScalingCause.MISSING, f"the demand {why}: {_workers(current)} stay")
    if current == 0:
        return _woken(latest.demand, settings)
    if settings.min_workers == 0 and _is_idle(history, settings):
        left = max(0, current - settings.most_removed)
        reason = f"{current} → {_workers(left)}: no program for {settings.idle_seconds:.0f} s"
        return ScalingDecision(left, ScalingCause.IDLE, reason)
    return _followed(history, settings)


def _woken(demand: Demand, settings: ScalingSettings) -> ScalingDecision:
    """From no worker. One program is enough, at once; no window and no measured speed is waited for."""
    programs = max(demand.live_programs, demand.waiting_programs)
    if not programs and not demand.waiting_calls:
        return ScalingDecision(0, ScalingCause.STEADY, "no program and no worker")
    needed = _Mean.of([demand]).needed(settings, 0.0) if demand.tokens_per_second_per_worker else 1.0
    workers = _bounded(math.ceil(needed), 1, min(settings.max_workers, settings.most_added))
    return ScalingDecision(workers, ScalingCause.WOKEN, f"{_programs(programs)} waiting and no worker")


def _followed(history: Sequence[Observation], settings: ScalingSettings) -> ScalingDecision:
    """From one worker or more, by what was called for in the windows."""
    latest = history[-1]
    assert latest.demand is not None
    now, current = latest.at_seconds, latest.current_workers
    if not _is_covered(history, now - settings.up_window_seconds):
        reason = f"the demand was not observed for most of the last {settings.up_window_seconds:.0f} s"
        return ScalingDecision(current, ScalingCause.MISSING, reason)
    called = _called_for(history, settings, settings.up_window_seconds, settings.up_window_seconds)
    if not called:
        reason = "no call has ended yet, so that no worker's speed is known"
        return ScalingDecision(current, ScalingCause.UNMEASURED, reason)
    band = min(settings.hysteresis * current, _WIDEST_BAND)
    least, told = min(called), _told(called[-1], latest.demand)
    if current < settings.max_workers:
        if least > current + band:
            return _more(history, settings, math.ceil(called[-1] - band), told)
        soon = settings.up_window_seconds / 3
        lately = _called_for(history, settings, soon, soon)
        if lately and min(lately) > _OVERWHELMING * current + band:
            return _more(history, settings, math.ceil(lately[-1] - band), _told(lately[-1], latest.demand))
    if least < current - 1 - band and current > max(1, settings.min_workers):
        most = max(_called_for(history, settings, settings.down_window_seconds, settings.slow_average_seconds))
        if most < current - 1 - band:
            return _fewer(history, settings, math.ceil(most), told)
    return ScalingDecision(current, ScalingCause.STEADY, f"{_workers(current)} do: {told}")


def _more(history: Sequence[Observation], settings: ScalingSettings, called_for: int, told: str) -> ScalingDecision:
    current = history[-1].current_workers
    since = history[-1].at_seconds - _changed_at(history)
    if since < settings.up_window_seconds:
        return _waits(current, told, since, settings.up_window_seconds)
    target = min(called_for, current + settings.most_added, settings.max_workers)
    return ScalingDecision(target, ScalingCause.MORE, f"{current} → {_workers(target)}: {told}")


def _fewer(history: Sequence[Observation], settings: ScalingSettings, called_for: int, told: str) -> ScalingDecision:
    latest, current = history[-1], history[-1].current_workers
    assert latest.demand is not None
    since, window = latest.at_seconds - _changed_at(history), settings.down_window_seconds
    if since < window:
        return _waits(current, told, since, window)
    if not _is_covered(history, latest.at_seconds - window):
        gap = f"the demand was not observed for most of the last {window:.0f} s"
        return ScalingDecision(current, ScalingCause.WAITING, f"{told}, but {gap}: {_workers(current)} stay")
    if latest.demand.waiting_calls and latest.demand.slo_attainment < settings.least_attainment:
        attained = f"only {latest.demand.slo_attainment:.0%} end in time and calls wait"
        return ScalingDecision(current, ScalingCause.WAITING, f"{told}, but {attained}: {_workers(current)} stay")
    target = max(called_for, current - settings.most_removed, settings.min_workers, 1)
    return ScalingDecision(target, ScalingCause.FEWER, f"{current} → {_workers(target)}: {told}")


@dataclass(slots=True)
class _Mean:
    """The mean of the demands of a window, kept as sums: a decision looks at many windows."""

    demands: int = 0
    arriving: float = 0.0  # tokens per second
    waiting: float = 0.0  # tokens
    outstanding: float = 0.0  # tokens
    speed: float = 0.0  # tokens per second and worker
    measured: int = 0  # demands that know a speed
    misses: float = 0.0
    live: float = 0.0
    calls: float = 0.0  # running and waiting
    places_per_worker: float = 0.0
    placed: int = 0  # demands with a worker that is ready

    @classmethod
    def of(cls, demands: Sequence[Demand]) -> _Mean:
        mean = cls()
        for demand in demands:
            mean.add(demand, 1)
        return mean

    def add(self, demand: Demand, sign: int) -> None:
        """Takes a demand in, or out again where the sign is −1."""
        self.demands += sign
        self.arriving += sign * demand.arriving_tokens_per_second
        self.waiting += sign * demand.waiting_tokens
        self.outstanding += sign * demand.outstanding_tokens
        # Where nothing waits, a deadline that will be missed is too short: no worker would help.
        self.misses += sign * (demand.misses_to_come if demand.waiting_calls else 0)
        self.live += sign * demand.live_programs
        self.calls += sign * (demand.running_calls + demand.waiting_calls)
        if demand.tokens_per_second_per_worker > 0:
            self.speed += sign * demand.tokens_per_second_per_worker
            self.measured += sign
        if demand.ready_workers and demand.places:
            self.places_per_worker += sign * demand.places / demand.ready_workers
            self.placed += sign

    def needed(self, settings: ScalingSettings, short_seconds: float, ready_workers: int = 0) -> float:
        """Workers that are called for, as a fraction.

        `short_seconds` is how long the workers that are ready now will be alone.
        """
        speed = self.speed / self.measured
        arriving = self.arriving / self.demands
        piling_up = max(0.0, arriving - ready_workers * speed) * short_seconds
        flow = arriving + (self.waiting / self.demands + piling_up) / settings.drain_seconds
        tokens_per_second = max(flow, self.outstanding / self.demands / settings.drain_seconds)
        push = min(1 + self.misses / self.live, _MOST_PUSH) if self.live > 0 else 1.0
        return max(0.0, tokens_per_second * push / (speed * settings.target_utilisation))

    def needed_by_calls(self, settings: ScalingSettings) -> float:
        """The same where no speed is known: by calls and places."""
        places = self.places_per_worker / self.placed
        return self.calls / self.demands / (places * settings.target_utilisation)


def _called_for(
    history: Sequence[Observation], settings: ScalingSettings, window_seconds: float, average_seconds: float
) -> list[float]:
    """Workers called for at each observation of a window that has a demand, from the averages of the time before it."""
    called: list[float] = []
    since = history[-1].at_seconds - window_seconds
    mean, oldest = _Mean(), 0
    started_at = history[0].at_seconds - settings.start_up_seconds  # when workers were last added
    for place, each in enumerate(history):
        if place and each.current_workers > history[place - 1].current_workers:
            started_at = each.at_seconds
        if each.at_seconds <= since - average_seconds:
            oldest = place + 1
            continue
        if each.demand is not None:
            mean.add(each.demand, 1)
        while history[oldest].at_seconds <= each.at_seconds - average_seconds:
            gone = history[oldest].demand
            if gone is not None:
                mean.add(gone, -1)
            oldest += 1
        if each.demand is None or each.at_seconds <= since:
            continue
        if mean.measured:
            # Workers that start will be ready that much sooner; one that would be added now takes all of it.
            since_start = each.at_seconds - started_at if each.starting_workers else 0.0
            short = max(0.0, settings.start_up_seconds - since_start)
            called.append(mean.needed(settings, short, each.ready_workers))
        elif mean.placed:
            called.append(mean.needed_by_calls(settings))
    return called


def _as_it_counts(history: Sequence[Observation], stale_seconds: float) -> list[Observation]:
    """The history without demands that cannot be, or were stale: the same one, heard again and again."""
    counted = []
    at_ms, first_heard = None, 0.0  # of the latest demand
    for each in history:
        demand, counts = each.demand, False
        if demand is not None:
            if demand.at_ms != at_ms:
                at_ms, first_heard = demand.at_ms, each.at_seconds
            counts = each.at_seconds - first_heard <= stale_seconds and _is_possible(demand)
        counted.append(each if counts else replace(each, demand=None))
    return counted


def _is_possible(demand: Demand) -> bool:
    """Whether no figure is negative, infinite or not a number."""
    figures = _figures(demand)
    return min(figures) >= 0 and sum(figures) < math.inf


def _is_covered(history: Sequence[Observation], since_seconds: float) -> bool:
    """Whether enough is known since then: it was observed all the time, and mostly with a demand."""
    if history[0].at_seconds > since_seconds:
        return False
    window = [each.demand is not None for each in history if each.at_seconds > since_seconds]
    return sum(window) >= _LEAST_COVERAGE * len(window)


def _is_idle(history: Sequence[Observation], settings: ScalingSettings) -> bool:
    """Whether there was no program for long enough, for certain: what is missing is no sign of idleness."""
    now = history[-1].at_seconds
    since = now - settings.idle_seconds
    if history[0].at_seconds > since or now - _changed_at(history) < settings.down_window_seconds:
        return False
    return all(
        each.demand is not None
        and each.current_workers > 0
        and not (each.demand.live_programs or each.demand.waiting_calls or each.demand.running_calls)
        for each in history
        if each.at_seconds > since
    )


def _changed_at(history: Sequence[Observation]) -> float:
    """When the number of workers changed last; where it never did, when it was first observed."""
    for before, after in zip(reversed(history[:-1]), reversed(history), strict=False):
        if before.current_workers != after.current_workers:
            return after.at_seconds
    return history[0].at_seconds


def _waits(current: int, told: str, since: float, window: float) -> ScalingDecision:
    left = f"the number changed or was first seen {since:.0f} s ago, and stays for {window:.0f} s"
    return ScalingDecision(current, ScalingCause.WAITING, f"{told}, but {left}")


def _told(called_for: float, demand: Demand) -> str:
    """The figures that a decision follows from: the latest."""
    return (
        f"{called_for:.1f} called for ("
        f"{demand.arriving_tokens_per_second:.0f} tokens/s arrive, {demand.waiting_tokens:.0f} wait, "
        f"{demand.outstanding_tokens:.0f} are outstanding, a worker generates "
        f"{demand.tokens_per_second_per_worker:.0f} tokens/s, {demand.misses_to_come} misses to come)"
    )


def _bounded(workers: int, least: int, most: int) -> int:
    return max(least, min(workers, most))


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _programs(count: int) -> str:
    return "1 program is" if count == 1 else f"{count} programs are"
