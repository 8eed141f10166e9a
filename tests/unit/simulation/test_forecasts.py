"""Outstanding work predicted from Certaindex is nearer to what votes go on to spend than their caps are."""

from __future__ import annotations

import pytest

from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.simulation.forecasts import score_forecasts


@pytest.mark.parametrize("rule", ["beta-posterior:confidence=0.95", "n-step-threshold:threshold=0.7,every=2"])
def test_predictions_on_recorded_votes_beat_the_cap(rule: str) -> None:
    score = score_forecasts([TRACES], rule, shuffles=2)

    assert score.forecasts > 3000
    assert score.error < 0.8 * score.error_at_cap
    assert abs(score.total_error) < 0.3 * abs(score.total_error_at_cap)


def test_a_rule_that_never_stops_is_forecast_at_the_cap() -> None:
    score = score_forecasts([TRACES], "even", shuffles=1)

    assert score.total_error == pytest.approx(score.total_error_at_cap, abs=0.05)
    assert score.error <= 1.05 * score.error_at_cap
