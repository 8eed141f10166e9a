"""Type strings: read, written, refused."""

import pickle
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest

from dynasor_serve.certaindex.rules import InvalidRule, Rule, parse_rule, registry, rule_catalogue
from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.static_threshold import StaticThreshold
from dynasor_serve.certaindex.verdict import Verdict, going_on
from dynasor_serve.certaindex.votes import Votes


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("even", "even"),
        ("majority-locked", "majority-locked"),
        ("static-threshold", "static-threshold:threshold=0.7,detect=5"),
        (" static-threshold : detect = 8 ", "static-threshold:threshold=0.7,detect=8"),
        ("static-threshold:threshold=1,detect=8", "static-threshold:threshold=1.0,detect=8"),
        ("n-step-threshold:every=2", "n-step-threshold:threshold=0.7,every=2"),
        ("beta-posterior:confidence=9.5e-1", "beta-posterior:confidence=0.95"),
    ],
)
def test_type_strings_are_read_and_written(written: str, canonical: str) -> None:
    rule = parse_rule(written)
    assert str(rule) == canonical
    assert parse_rule(canonical) == rule
    assert isinstance(rule, Rule)
    assert rule.describe().endswith((".", ")."))


@pytest.mark.parametrize(
    ("written", "field", "told"),
    [
        ("", "rule", "known rules: even"),
        ("evn", "rule", "did you mean 'even'?"),
        ("static_threshold", "rule", "did you mean 'static-threshold'?"),
        ("static-threshold:treshold=0.7", "rule.treshold", "did you mean 'threshold'?"),
        ("even:threshold=0.7", "rule.threshold", "known parameters: none"),
        ("static-threshold:", "rule", "write static-threshold:threshold=0.7,detect=5"),
        ("static-threshold:0.7", "rule", "write static-threshold:threshold=0.7,detect=5"),
        ("static-threshold:threshold=0.7,threshold=0.8", "rule.threshold", "twice"),
        ("static-threshold:threshold=0", "rule.threshold", "a number above 0 and at most 1"),
        ("static-threshold:threshold=70%", "rule.threshold", "70% is not allowed"),
        ("static-threshold:threshold=nan", "rule.threshold", "above 0"),
        ("static-threshold:detect=1", "rule.detect", "a whole number at least 2"),
        ("static-threshold:detect=5.0", "rule.detect", "a whole number"),
        ("beta-posterior:confidence=1", "rule.confidence", "above 0.5 and below 1"),
        ("n-step-threshold:every=0", "rule.every", "at least 1"),
        ("even" * 100, "rule", "256"),
    ],
)
def test_a_wrong_type_string_says_what_would_be_right(written: str, field: str, told: str) -> None:
    with pytest.raises(InvalidRule) as refused:
        parse_rule(written)
    assert refused.value.field == field
    assert told in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_a_rule_built_in_code_is_checked_too() -> None:
    with pytest.raises(InvalidRule, match="threshold"):
        StaticThreshold(threshold=1.5)
    with pytest.raises(InvalidRule, match="detect"):
        StaticThreshold(detect=True)


def test_the_catalogue_documents_every_parameter() -> None:
    catalogue = {entry.name: entry for entry in rule_catalogue()}
    assert {"even", "static-threshold", "n-step-threshold", "beta-posterior", "majority-locked"} <= catalogue.keys()
    assert all(entry.summary.endswith((".", ".")) for entry in catalogue.values())
    assert [each.name for each in catalogue["static-threshold"].parameters] == ["threshold", "detect"]
    threshold = catalogue["static-threshold"].parameters[0]
    assert (threshold.default, threshold.bounds) == (0.7, "a number above 0 and at most 1")
    assert all(each.doc for entry in catalogue.values() for each in entry.parameters)


@dataclass(frozen=True, slots=True)
class Patient(Parameterised):
    """A third party's rule."""

    name: ClassVar[str] = "patient"
    patience: int = parameter(3, minimum=1, maximum=9, doc="samples")

    def verdict(self, votes: Votes) -> Verdict:
        return going_on(f"{votes.finished} samples")

    def describe(self) -> str:
        return "Waits."


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Pretend that packages offer these (name, object) entry points."""
    points = EntryPoints(EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in entries)
    monkeypatch.setattr(registry, "entry_points", points.select)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.value])


def test_a_third_partys_rule_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("patient", "Patient"))
    assert str(parse_rule("patient:patience=4")) == "patient:patience=4"
    assert [entry.name for entry in rule_catalogue()][-1] == "patient"
    with pytest.raises(InvalidRule, match="did you mean 'patient'"):
        parse_rule("pashent")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("broken", "NoSuchObject", "cannot be loaded"),
        ("impatient", "Patient", "is not a rule class of that name"),
        ("odd", "install", "is not a dataclass"),
    ],
)
def test_a_third_partys_broken_rule_is_reported(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    install(monkeypatch, (name, value))
    with pytest.raises(InvalidRule, match=told):
        parse_rule(name)
    with pytest.raises(InvalidRule, match="mend or remove"):
        rule_catalogue()


def test_a_third_party_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("even", "Patient"))
    with pytest.raises(InvalidRule, match="offered twice"):
        rule_catalogue()
