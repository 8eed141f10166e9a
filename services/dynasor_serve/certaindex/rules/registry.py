"""Rules by their type strings: `static-threshold:threshold=0.7,detect=5`, and several joined by `&`.

A rule of this project is a module beside this one and a line in `_BUILT_IN`. A rule of a third party is an entry point
in the group `dynasor.rules`, named like its type string, that loads to a class like those; it watches votes where it
does not say.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import cast

from dynasor_serve.certaindex.rules.anytime_mode import AnytimeMode
from dynasor_serve.certaindex.rules.beta_posterior import BetaPosterior
from dynasor_serve.certaindex.rules.confidence_prune import ConfidencePrune
from dynasor_serve.certaindex.rules.conjunction import SEPARATOR, ChainConjunction, VoteConjunction
from dynasor_serve.certaindex.rules.consensus_window import ConsensusWindow
from dynasor_serve.certaindex.rules.default import Default
from dynasor_serve.certaindex.rules.dynamic_curve import DynamicCurve
from dynasor_serve.certaindex.rules.even import Even
from dynasor_serve.certaindex.rules.initial_curve import InitialCurve
from dynasor_serve.certaindex.rules.length import Length
from dynasor_serve.certaindex.rules.m_of_n import MOfN
from dynasor_serve.certaindex.rules.majority_locked import MajorityLocked
from dynasor_serve.certaindex.rules.n_step_threshold import NStepThreshold
from dynasor_serve.certaindex.rules.parameters import (
    Parameter,
    default_type_string,
    names_known,
    parameters_of,
    read_settings,
)
from dynasor_serve.certaindex.rules.reward_threshold import RewardThreshold
from dynasor_serve.certaindex.rules.risk_controlled import RiskControlled
from dynasor_serve.certaindex.rules.rule import ChainRule, Evidence, InvalidRule, Rule, VoteRule
from dynasor_serve.certaindex.rules.static_threshold import StaticThreshold
from dynasor_serve.certaindex.rules.trial_confidence import TrialConfidence
from dynasor_serve.certaindex.rules.unanimous_window import UnanimousWindow

ENTRY_POINT_GROUP = "dynasor.rules"
MAX_TYPE_STRING_CHARACTERS = 256

_BUILT_IN: tuple[type[Rule], ...] = (
    Even,
    Length,
    StaticThreshold,
    NStepThreshold,
    InitialCurve,
    DynamicCurve,
    BetaPosterior,
    AnytimeMode,
    UnanimousWindow,
    MajorityLocked,
    MOfN,
    RiskControlled,
    RewardThreshold,
    ConfidencePrune,
    ConsensusWindow,
    TrialConfidence,
    Default,
)

_VOTES = frozenset({Evidence.VOTES})
_WHERE = {
    Evidence.VOTES: "watches votes; use it with self-consistency, best-of-n, rebase or mcts",
    Evidence.CHAIN: "watches one chain; use it with chain-of-thought or iterative-cot, or for the chains of a vote",
}


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """A rule in the catalogue.

    Attributes:
        name: its type string.
        summary: what it does, in one line.
        watches: the kinds of evidence that it takes.
        parameters: in order.
        example: a type string that `parse_rule` takes, with all parameters and their defaults; where these alone
            make no rule, the class's own `example`.
    """

    name: str
    summary: str
    watches: frozenset[Evidence]
    parameters: tuple[Parameter, ...]
    example: str


def parse_rule(type_string: str) -> Rule:
    """Return the rule of a type string: a name, then optionally `:` and `parameter=value` separated by commas.

    Parameters left out have their defaults. Several rules joined by `&` are one that is certain only if all of them
    are. `str` of the rule gives the canonical type string.

    Raises:
        InvalidRule: unknown name or parameter, a value out of bounds, parts that watch different evidence, or a
            malformed string.
    """
    return _parse(type_string, Evidence.VOTES)


def parse_vote_rule(type_string: str) -> VoteRule:
    """Return the rule over votes of a type string; see `parse_rule`.

    Raises:
        InvalidRule: as `parse_rule`, and for a rule that does not watch votes.
    """
    return cast(VoteRule, _parse_for(type_string, Evidence.VOTES))


def parse_chain_rule(type_string: str) -> ChainRule:
    """Return the rule over one chain of a type string; see `parse_rule`.

    Raises:
        InvalidRule: as `parse_rule`, and for a rule that does not watch a chain.
    """
    return cast(ChainRule, _parse_for(type_string, Evidence.CHAIN))


def rule_catalogue() -> tuple[RuleEntry, ...]:
    """Return every rule that can be parsed: this project's, then those of installed packages, sorted by name.

    Raises:
        InvalidRule: an installed package offers a rule that cannot be loaded.
    """
    third_party = (_load(name) for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names))
    return tuple(
        RuleEntry(
            name=rule.name,
            summary=(rule.__doc__ or "").strip().partition("\n")[0],
            watches=_watches(rule),
            parameters=parameters_of(rule),
            example=_example(rule),
        )
        for rule in (*_BUILT_IN, *third_party)
    )


@lru_cache(maxsize=256)
def _parse(type_string: str, preferred: Evidence) -> Rule:
    _check_length(type_string, "the type string")
    parts = [_parse_one(part) for part in type_string.split(SEPARATOR)]
    rule = parts[0] if len(parts) == 1 else _conjunction(parts, preferred)
    _check_length(str(rule), "the type string, all parameters spelled out,")  # that is what is stored and read back
    return rule


def _parse_one(type_string: str) -> Rule:
    name, colon, settings = type_string.strip().partition(":")
    rule_class = _rule_class(name.strip())
    values = read_settings(settings, rule_class.name, parameters_of(rule_class), _example(rule_class)) if colon else {}
    return rule_class(**values)


def _conjunction(parts: list[Rule], preferred: Evidence) -> Rule:
    """Join rules over the kind of evidence that all of them watch, the preferred one if they watch both."""
    shared = frozenset(Evidence).intersection(*map(_watches, parts))
    if not shared:
        problem = ", ".join(f"{part.name} watches {' and '.join(sorted(_watches(part)))}" for part in parts)
        raise InvalidRule("rule", problem, f"join rules with {SEPARATOR} that watch the same")
    if (preferred if preferred in shared else min(shared)) is Evidence.VOTES:
        return VoteConjunction(tuple(cast(VoteRule, part) for part in parts))
    return ChainConjunction(tuple(cast(ChainRule, part) for part in parts))


def _parse_for(type_string: str, evidence: Evidence) -> Rule:
    rule = _parse(type_string, evidence)
    if evidence in _watches(rule):
        return rule
    (watched,) = _watches(rule)
    fitting = ", ".join(entry.name for entry in rule_catalogue() if evidence in entry.watches)
    raise InvalidRule("rule", f"{type_string.strip()} {_WHERE[watched]}", f"rules that fit here: {fitting}")


def _watches(rule: Rule | type[Rule]) -> frozenset[Evidence]:
    return getattr(rule, "watches", _VOTES)


def _check_length(type_string: str, what: str) -> None:
    if len(type_string) > MAX_TYPE_STRING_CHARACTERS:
        problem = f"{what} has {len(type_string)} characters"
        raise InvalidRule("rule", problem, f"it may have {MAX_TYPE_STRING_CHARACTERS}")


def _rule_class(name: str) -> type[Rule]:
    for rule in _BUILT_IN:
        if rule.name == name:
            return rule
    offered = entry_points(group=ENTRY_POINT_GROUP).names
    if name in offered:
        return _load(name)
    names = [*(rule.name for rule in _BUILT_IN), *sorted(offered)]
    raise InvalidRule("rule", f"there is no rule {name!r}", names_known("known rules", name, names))


def _load(name: str) -> type[Rule]:
    (entry, *others) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    remedy = f"mend or remove the package that offers it ({entry.value})"
    if others or any(rule.name == name for rule in _BUILT_IN):
        raise InvalidRule("rule", f"{name!r} is offered twice", remedy)
    try:
        rule = entry.load()
        parameters_of(rule)
    except Exception as error:  # whatever a third party's import raises
        raise InvalidRule("rule", f"{name!r} cannot be loaded: {error}", remedy) from error
    if not (isinstance(rule, type) and getattr(rule, "name", None) == name and hasattr(rule, "verdict")):
        raise InvalidRule("rule", f"{name!r} is not a rule class of that name", remedy)
    watched = _watches(rule)
    if not watched or not watched <= frozenset(Evidence):
        raise InvalidRule("rule", f"{name!r} watches {set(watched) or 'nothing'}", remedy)
    if Evidence.CHAIN in watched and not (hasattr(rule, "certaindex") and hasattr(rule, "schedule")):
        raise InvalidRule("rule", f"{name!r} watches a chain without `certaindex` and `schedule`", remedy)
    return rule


def _example(rule: type[Rule]) -> str:
    """Return the rule's own example, where its defaults alone make none, else the canonical type string of these."""
    if hasattr(rule, "example"):
        return str(rule.example)
    return default_type_string(rule.name, parameters_of(rule))
