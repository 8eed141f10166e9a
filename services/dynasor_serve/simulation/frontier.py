"""Pictures of replays: accuracy against tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynasor_serve.simulation.allocation import Study
from dynasor_serve.simulation.replay import MEAN, Row, RunKey
from dynasor_serve.simulation.scores import PlainBudgets, Score, mean_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARES = np.linspace(0.05, 1, 96)
_PANEL_INCHES = (6.4, 4.4)
_COLUMNS = 2


class NoPlots(RuntimeError):
    """The library that draws is not installed."""


def draw_frontiers(rows: Sequence[Row], curves: Iterable[tuple[RunKey, PlainBudgets]], path: Path) -> None:
    """Writes a PNG with one panel per dataset and kind of program: means over runs.

    Each rule is a point with its interval, the plain smaller budget a line. Tokens are in percent of the full
    program's, so that runs that differ tenfold share an axis.

    Raises:
        NoPlots: matplotlib is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    means = [row for row in rows if row.run == MEAN]
    panels = list(dict.fromkeys((row.kind, row.dataset, row.source) for row in means))
    plain = list(curves)
    figure, all_axes = _panels([" · ".join(filter(None, (panel[1], panel[2], panel[0]))) for panel in panels])
    for panel, axes in zip(panels, all_axes, strict=True):
        axes.set_xlabel("tokens, % of the full program's")
        of_panel = [budgets for key, budgets in plain if (key.kind, key.dataset, key.source) == panel]
        axes.plot(100 * _SHARES, mean_accuracy(of_panel, _SHARES), color="0.6", label="plain smaller budget", zorder=1)
        for row in (row for row in means if (row.kind, row.dataset, row.source) == panel):
            _draw_score(axes, 100 - row.saved_percent, row.score, row.rule)
        axes.legend(fontsize=6)
    _save(figure, path)


def draw_allocation(study: Study, path: Path) -> None:
    """Writes a PNG with one panel per dataset: a line per policy over its caps; of chains and trees a point per rule.

    Raises:
        NoPlots: matplotlib is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    figure, all_axes = _panels([" · ".join(filter(None, (panel[1], panel[2], panel[0]))) for panel in study.plain])
    for (panel, plain), axes in zip(study.plain.items(), all_axes, strict=True):
        axes.set_xlabel("tokens per program")
        members = [point for point in study.points if point.panel == panel]
        if members[0].cap is None:
            full = float(np.mean([budgets.curve()[0][-1] for budgets in plain]))
            axes.plot(_SHARES * full, mean_accuracy(plain, _SHARES), color="0.6", label="uniform budget", zorder=1)
        for policy in dict.fromkeys(point.policy for point in members):
            line = [point for point in members if point.policy == policy]
            axes.plot(
                [point.score.tokens for point in line],
                [point.score.accuracy for point in line],
                marker="o",
                markersize=3 if len(line) > 1 else 5,
                linewidth=1.8 if policy == "even" else 1.0,
                label=policy,
            )
        axes.legend(fontsize=6)
    _save(figure, path)


def _panels(titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, which most installations do without
    except ImportError as error:
        raise NoPlots("drawing needs matplotlib: pip install 'dynasor-serve[plots]'") from error
    columns = min(_COLUMNS, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * lines), dpi=120)
    all_axes = []
    for number, title in enumerate(titles, start=1):
        axes = figure.add_subplot(lines, columns, number)
        axes.set_title(title)
        axes.set_ylabel("accuracy, %")
        axes.grid(alpha=0.3)
        all_axes.append(axes)
    return figure, all_axes


def _draw_score(axes: Axes, tokens: float, score: Score, label: str) -> None:
    below, above = score.delta_points - score.delta_low, score.delta_high - score.delta_points
    ends = [[max(0.0, below)], [max(0.0, above)]]
    axes.errorbar(tokens, score.accuracy, yerr=ends, fmt="o", capsize=3, label=label)


def _save(figure: Figure, path: Path) -> None:
    """Writes the whole file or none."""
    figure.tight_layout()
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, format="png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
