"""Type strings: read, written, refused."""

import pickle
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest

from dynasor_serve.certaindex.rules import (
    ChainRule,
    Evidence,
    InvalidRule,
    Rule,
    VoteRule,
    parse_chain_rule,
    parse_rule,
    parse_vote_rule,
    registry,
    rule_catalogue,
)
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
        ("anytime-mode", "anytime-mode:confidence=0.95"),
        ("unanimous-window", "unanimous-window:window=3"),
        ("length:tokens=900", "length:tokens=900,detect=5"),
        (
            "initial-curve: curve = 0.5 / 8 ; 1/5",
            "initial-curve:detect=5,curve=0.5/8;1.0/5",
        ),
        ("dynamic-curve:curve=.5/8", "dynamic-curve:curve=0.5/8"),
        ("m-of-n", "m-of-n:m=4"),
        ("reward-threshold:mean=0.4", "reward-threshold:max=0.0,mean=0.4,detect=3"),
        ("reward-threshold:max=1,detect=16", "reward-threshold:max=1.0,mean=0.0,detect=16"),
        ("confidence-prune:keep=10", "confidence-prune:warmup=16,keep=10,window=2048"),
        ("consensus-window:window=3,interval=64", "consensus-window:window=3,interval=64,threshold=1.0"),
        ("trial-confidence", "trial-confidence:threshold=0.995,repeats=1,interval=0"),
        (
            "static-threshold:threshold=0.99,detect=3&reward-threshold:mean=0.4",
            "static-threshold:threshold=0.99,detect=3 & reward-threshold:max=0.0,mean=0.4,detect=3",
        ),
        (
            " consensus-window & even ",
            "consensus-window:window=8,interval=512,threshold=1.0 & even",
        ),
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
        ("anytime-mode:confidence=1", "rule.confidence", "above 0.5 and below 1"),
        ("unanimous-window:window=1", "rule.window", "a whole number at least 2"),
        ("length:tokens=0", "rule.tokens", "a whole number at least 1"),
        ("even" * 100, "rule", "256"),
        ("reward-threshold", "rule.max", "give one above 0"),
        ("reward-threshold:detect=2", "rule.max", "neither max nor mean is given"),
        ("reward-threshold:mean=0.4,mean", "rule", "write reward-threshold:max=0.0,mean=0.4,detect=3"),
        ("reward-threshold:max=1.1", "rule.max", "at most 1"),
        ("confidence-prune:keep=100", "rule.keep", "at most 99"),
        ("m-of-n:m=0", "rule.m", "at least 1"),
        ("consensus-window:window=1", "rule.window", "at least 2"),
        ("consensus-window:threshold=0.5", "rule.threshold", "above 0.5"),
        ("trial-confidence:repeats=0", "rule.repeats", "at least 1"),
        ("even & ", "rule", "there is no rule ''"),
        ("even & evn", "rule", "did you mean 'even'?"),
        ("static-threshold & consensus-window", "rule", "consensus-window watches chain; join rules with & that watch"),
        ("confidence-prune & confidence-prune:window=512", "rule", "over 512 and 2048 tokens"),
        (" & ".join(["confidence-prune"] * 8), "rule", "all parameters spelled out, has 389 characters"),
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


def test_the_catalogue_gives_a_type_string_that_works() -> None:
    for entry in rule_catalogue():
        assert str(parse_rule(entry.example)) == entry.example
        assert parse_rule(entry.example).watches == entry.watches


def test_the_catalogue_says_what_each_rule_watches() -> None:
    watches = {entry.name: entry.watches for entry in rule_catalogue()}
    chains = {name for name, watched in watches.items() if Evidence.CHAIN in watched}
    assert chains == {"even", "consensus-window", "trial-confidence", "default"}
    votes = {name for name, watched in watches.items() if Evidence.VOTES in watched}
    assert votes == watches.keys() - chains | {"even", "default"}


@pytest.mark.parametrize("type_string", ["even", "beta-posterior", "even & m-of-n", "confidence-prune"])
def test_a_rule_over_votes_is_parsed_as_one(type_string: str) -> None:
    rule = parse_vote_rule(type_string)
    assert isinstance(rule, VoteRule)
    assert rule == parse_rule(type_string)


