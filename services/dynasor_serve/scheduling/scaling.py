"""How many workers should a pool have? The control law: (what was observed, settings) → workers, and why.

Pure: it remembers nothing, so an operator that restarts, or a second one that takes over, decides as the first would
once it has observed for a window. `docs/scaling.md` has the formula and how to read the reasons.

Workers are added and taken away once per window at most. What is called for is computed from averages over the window
for adding, or half the window for taking away. Workers are added if more were called for throughout the window (or,
where more than twice as many are, throughout its last third), as many as are called for at its end. They are taken away
down to the most that was called for in the window, as the Kubernetes HPA does with its recommendations; while that is
less than half of the way to what is called for now, not yet, since the first step would put off the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dynasor_serve.scheduling.called_for import MeanDemand, called_for
from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.scaling_history import Observation, as_it_counts, changed_at, is_covered, is_idle
from dynasor_serve.scheduling.scaling_settings import ScalingSettings

_OVERWHELMING = 2.0  # times the workers there are: no noise, and not waited for throughout a window
_WIDEST_BAND = 0.5  # workers


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
    history = as_it_counts(history, settings.stale_seconds)
    latest = history[-1]
    current = latest.current_workers
    if not settings.min_workers <= current <= settings.max_workers:
        bounded = min(max(current, settings.min_workers), settings.max_workers)
        bounds = f"{settings.min_workers} to {settings.max_workers}"
        return ScalingDecision(bounded, ScalingCause.BOUNDED, f"{_workers(current)} where {bounds} are allowed")
    age = now_seconds - latest.at_seconds
    if latest.demand is None or not age <= settings.stale_seconds:
        why = f"was last heard of {age:.0f} s ago" if age > settings.stale_seconds else "is not known"
        return ScalingDecision(current, ScalingCause.MISSING, f"the demand {why}: {_workers(current)} stay")
    if current == 0:
        return _woken(latest.demand, settings)
    if settings.min_workers == 0 and is_idle(history, settings):
        left = max(0, current - settings.most_removed)
        reason = f"{current} → {_workers(left)}: no program for {settings.idle_seconds:.0f} s"
        return ScalingDecision(left, ScalingCause.IDLE, reason)
    return _followed(history, settings)


def _woken(demand: Demand, settings: ScalingSettings) -> ScalingDecision:
    """From no worker. One program is enough, at once; no window and no measured speed is waited for."""
    programs = max(demand.live_programs, demand.waiting_programs)
    if not programs and not demand.waiting_calls:
        return ScalingDecision(0, ScalingCause.STEADY, "no program and no worker")
    needed = MeanDemand.of([demand]).needed(settings, 0.0) if demand.tokens_per_second_per_worker else 1.0
    workers = _bounded(math.ceil(needed), 1, min(settings.max_workers, settings.most_added))
    return ScalingDecision(workers, ScalingCause.WOKEN, f"{_programs(programs)} waiting and no worker")


def _followed(history: Sequence[Observation], settings: ScalingSettings) -> ScalingDecision:
    """From one worker or more, by what was called for in the windows."""
    latest = history[-1]
    assert latest.demand is not None
    now, current = latest.at_seconds, latest.current_workers
    if not is_covered(history, now - settings.up_window_seconds, settings.stale_seconds):
        reason = f"the demand was not observed for most of the last {settings.up_window_seconds:.0f} s"
        return ScalingDecision(current, ScalingCause.MISSING, reason)
    called = called_for(history, settings, settings.up_window_seconds, settings.up_window_seconds)
    if not called:
        reason = "no call has ended yet, so that no worker's speed is known"
        return ScalingDecision(current, ScalingCause.UNMEASURED, reason)
    band = min(settings.hysteresis * current, _WIDEST_BAND)
    least, told = min(called), _told(called[-1], latest.demand)
    if current < settings.max_workers:
        if least > current + band:
            return _more(history, settings, math.ceil(called[-1] - band), told)
        soon = settings.up_window_seconds / 3
        lately = called_for(history, settings, soon, soon)
        if lately and min(lately) > _OVERWHELMING * current + band:
            return _more(history, settings, math.ceil(lately[-1] - band), _told(lately[-1], latest.demand))
    if least < current - 1 - band and current > max(1, settings.min_workers):
        slowly = called_for(history, settings, settings.down_window_seconds, settings.slow_average_seconds)
        most, now_called = max(slowly), math.ceil(slowly[-1])
        if most < current - 1 - band:
            if 2 * (current - math.ceil(most)) < current - now_called:
                falling = f"it still falls, and the number stays for {settings.down_window_seconds:.0f} s once changed"
                return ScalingDecision(
                    current, ScalingCause.WAITING, f"{told}, but {falling}: {_workers(current)} stay"
                )
            return _fewer(history, settings, math.ceil(most), told)
    return ScalingDecision(current, ScalingCause.STEADY, f"{_workers(current)} do: {told}")


def _more(history: Sequence[Observation], settings: ScalingSettings, wanted: int, told: str) -> ScalingDecision:
    current = history[-1].current_workers
    since = history[-1].at_seconds - changed_at(history)
    if since < settings.up_window_seconds:
        return _waits(current, told, since, settings.up_window_seconds)
    target = min(wanted, current + settings.most_added, settings.max_workers)
    return ScalingDecision(target, ScalingCause.MORE, f"{current} → {_workers(target)}: {told}")


def _fewer(history: Sequence[Observation], settings: ScalingSettings, wanted: int, told: str) -> ScalingDecision:
    latest, current = history[-1], history[-1].current_workers
    assert latest.demand is not None
    since, window = latest.at_seconds - changed_at(history), settings.down_window_seconds
    if since < window:
        return _waits(current, told, since, window)
    if not is_covered(history, latest.at_seconds - window, settings.stale_seconds):
        gap = f"the demand was not observed for most of the last {window:.0f} s"
        return ScalingDecision(current, ScalingCause.WAITING, f"{told}, but {gap}: {_workers(current)} stay")
    if latest.demand.waiting_calls and latest.demand.slo_attainment < settings.least_attainment:
        attained = f"only {latest.demand.slo_attainment:.0%} end in time and calls wait"
        return ScalingDecision(current, ScalingCause.WAITING, f"{told}, but {attained}: {_workers(current)} stay")
    target = max(wanted, current - settings.most_removed, settings.min_workers, 1)
    return ScalingDecision(target, ScalingCause.FEWER, f"{current} → {_workers(target)}: {told}")


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
