"""The parameters of a rule, declared once: defaults, bounds and documentation for parsing, checks and the catalogue."""

import dataclasses
from dataclasses import dataclass
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
