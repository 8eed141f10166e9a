"""Rules that read the most samples off a curve, and the curve as a parameter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules import InvalidRule, parse_rule, parse_vote_rule
from dynasor_serve.certaindex.rules.dynamic_curve import DynamicCurve
from dynasor_serve.certaindex.rules.initial_curve import InitialCurve
from dynasor_serve.certaindex.rules.parameters import CurveParameter, NumberParameter, parameters_of
from dynasor_serve.certaindex.rules.step_curve import StepCurve
from dynasor_serve.certaindex.votes import Votes

INITIAL = "initial-curve:detect=5,curve=0.17/12;0.41/8;0.688/5"
DYNAMIC = "dynamic-curve:curve=0.17/12;0.41/8;0.688/5"

CURVES = st.builds(
    lambda levels, samples: StepCurve(
        tuple(zip(sorted(levels)[: len(samples)], sorted(samples, reverse=True)[: len(levels)], strict=True))
    ),
    st.sets(st.floats(0, 1, exclude_min=True), min_size=1, max_size=16),
    st.sets(st.integers(1, 1024), min_size=1, max_size=16),
)


def stops(rule: str, answers: str, cap: int = 16) -> bool:
    """Ask a rule about samples written as one digit each, the label; `-` has no answer."""
    labels = tuple(None if answer == "-" else int(answer) for answer in answers)
    return parse_vote_rule(rule).verdict(Votes(labels, cap)).stops


@pytest.mark.parametrize(
    ("certainty", "samples"), [(0.0, None), (0.169, None), (0.17, 12), (0.409, 12), (0.41, 8), (0.7, 5), (1.0, 5)]
)
def test_the_highest_level_that_is_reached_holds(certainty: float, samples: int | None) -> None:
    assert StepCurve(((0.17, 12), (0.41, 8), (0.688, 5))).most_samples(certainty) == samples


@given(CURVES, st.floats(0, 1), st.floats(0, 1))
def test_more_certainty_never_allows_more_samples(curve: StepCurve, one: float, other: float) -> None:
    few, many = (curve.most_samples(certainty) or 1025 for certainty in (max(one, other), min(one, other)))
    assert few <= many


@given(CURVES)
def test_a_curve_is_read_as_it_is_written(curve: StepCurve) -> None:
    assert StepCurve.read(str(curve)) == curve


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        (INITIAL, "0000", False),  # too early
        (INITIAL, "00000", True),  # H̃ 1 allows 5
        (INITIAL, "00001", True),  # 4-1, 0.689
        (INITIAL, "00011", False),  # 3-2, 0.582, allows 8
        (INITIAL, "0001100", False),
        (INITIAL, "00011222", True),  # read once: what came since does not raise the limit
        (INITIAL, "01234000000", False),  # 0: below the curve
        (INITIAL, "0012300000", False),  # 2-1-1-1, 0.172, allows 12
        (INITIAL, "001230000000", True),
        (INITIAL, "-----", False),  # equal, but no answers
        (INITIAL, "-----0", True),  # their H̃ is 1, as a cluster of their own
        (DYNAMIC, "0000", False),
        (DYNAMIC, "00000", True),
        (DYNAMIC, "00011", False),  # 0.582 allows 8
        (DYNAMIC, "000110", False),  # 4-2, 0.645
        (DYNAMIC, "0001100", True),  # 5-2 of 7, 0.693, allows 5
        (DYNAMIC, "00000123", True),  # 5-1-1-1 of 8, 0.484, allows 8
        (DYNAMIC, "0000012", False),  # 5-1-1 of 7, 0.591, allows 8
        (DYNAMIC, "01234567", False),
        (DYNAMIC, "--------", False),
    ],
)
def test_verdicts_worked_out_by_hand(rule: str, answers: str, expected: bool) -> None:
    assert stops(rule, answers) is expected


def test_reasons_give_the_numbers() -> None:
    two_camps = Votes((0, 0, 0, 1, 1, 0), 16)
    assert parse_vote_rule(INITIAL).verdict(two_camps).reason == (
        "H̃ 0.58 after 5 samples allows 8 of 16 samples, 6 have finished"
    )
    assert parse_vote_rule(DYNAMIC).verdict(two_camps).reason == "H̃ 0.64 allows 8 of 16 samples, 6 have finished"
    disagreed = Votes((0, 1, 2, 3, 4), 16)
    assert parse_vote_rule(INITIAL).verdict(disagreed).reason == (
        "H̃ 0.00 after 5 samples is below the curve: spends the cap of 16"
    )
    assert parse_vote_rule(DYNAMIC).verdict(disagreed).reason == "H̃ 0.00 after 5 of 16 samples is below the curve"


def test_initial_curve_sees_answers_that_were_merged_late() -> None:
    rule = parse_vote_rule(INITIAL)
    assert not rule.verdict(Votes((0, 0, 1, 0, 1, 2), 16)).stops
    assert rule.verdict(Votes((0, 0, 0, 0, 0, 2), 16)).stops


@pytest.mark.parametrize("rule", [InitialCurve(), DynamicCurve()], ids=str)
def test_the_defaults_fit_into_a_type_string_and_come_back(rule: InitialCurve | DynamicCurve) -> None:
    assert parse_rule(str(rule)) == rule
    assert len(str(rule)) < 128


@pytest.mark.parametrize(
    "curve",
    [
        "",
        "0.4",
        "0.4/",
        "/5",
        "0.4/5;",
        "0.4/5/6",
        "0.4/5.0",
        "x/5",
        "nan/5",
        "0/5",
        "1.1/5",
        "-0.4/5",
        "0.4/0",
        "0.4/1025",
        "0.7/5;0.4/8",  # levels fall
        "0.4/5;0.4/4",
        "0.4/5;0.7/8",  # samples rise
        "0.4/5;0.7/5",
        ";".join(f"{level / 20}/{40 - level}" for level in range(1, 18)),  # 17 points
    ],
)
def test_what_is_no_curve_is_refused(curve: str) -> None:
    with pytest.raises(InvalidRule) as refused:
        parse_rule(f"dynamic-curve:curve={curve}")
    assert refused.value.field == "rule.curve"
    assert "it must be a curve like 0.41/14;0.69/5: an H̃ and the most samples" in refused.value.remedy


def test_a_curve_built_in_code_is_checked_too() -> None:
    with pytest.raises(ValueError, match="levels must rise and samples fall"):
        StepCurve(((0.7, 5), (0.4, 8)))
    with pytest.raises(ValueError, match="1 to 16"):
        StepCurve(())
    with pytest.raises(InvalidRule, match="curve"):
        DynamicCurve(curve="0.7/5")  # type: ignore[arg-type]


def test_the_kinds_of_parameters_describe_themselves() -> None:
    detect, curve = parameters_of(InitialCurve)
    assert isinstance(detect, NumberParameter)
    assert (detect.range, detect.written(5)) == ((2, 1024), "5")
    assert isinstance(curve, CurveParameter)
    assert (curve.range, curve.written(StepCurve(((0.5, 8), (1.0, 5))))) == (None, "0.5/8;1.0/5")
    assert curve.allows(StepCurve(((0.5, 8),)))
    assert not curve.allows("0.5/8")
