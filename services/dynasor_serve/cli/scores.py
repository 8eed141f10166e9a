"""How a score of replayed programs is shown."""

from __future__ import annotations

from dynasor_serve.cli.presentation import Json
from dynasor_serve.simulation.scores import Score


def score_json(score: Score, saved_percent: float) -> dict[str, Json]:
    """A score as plain values. Accuracies in percent; tokens are means per program.

    Args:
        saved_percent: of the row, which may be a mean over runs.
    """
    return {
        "questions": score.questions,
        "accuracy": round(score.accuracy, 4),
        "accuracy_full": round(score.accuracy_full, 4),
        "delta_points": round(score.delta_points, 4),
        "delta_low": round(score.delta_low, 4),
        "delta_high": round(score.delta_high, 4),
        "tokens": round(score.tokens, 2),
        "tokens_full": round(score.tokens_full, 2),
        "saved_percent": round(saved_percent, 4),
        "harm": round(score.harm, 4),
        "rescue": round(score.rescue, 4),
        "equal_token_accuracy": round(score.equal_token_accuracy, 4),
    }


def interval_text(score: Score) -> str:
    """The interval of the change in points."""
    return f"{score.delta_low:+.2f} … {score.delta_high:+.2f}"
