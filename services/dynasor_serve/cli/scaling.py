"""The scaling law's benchmark as people read it."""

from __future__ import annotations

from collections.abc import Mapping

from dynasor_serve.simulation.autoscaling import DEADLINE_SECONDS, START_UP_SECONDS, ScalingOutcome
from dynasor_serve.simulation.forecasts import ForecastScore


def scaling_text(forecasts: Mapping[str, ForecastScore], outcomes: Mapping[str, Mapping[str, ScalingOutcome]]) -> str:
    """Two tables: rule -> forecasts, and load -> law -> outcome."""
    lines = [
        "remaining tokens of recorded votes: mean absolute relative error of a vote, and error of the sum",
        f"  {'rule':<42}{'predicted':>11}{'at cap':>9}{'sum':>9}{'at cap':>9}",
    ]
    lines += [
        f"  {rule:<42}{score.error:>11.2f}{score.error_at_cap:>9.2f}{score.total_error:>+9.1%}"
        f"{score.total_error_at_cap:>+9.1%}"
        for rule, score in forecasts.items()
    ]
    lines += [
        f"virtual time: deadlines of {DEADLINE_SECONDS:.0f} s, workers that take {START_UP_SECONDS:.0f} s to start",
        f"  {'load':<10}{'law':<13}{'programs':>10}{'in time':>9}{'worker-hours':>14}{'changes':>9}{'most':>6}",
    ]
    lines += [
        f"  {load:<10}{law:<13}{outcome.programs:>10,}{outcome.attainment:>9.1%}{outcome.worker_hours:>14.2f}"
        f"{outcome.changes:>9}{outcome.most_workers:>6}"
        for load, laws in outcomes.items()
        for law, outcome in laws.items()
    ]
    return "\n".join(lines)
