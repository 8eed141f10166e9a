"""Choices that follow from the request id alone: samples, and faults."""

from __future__ import annotations

import pytest

from dynasor_serve.engines.replay.branches import AlternativeChooser, branch_of_call_id
from dynasor_serve.engines.replay.faults import Fault, FaultPlan, FaultRate
from dynasor_serve.engines.replay.suffixes import Ask


@pytest.mark.parametrize(
    ("request_id", "branch"),
    [
        ("03-01HV/7/1.2", 7),
        ("03-01HV/7/0", 7),
        ("tenant/shard/03-01HV/12/3", 12),
        ("03-01HV/7/1.2/p3", 7),
        ("03-01HV/7/1.2.p3", 7),
        ("03-01HV", None),
        ("7/1", None),
        ("03-01HV/seven/1", None),
        ("03-01HV/7/x", None),
    ],
)
def test_the_branch_is_read_from_a_call_id(request_id: str, branch: int | None) -> None:
    assert branch_of_call_id(request_id) == branch


def test_a_branch_has_its_alternative_and_calls_without_one_take_turns() -> None:
    chooser = AlternativeChooser()
    place, another = (1, "q"), (2, "q")

    assert [chooser.first(place, 5, 1) for _ in range(2)] == [5, 5]
    assert chooser.first(place, 2, 4) == 8, "branch 2 of calls with four choices each"
    assert [chooser.first(place, None, 1) for _ in range(3)] == [0, 1, 2]
    assert chooser.first(place, None, 4) == 3
    assert chooser.first(place, None, 1) == 7
    assert chooser.first(another, None, 1) == 0
    assert [chooser.first((1, None), None, 1) for _ in range(2)] == [0, 0], "the text decides"


def test_faults_follow_from_the_request_id_and_hit_their_share() -> None:
    plan = FaultPlan([FaultRate.parse("hang:0.1"), FaultRate.parse("error-500:0.3")])
    ids = [f"p{number}/0/0" for number in range(4000)]

    drawn = [plan.draw(request_id, Ask.GO_ON) for request_id in ids]

    assert drawn == [plan.draw(request_id, Ask.GO_ON) for request_id in ids]
    assert drawn.count(Fault.HANG) / len(ids) == pytest.approx(0.1, abs=0.03)
    assert drawn.count(Fault.ERROR_500) / len(ids) == pytest.approx(0.3, abs=0.03)
    assert drawn.count(Fault.GARBAGE) == 0


def test_rates_of_nothing_and_of_everything_are_exact() -> None:
    ids = [str(number) for number in range(100)]

    assert {FaultPlan([]).draw(id_, Ask.PROBE) for id_ in ids} == {None}
    assert {FaultPlan([FaultRate.parse("garbage:1")]).draw(id_, Ask.PROBE) for id_ in ids} == {Fault.GARBAGE}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("melt:0.1", "unknown fault 'melt'; give one of garbage, hang, error-500, cut-stream, empty-probe"),
        ("hang", "has no rate; give a share"),
        ("hang:often", "has no rate; give a share"),
        ("hang:1.5", r"not in \[0, 1\]"),
    ],
)
def test_a_wrong_fault_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FaultRate.parse(text)


def test_rates_that_one_call_can_fail_by_are_at_most_one_together() -> None:
    with pytest.raises(ValueError, match="together they are at most 1"):
        FaultPlan([FaultRate(Fault.HANG, 0.6), FaultRate(Fault.GARBAGE, 0.6)])
    with pytest.raises(ValueError, match=r"of judge calls sum up to 1\.5"):
        FaultPlan([FaultRate(Fault.HANG, 0.5), FaultRate(Fault.NAN_REWARD, 1)])

    FaultPlan([FaultRate(Fault.EMPTY_PROBE, 1), FaultRate(Fault.NAN_REWARD, 1), FaultRate(Fault.ENDLESS_CHAIN, 1)])


@pytest.mark.parametrize(
    ("fault", "victims"),
    [
        (Fault.GARBAGE, set(Ask)),
        (Fault.EMPTY_PROBE, {Ask.PROBE, Ask.CONCLUDE}),
        (Fault.HUGE_PROBE, {Ask.PROBE, Ask.CONCLUDE}),
        (Fault.NAN_REWARD, {Ask.JUDGE}),
        (Fault.WILD_REWARD, {Ask.JUDGE}),
        (Fault.HANG_REWARD, {Ask.JUDGE}),
        (Fault.ENDLESS_CHAIN, {Ask.GO_ON}),
    ],
)
def test_a_fault_befalls_only_calls_that_can_fail_so(fault: Fault, victims: set[Ask]) -> None:
    plan = FaultPlan([FaultRate(fault, 1)])

    assert {ask for ask in Ask if plan.draw("p/0/0", ask) is fault} == victims