@pytest.mark.parametrize("type_string", ["even", "consensus-window", "even & trial-confidence", "even & even"])
def test_a_rule_over_one_chain_is_parsed_as_one(type_string: str) -> None:
    rule = parse_chain_rule(type_string)
    assert isinstance(rule, ChainRule)
    assert str(rule) == str(parse_rule(type_string))


@pytest.mark.parametrize(
    ("type_string", "told"),
    [
        (
            "consensus-window:window=3",
            "consensus-window:window=3 watches one chain; use it with chain-of-thought or iter",
        ),
        ("consensus-window & trial-confidence", "watches one chain"),
        ("even & trial-confidence", "watches one chain"),
        ("trial-confidence", "rules that fit here: even, length, static-threshold, "),
    ],
)
def test_a_rule_over_one_chain_is_refused_for_votes(type_string: str, told: str) -> None:
    with pytest.raises(InvalidRule) as refused:
        parse_vote_rule(type_string)
    assert refused.value.field == "rule"
    assert told in str(refused.value)
    assert "consensus-window" not in refused.value.remedy


@pytest.mark.parametrize("type_string", ["beta-posterior", "even & m-of-n", "m-of-n & confidence-prune"])
def test_a_rule_over_votes_is_refused_for_a_chain(type_string: str) -> None:
    with pytest.raises(InvalidRule) as refused:
        parse_chain_rule(type_string)
    assert "watches votes; use it with self-consistency" in refused.value.problem
    assert refused.value.remedy == "rules that fit here: even, consensus-window, trial-confidence, default"


@dataclass(frozen=True, slots=True)
class Patient(Parameterised):
    """A third party's rule."""

    name: ClassVar[str] = "patient"
    patience: int = parameter(3, minimum=1, maximum=9, doc="samples")

    def verdict(self, votes: Votes) -> Verdict:
        return going_on(f"{votes.finished} samples")

    def describe(self) -> str:
        return "Waits."


@dataclass(frozen=True, slots=True)
class Unready(Patient):
    """A third party's rule over one chain that does not say when to ask."""

    name: ClassVar[str] = "unready"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.CHAIN})


@dataclass(frozen=True, slots=True)
class Blind(Patient):
    """A third party's rule that watches nothing."""

    name: ClassVar[str] = "blind"
    watches: ClassVar[frozenset[Evidence]] = frozenset()


@dataclass
class Restless(Parameterised):
    """A third party's rule that changes while it is used, which all queries of its type string would see."""

    name: ClassVar[str] = "restless"
    patience: int = parameter(3, minimum=1, maximum=9, doc="samples")

    def verdict(self, votes: Votes) -> Verdict:
        self.patience += 1
        return going_on(f"{votes.finished} samples")


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Pretend that packages offer these (name, object) entry points."""
    points = EntryPoints(EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in entries)
    monkeypatch.setattr(registry, "entry_points", points.select)
    monkeypatch.setattr(EntryPoint, "load", lambda entry: globals()[entry.value])


def test_a_third_partys_rule_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("patient", "Patient"))
    assert str(parse_rule("patient:patience=4")) == "patient:patience=4"
    last = rule_catalogue()[-1]
    assert last.name == "patient"
    assert last.watches == {Evidence.VOTES}, "where it does not say"
    assert str(parse_vote_rule("patient & m-of-n:m=2")) == "patient:patience=3 & m-of-n:m=2"
    with pytest.raises(InvalidRule, match="patient watches votes"):
        parse_chain_rule("patient")
    with pytest.raises(InvalidRule, match="did you mean 'patient'"):
        parse_rule("pashent")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("broken", "NoSuchObject", "cannot be loaded"),
        ("impatient", "Patient", "is not a rule class of that name"),
        ("odd", "install", "is not a dataclass"),
        ("restless", "Restless", "is not frozen"),
        ("unready", "Unready", "watches a chain without `certaindex` and `schedule`"),
        ("blind", "Blind", "watches nothing"),
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
