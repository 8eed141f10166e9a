"""What an operator observed of a pool, and what may be concluded from it: missing data is no sign of anything.

`scaling` decides by it. All of it is read anew from the observations at each decision; nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from operator import attrgetter

from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.scaling_settings import ScalingSettings

_LEAST_COVERAGE = 0.5  # of a window's time must have a demand
_MOST_FIGURE = 1e15  # of a demand; floats have digits left beyond, so that sums over a window keep the small ones
_LEAST_SPEED, _MOST_SPEED = 1e-3, 1e9  # tokens per second and worker; 0 is unknown
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


def as_it_counts(history: Sequence[Observation], stale_seconds: float) -> list[Observation]:
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


def is_covered(history: Sequence[Observation], since_seconds: float, stale_seconds: float) -> bool:
    """Whether enough is known since then: it was observed from the beginning, and mostly with a demand.

    A demand tells of the time since the observation before it, unless that was so long ago that nobody looked.
    """
    if history[0].at_seconds > since_seconds:
        return False
    covered = 0.0
    for before, each in pairwise(history):
        if each.demand is not None and _is_watched(before, each, stale_seconds):
            covered += max(0.0, each.at_seconds - max(before.at_seconds, since_seconds))
    return covered >= _LEAST_COVERAGE * (history[-1].at_seconds - since_seconds)


def is_idle(history: Sequence[Observation], settings: ScalingSettings) -> bool:
    """Whether there was no program for long enough, for certain: what is missing is no sign of idleness."""
    now = history[-1].at_seconds
    since = now - settings.idle_seconds
    if history[0].at_seconds > since or now - changed_at(history) < settings.down_window_seconds:
        return False
    return all(
        each.demand is not None
        and each.current_workers > 0
        and not (each.demand.live_programs or each.demand.waiting_calls or each.demand.running_calls)
        and _is_watched(before, each, settings.stale_seconds)
        for before, each in pairwise(history)
        if each.at_seconds > since
    )


def changed_at(history: Sequence[Observation]) -> float:
    """When the number of workers changed last; where it never did, when it was first observed."""
    for before, after in zip(reversed(history[:-1]), reversed(history), strict=False):
        if before.current_workers != after.current_workers:
            return after.at_seconds
    return history[0].at_seconds


def _is_watched(before: Observation, each: Observation, stale_seconds: float) -> bool:
    """Whether so little time is between two observations that the latter tells of all of it."""
    return each.at_seconds - before.at_seconds <= stale_seconds


def _is_possible(demand: Demand) -> bool:
    """Whether every figure is a number that can be."""
    if not all(0 <= figure <= _MOST_FIGURE for figure in _figures(demand)):  # NaN is not, either
        return False
    speed = demand.tokens_per_second_per_worker
    return speed == 0 or _LEAST_SPEED <= speed <= _MOST_SPEED
