"""Confidence from log-probabilities, against the definitions."""

from collections.abc import Callable, Sequence
from math import exp, inf, log, nan, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.token_confidence import (
    GroupConfidence,
    geometric_mean_probability,
    mean_probability,
    token_confidence,
)

LOGPROBS = st.lists(st.floats(-30, 0), min_size=1, max_size=20)
CONFIDENCES = st.lists(st.floats(0, 50), max_size=60)


def test_the_confidence_of_a_token() -> None:
    assert token_confidence([log(0.5), log(0.25), log(0.25)]) == pytest.approx((log(2) + 2 * log(4)) / 3)
    assert token_confidence([0.0]) == 0
    peaked, flat = [log(0.99), log(0.005), log(0.005)], [log(1 / 3)] * 3
    assert token_confidence(peaked) > token_confidence(flat)


@pytest.mark.parametrize("ruled_out", [-inf, -9999.0])
def test_tokens_that_sampling_ruled_out_are_left_out(ruled_out: float) -> None:
    assert token_confidence([-1.0, ruled_out, -3.0]) == 2.0
    with pytest.raises(ValueError, match="ruled out"):
        token_confidence([ruled_out])


def test_the_mean_probabilities_of_an_answer() -> None:
    logprobs = [log(0.9), log(0.4)]
    assert mean_probability(logprobs) == pytest.approx(0.65)
    assert geometric_mean_probability(logprobs) == pytest.approx(0.6)
    assert mean_probability([0.0, -inf]) == 0.5
    assert geometric_mean_probability([0.0, -inf]) == 0


def test_an_engines_rounding_above_0_counts_as_0() -> None:
    assert token_confidence([1e-6]) == 0
    assert mean_probability([1e-6]) == geometric_mean_probability([1e-6]) == 1


@pytest.mark.parametrize("measure", [token_confidence, mean_probability, geometric_mean_probability])
@pytest.mark.parametrize(
    ("logprobs", "told"),
    [([], "no log-probabilities"), ([-1.0, nan], "is nan"), ([inf], "is inf"), ([0.7], "is 0.7; it must be 0 or less")],
)
def test_what_is_no_log_probability_is_refused(
    measure: Callable[[Sequence[float]], float], logprobs: list[float], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        measure(logprobs)


@given(LOGPROBS)
def test_means_are_probabilities_and_the_geometric_is_no_larger(logprobs: list[float]) -> None:
    arithmetic, geometric = mean_probability(logprobs), geometric_mean_probability(logprobs)
    assert 0 <= geometric <= arithmetic + 1e-12
    assert arithmetic <= 1
    assert geometric == pytest.approx(prod(map(exp, logprobs)) ** (1 / len(logprobs)), rel=1e-6)


@given(CONFIDENCES, st.integers(1, 12))
def test_the_lowest_group_is_the_lowest_mean_of_all_groups(confidences: list[float], window: int) -> None:
    group = GroupConfidence(window)
    for confidence in confidences:
        group.add(confidence)
    starts = range(len(confidences) - window + 1)
    means = [sum(confidences[start : start + window]) / window for start in starts]
    assert group.tokens == len(confidences)
    if means:
        assert group.lowest == pytest.approx(min(means), abs=1e-9)
        assert group.at_end == group.lowest
    else:
        assert group.lowest is None
        assert group.at_end == (pytest.approx(sum(confidences) / len(confidences)) if confidences else None)


def test_rounding_errors_do_not_pile_up() -> None:
    """A sum that is only added to and taken from keeps what a huge value left behind."""
    group = GroupConfidence(4)
    for confidence in [1e16, 1.0, 1.0, 1.0, *[0.1] * 8]:
        group.add(confidence)
    assert group.lowest == pytest.approx(0.1)


def test_a_token_without_a_finite_confidence_changes_nothing() -> None:
    group = GroupConfidence(1)
    for wrong in (nan, inf, -inf):
        with pytest.raises(ValueError, match="finite"):
            group.add(wrong)
    assert (group.tokens, group.lowest, group.at_end) == (0, None, None)


def test_a_group_has_a_token() -> None:
    with pytest.raises(ValueError, match="groups of 0 tokens"):
        GroupConfidence(0)
