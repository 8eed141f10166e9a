"""The parameters of a rule, declared once: defaults, bounds and documentation for parsing, checks and the catalogue."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import ClassVar, TypeVar

from dynasor_serve.certaindex.rules.rule import InvalidRule

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a rule.

    Attributes:
        name: as written in the type string.
        kind: `int` or `float`.
        default: the value when it is left out.
        minimum, maximum: the bounds, themselves allowed unless `exclusive` names them.
        exclusive: `minimum`, `maximum`, both or none.
        doc: one line: meaning and unit.
    """

    name: str
    kind: type[int] | type[float]
    default: float
    minimum: float
    maximum: float
    exclusive: frozenset[str]
    doc: str

    @property
    def bounds(self) -> str:
        """The allowed values in words: `a number above 0 and at most 1`."""
        kind = "a whole number" if self.kind is int else "a number"
        low = "above" if "minimum" in self.exclusive else "at least"
        high = "below" if "maximum" in self.exclusive else "at most"
        return f"{kind} {low} {self.minimum:g} and {high} {self.maximum:g}"

    def allows(self, value: float) -> bool:
        """Whether the value is of the right kind and within the bounds."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole and (self.kind is int or not isinstance(value, float)):
            return False
        if not isfinite(value) or not self.minimum <= value <= self.maximum:
            return False
        return not (
            (value == self.minimum and "minimum" in self.exclusive)
            or (value == self.maximum and "maximum" in self.exclusive)
        )

    def read(self, text: str) -> float:
        """Return the value written in a type string.

        Raises:
            InvalidRule: it is not a number of this kind within the bounds.
        """
        try:
            value: float = int(text) if self.kind is int else float(text)
        except ValueError:
            raise self.refusal(text) from None
        if not self.allows(value):
            raise self.refusal(text)
        return value

    def refusal(self, value: object) -> InvalidRule:
        """Return the error that says what this parameter accepts."""
        return InvalidRule(f"rule.{self.name}", f"{value!s:.40} is not allowed", f"it must be {self.bounds}")


def parameter(default: Number, *, minimum: float, maximum: float, exclusive: tuple[str, ...] = (), doc: str) -> Number:
    """Declare a rule's field; its kind is that of the default. See `Parameter` for the arguments."""
    declared = Parameter("", type(default), default, minimum, maximum, frozenset(exclusive), doc)
    field: Number = dataclasses.field(default=default, metadata={"parameter": declared})
    return field


def parameters_of(rule: type | object) -> tuple[Parameter, ...]:
    """Return the parameters of a rule or rule class in the order declared.

    Raises:
        TypeError: the class is no dataclass, or one of its fields is not declared with `parameter`.
    """
    if not dataclasses.is_dataclass(rule):
        raise TypeError(f"{rule!r} is not a dataclass; a rule is a frozen dataclass")
    found = []
    for declared in dataclasses.fields(rule):
        if "parameter" not in declared.metadata:
            raise TypeError(f"{rule!r}.{declared.name} is not declared with parameter(...)")
        found.append(dataclasses.replace(declared.metadata["parameter"], name=declared.name))
    return tuple(found)


def default_type_string(name: str, parameters: Sequence[Parameter]) -> str:
    """Return the type string of a name with all parameters at their defaults."""
    settings = ",".join(f"{each.name}={each.default!r}" for each in parameters)
    return f"{name}:{settings}" if settings else name


def read_settings(settings: str, name: str, parameters: Sequence[Parameter], example: str) -> dict[str, float]:
    """Return the values of `parameter=value` separated by commas; what is left out is not in it.

    Args:
        settings: what stands behind the colon of a type string.
        name: what stands before it.
        parameters: those that the name takes.
        example: a type string that would be right.

    Raises:
        InvalidRule: an unknown parameter, one given twice, a value out of bounds, or what is no setting.
    """
    known = {each.name: each for each in parameters}
    values: dict[str, float] = {}
    for setting in settings.split(","):
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not key:
            raise InvalidRule("rule", f"{setting.strip()!r} is not a setting", f"write {example}")
        if key not in known:
            remedy = names_known("known parameters", key, list(known))
            raise InvalidRule(f"rule.{key}", f"{name} has no such parameter", remedy)
        if key in values:
            raise InvalidRule(f"rule.{key}", "it is given twice", "give it once")
        values[key] = known[key].read(value)
    return values


def names_known(what: str, wrong: str, names: Sequence[str]) -> str:
    """Return the remedy for a name that is not known: the one that may be meant, then all of them."""
    close = get_close_matches(wrong, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}{what}: {', '.join(names) or 'none'}"


class Parameterised:
    """What every rule shares: checked parameters, and its own type string as `str`."""

    __slots__ = ()
    name: ClassVar[str]

    def __post_init__(self) -> None:
        for declared in parameters_of(self):
            value = getattr(self, declared.name)
            if not declared.allows(value):
                raise declared.refusal(value)
            object.__setattr__(self, declared.name, declared.kind(value))

    def __str__(self) -> str:
        """Return the canonical type string, all parameters spelled out; `parse_rule` reads it back."""
        settings = ",".join(f"{each.name}={getattr(self, each.name)!r}" for each in parameters_of(self))
        return f"{self.name}:{settings}" if settings else self.name
