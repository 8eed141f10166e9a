"""How many workers did the demand call for, at each moment of a window? The formula of docs/scaling.md.

Figures are averaged before they are divided; `scaling` decides by what was called for throughout a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.scaling_history import Observation
from dynasor_serve.scheduling.scaling_settings import ScalingSettings

_MOST_PUSH = 2.0  # by misses to come, times what is called for without them


def called_for(
    history: Sequence[Observation], settings: ScalingSettings, window_seconds: float, average_seconds: float
) -> list[float]:
    """Workers called for at each observation of a window that has a demand, from the averages of the time before it."""
    called: list[float] = []
    since = history[-1].at_seconds - window_seconds
    mean, oldest = MeanDemand(), 0
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


@dataclass(slots=True)
class MeanDemand:
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
    def of(cls, demands: Sequence[Demand]) -> MeanDemand:
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
        places = max(1.0, self.places_per_worker / self.placed)
        return self.calls / self.demands / (places * settings.target_utilisation)
