"""The frontier as a picture: accuracy against tokens, each rule a point, the plain smaller budget a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dynasor_serve.simulation.replay import MEAN, Row, RunKey
from dynasor_serve.simulation.scores import PlainBudgets

_SHARES = np.linspace(0.05, 1, 96)
_PANEL_INCHES = (6.4, 4.4)
_COLUMNS = 2


class NoPlots(RuntimeError):
    """The library that draws is not installed."""


def draw_frontiers(rows: Sequence[Row], curves: Iterable[tuple[RunKey, PlainBudgets]], path: Path) -> None:
    """Writes a PNG with one panel per dataset and kind of program: means over runs.

    Tokens are in percent of the full program's, so that runs that differ tenfold share an axis.

    Raises:
        NoPlots: matplotlib is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, which most installations do without
    except ImportError as error:
        raise NoPlots("drawing needs matplotlib: pip install 'dynasor-serve[plots]'") from error
    means = [row for row in rows if row.run == MEAN]
    panels = list(dict.fromkeys((row.kind, row.dataset, row.source) for row in means))
    plain = list(curves)
    height = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(_PANEL_INCHES[0] * min(_COLUMNS, len(panels)), _PANEL_INCHES[1] * height), dpi=120)
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(height, min(_COLUMNS, len(panels)), number)
        axes.set_title(" · ".join(filter(None, (panel[1], panel[2], panel[0]))))
        axes.set_xlabel("tokens, % of the full program's")
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
        of_panel = [budgets for key, budgets in plain if (key.kind, key.dataset, key.source) == panel]
        axes.plot(100 * _SHARES, _plain_mean(of_panel), color="0.6", label="plain smaller budget", zorder=1)
        for row in (row for row in means if (row.kind, row.dataset, row.source) == panel):
            score = row.score
            below, above = score.delta_points - score.delta_low, score.delta_high - score.delta_points
            axes.errorbar(
                100 - row.saved_percent,
                score.accuracy,
                yerr=[[max(0.0, below)], [max(0.0, above)]],
                fmt="o",
                capsize=3,
                label=row.rule,
            )
        axes.legend(fontsize=6)
    figure.tight_layout()
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _plain_mean(curves: Sequence[PlainBudgets]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Mean accuracy of plain budgets over runs, at shares of each run's own full tokens."""
    values = []
    for budgets in curves:
        spent, right = budgets.curve()
        values.append(np.interp(_SHARES * spent[-1], spent, right))
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = np.mean(values, axis=0)
    return mean
