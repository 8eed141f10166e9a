"""Rules by their type strings: `static-threshold:threshold=0.7,detect=5`.

A rule of this project is a module beside this one and a line in `_BUILT_IN`. A rule of a third party is an entry point
in the group `dynasor.rules`, named like its type string, that loads to a class like those.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points

from dynasor_serve.certaindex.rules.beta_posterior import BetaPosterior
from dynasor_serve.certaindex.rules.even import Even
from dynasor_serve.certaindex.rules.majority_locked import MajorityLocked
from dynasor_serve.certaindex.rules.n_step_threshold import NStepThreshold
from dynasor_serve.certaindex.rules.parameters import Parameter, parameters_of
from dynasor_serve.certaindex.rules.rule import InvalidRule, Rule
from dynasor_serve.certaindex.rules.static_threshold import StaticThreshold

ENTRY_POINT_GROUP = "dynasor.rules"
MAX_TYPE_STRING_CHARACTERS = 256

_BUILT_IN: tuple[type[Rule], ...] = (
    Even,
    StaticThreshold,
    NStepThreshold,
    BetaPosterior,
    MajorityLocked,
)


@dataclass(frozen=True, slots=True)
class RuleEntry:
    """A rule in the catalogue: its type string, what it does in one line, its parameters in order."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]


def parse_rule(type_string: str) -> Rule:
    """Return the rule of a type string: a name, then optionally `:` and `parameter=value` separated by commas.

    Parameters left out have their defaults. `str` of the rule gives the canonical type string.

    Raises:
        InvalidRule: unknown name or parameter, a value out of bounds, or a malformed string.
    """
    if len(type_string) > MAX_TYPE_STRING_CHARACTERS:
        raise InvalidRule(
            "rule",
            f"the type string has {len(type_string)} characters",
            f"it may have {MAX_TYPE_STRING_CHARACTERS}",
        )
    name, colon, settings = type_string.strip().partition(":")
    rule_class = _rule_class(name.strip())
    known = {each.name: each for each in parameters_of(rule_class)}
    values: dict[str, float] = {}
    for setting in settings.split(",") if colon else ():
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise InvalidRule("rule", f"{setting.strip()!r} is not a setting", f"write {_pattern(name, known)}")
        if key not in known:
            raise InvalidRule(f"rule.{key}", f"{name} has no such parameter", _known("parameters", key, known))
        if key in values:
            raise InvalidRule(f"rule.{key}", "it is given twice", "give it once")
        values[key] = known[key].read(value)
    return rule_class(**values)


def rule_catalogue() -> tuple[RuleEntry, ...]:
    """Return every rule that can be parsed: this project's, then those of installed packages, sorted by name.

    Raises:
        InvalidRule: an installed package offers a rule that cannot be loaded.
    """
    third_party = (_load(name) for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names))
    return tuple(
        RuleEntry(rule.name, (rule.__doc__ or "").strip().partition("\n")[0], parameters_of(rule))
        for rule in (*_BUILT_IN, *third_party)
    )


def _rule_class(name: str) -> type[Rule]:
    for rule in _BUILT_IN:
        if rule.name == name:
            return rule
    offered = entry_points(group=ENTRY_POINT_GROUP).names
    if name in offered:
        return _load(name)
    names = [*(rule.name for rule in _BUILT_IN), *sorted(offered)]
    raise InvalidRule("rule", f"there is no rule {name!r}", _known("rules", name, names))


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
    return rule


def _known(what: str, wrong: str, names: "dict[str, Parameter] | list[str]") -> str:
    close = get_close_matches(wrong, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known {what}: {', '.join(names) or 'none'}"


def _pattern(name: str, known: dict[str, Parameter]) -> str:
    settings = ",".join(f"{each.name}={each.default!r}" for each in known.values())
    return f"{name}:{settings}" if settings else name
