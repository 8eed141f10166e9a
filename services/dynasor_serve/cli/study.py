"""What `dynasor bench batch` shows of a study: plain values, or a table per dataset."""

from __future__ import annotations

from dynasor_serve.cli.presentation import Json
from dynasor_serve.cli.scores import interval_text, score_json
from dynasor_serve.simulation.allocation import Point, Study


def study_json(study: Study) -> dict[str, Json]:
    """The study as plain values, one row per point."""
    return {
        "rows": [
            {
                "dataset": point.dataset,
                "source": point.source,
                "kind": point.kind,
                "policy": point.policy,
                "cap": point.cap,
                "runs": point.runs,
                **score_json(point.score, point.saved_percent),
                "saved_at_equal_accuracy_percent": round(point.saved_at_equal_accuracy, 4),
            }
            for point in study.points
        ]
    }


def study_text(study: Study) -> str:
    """The study for people: each policy at the largest cap of its dataset."""
    lines = []
    for panel in study.plain:
        members = [point for point in study.points if point.panel == panel]
        cap = max((point.cap for point in members if point.cap is not None), default=None)
        shown = [point for point in members if point.cap == cap]
        first = shown[0]
        source = f" of {first.source}" if first.source else ""
        at = f", cap {cap}" if cap is not None else ""
        lines.append(
            f"{first.dataset}: {first.kind}{source}{at}; {first.score.questions} questions, mean over {first.runs} "
            f"{'run' if first.runs == 1 else 'runs'}; full program {first.score.accuracy_full:.1f} % right"
        )
        wide = max(len(point.policy) for point in shown)
        lines.append(f"  {'policy':<{wide}}{_HEADINGS}")
        lines.extend(f"  {point.policy:<{wide}}{_cells(point)}" for point in shown)
        lines.append("")
    return "\n".join(lines)


_HEADINGS = (
    f"{'right':>9}{'change':>8}{'95 % interval':>17}{'saved':>9}{'at equal accuracy':>19}{'plain, equal tokens':>21}"
)


def _cells(point: Point) -> str:
    score = point.score
    return (
        f"{score.accuracy:>7.1f} %{score.delta_points:>+8.2f}{interval_text(score):>17}{point.saved_percent:>7.1f} %"
        f"{point.saved_at_equal_accuracy:>17.1f} %{score.equal_token_accuracy:>19.1f} %"
    )
