"""The parameters of a rule, declared once: defaults, bounds and documentation for parsing, checks and the catalogue."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from typing import ClassVar, TypeVar

from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.certaindex.rules.step_curve import MAX_POINTS, MAX_SAMPLES, StepCurve

Number = TypeVar("Number", int, float)
Value = float | StepCurve  # of a parameter; a whole number is a float to the types


@dataclass(frozen=True, slots=True)
class Parameter(ABC):
    """One parameter of a rule.

    Attributes:
        name: as written in the type string.
        default: the value when it is left out.
        doc: one line: meaning and unit.
    """

    name: str
    default: Value
    doc: str

    @property
    @abstractmethod
    def bounds(self) -> str:
        """The allowed values in words: `a number above 0 and at most 1`."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float] | None:
        """The least and the most that is allowed or nearly so; None for what is no number."""

    @abstractmethod
    def allows(self, value: object) -> bool:
        """Whether the value is of the right kind and within the bounds."""

    @abstractmethod
    def value_of(self, text: str) -> Value:
        """Return what the text stands for, within the bounds or not.

        Raises:
            ValueError: it stands for nothing of this kind.
        """

    def read(self, text: str) -> Value:
        """Return the value written in a type string.

        Raises:
            InvalidRule: it is nothing of this kind within the bounds.
        """
        try:
            value = self.value_of(text)
        except ValueError:
            raise self.refusal(text) from None
        if not self.allows(value):
            raise self.refusal(text)
        return value

    def written(self, value: Value) -> str:
        """Return an allowed value as `read` takes it, always in the same spelling."""
        return str(value)

    def refusal(self, value: object) -> InvalidRule:
        """Return the error that says what this parameter accepts."""
        return InvalidRule(f"rule.{self.name}", f"{value!s:.40} is not allowed", f"it must be {self.bounds}")


@dataclass(frozen=True, slots=True)
class NumberParameter(Parameter):
    """A number.

    Attributes:
        kind: `int` or `float`.
        minimum, maximum: the bounds, themselves allowed unless `exclusive` names them.
        exclusive: `minimum`, `maximum`, both or none.
    """

    kind: type[int] | type[float]
    minimum: float
    maximum: float
    exclusive: frozenset[str]

    @property
    def bounds(self) -> str:
        """The kind and the bounds."""
        kind = "a whole number" if self.kind is int else "a number"
        low = "above" if "minimum" in self.exclusive else "at least"
        high = "below" if "maximum" in self.exclusive else "at most"
        return f"{kind} {low} {self.minimum:.9g} and {high} {self.maximum:.9g}"

    @property
    def range(self) -> tuple[float, float]:
        """The bounds."""
        return self.minimum, self.maximum

    def allows(self, value: object) -> bool:
        """Whether the value is of the kind, a whole number passing for any, and within the bounds."""
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        if not isfinite(value) or not self.minimum <= value <= self.maximum:
            return False
        return not (
            (value == self.minimum and "minimum" in self.exclusive)
            or (value == self.maximum and "maximum" in self.exclusive)
        )

    def value_of(self, text: str) -> float:
        """Return the number."""
        return self.kind(text)

    def written(self, value: Value) -> str:
        """Return the number in the spelling of its kind: 1.0 for a 1 that may be a fraction."""
        return repr(self.kind(value)) if isinstance(value, int | float) else str(value)


@dataclass(frozen=True, slots=True)
class CurveParameter(Parameter):
    """A falling step curve."""

    @property
    def bounds(self) -> str:
        """The form, with an example, and the bounds."""
        return (
            f"a curve like 0.41/14;0.69/5: an H̃ and the most samples at it or above, H̃ above 0 to 1 and rising, "
            f"samples 1 to {MAX_SAMPLES} and falling, at most {MAX_POINTS} points"
        )

    @property
    def range(self) -> None:
        """A curve has none."""
        return

    def allows(self, value: object) -> bool:
        """Whether it is a curve: one that exists is right."""
        return isinstance(value, StepCurve)

    def value_of(self, text: str) -> StepCurve:
        """Return the curve."""
        return StepCurve.read(text)


def parameter(default: Number, *, minimum: float, maximum: float, exclusive: tuple[str, ...] = (), doc: str) -> Number:
    """Declare a rule's field; its kind is that of the default. See `NumberParameter` for the arguments."""
    declared = NumberParameter("", default, doc, type(default), minimum, maximum, frozenset(exclusive))
    field: Number = dataclasses.field(default=default, metadata={"parameter": declared})
    return field


def curve_parameter(default: StepCurve, *, doc: str) -> StepCurve:
    """Declare a rule's field that holds a curve."""
    field: StepCurve = dataclasses.field(default=default, metadata={"parameter": CurveParameter("", default, doc)})
    return field


def parameters_of(rule: type | object) -> tuple[Parameter, ...]:
    """Return the parameters of a rule or rule class in the order declared.

    Raises:
        TypeError: the class is no frozen dataclass, so that one rule can be for all who ask for it, or one of its
            fields is not declared with one of the functions above.
    """
    if not dataclasses.is_dataclass(rule):
        raise TypeError(f"{rule!r} is not a dataclass; a rule is a frozen dataclass")
    if not getattr(rule, "__dataclass_params__").frozen:  # noqa: B009 - mypy does not know it
        raise TypeError(f"{rule!r} is not frozen; a rule is a frozen dataclass")
    found = []
    for declared in dataclasses.fields(rule):
        if "parameter" not in declared.metadata:
            raise TypeError(f"{rule!r}.{declared.name} is not declared with parameter(...) or curve_parameter(...)")
        found.append(dataclasses.replace(declared.metadata["parameter"], name=declared.name))
    return tuple(found)


def default_type_string(name: str, parameters: Sequence[Parameter]) -> str:
    """Return the type string of a name with all parameters at their defaults."""
    settings = ",".join(f"{each.name}={each.written(each.default)}" for each in parameters)
    return f"{name}:{settings}" if settings else name


def read_settings(settings: str, name: str, parameters: Sequence[Parameter], example: str) -> dict[str, Value]:
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
    values: dict[str, Value] = {}
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
            if isinstance(declared, NumberParameter):
                object.__setattr__(self, declared.name, declared.kind(value))

    def __str__(self) -> str:
        """Return the canonical type string, all parameters spelled out; `parse_rule` reads it back."""
        return _type_string(self)


@lru_cache(maxsize=256)
def _type_string(parameterised: Parameterised) -> str:
    values = ((each, getattr(parameterised, each.name)) for each in parameters_of(parameterised))
    settings = ",".join(f"{each.name}={each.written(value)}" for each, value in values)
    return f"{parameterised.name}:{settings}" if settings else parameterised.name
