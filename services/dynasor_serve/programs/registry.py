"""Algorithms by their type strings: `self-consistency:max_samples=16,width=4`.

An algorithm of this project is a module beside this one and a line in `_BUILT_IN`. One of a third party is an entry
point in the group `dynasor.algorithms`, named like its type string, that loads to a class like those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points

from dynasor_serve.certaindex.rules.parameters import (
    Parameter,
    default_type_string,
    names_known,
    parameters_of,
    read_settings,
)
from dynasor_serve.certaindex.rules.rule import Evidence, InvalidRule
from dynasor_serve.programs.algorithm import AlgorithmParameters
from dynasor_serve.programs.best_of_n import BestOfNParameters
from dynasor_serve.programs.chain_of_thought import ChainOfThoughtParameters
from dynasor_serve.programs.iterative_cot import IterativeCotParameters
from dynasor_serve.programs.mcts import MctsParameters
from dynasor_serve.programs.query import InvalidQuery
from dynasor_serve.programs.rebase import RebaseParameters
from dynasor_serve.programs.self_consistency import SelfConsistencyParameters

ENTRY_POINT_GROUP = "dynasor.algorithms"
MAX_TYPE_STRING_CHARACTERS = 256

_BUILT_IN: tuple[type[AlgorithmParameters], ...] = (
    SelfConsistencyParameters,
    ChainOfThoughtParameters,
    IterativeCotParameters,
    BestOfNParameters,
    RebaseParameters,
    MctsParameters,
)


@dataclass(frozen=True, slots=True)
class AlgorithmEntry:
    """An algorithm in the catalogue."""

    name: str
    summary: str
    knob: str
    watches: Evidence
    default_rule: str  # empty: the server's default
    parameters: tuple[Parameter, ...]
    type_string: str  # with all parameters at their defaults


@lru_cache(maxsize=256)
def parse_algorithm(type_string: str) -> AlgorithmParameters:
    """The parameters of a type string: a name, then optionally `:` and `parameter=value` separated by commas.

    Parameters left out have their defaults. `str` of the result gives the canonical type string.

    Raises:
        InvalidQuery: unknown name or parameter, a value out of bounds, or a malformed string.
    """
    if len(type_string) > MAX_TYPE_STRING_CHARACTERS:
        wrong = f"the type string has {len(type_string)} characters"
        raise InvalidQuery("algorithm", wrong, f"it may have {MAX_TYPE_STRING_CHARACTERS}")
    name, colon, settings = type_string.strip().partition(":")
    algorithm = _algorithm(name.strip())
    try:
        parameters = parameters_of(algorithm)
        example = default_type_string(algorithm.name, parameters)
        values = read_settings(settings, algorithm.name, parameters, example) if colon else {}
    except InvalidRule as error:  # the words are the same, the field is not
        field = error.field.replace("rule", "algorithm", 1)
        raise InvalidQuery(field, error.problem, error.remedy) from error
    return algorithm(**values)


def algorithm_catalogue() -> tuple[AlgorithmEntry, ...]:
    """Every algorithm that can be parsed: this project's, then those of installed packages, by name.

    Raises:
        InvalidQuery: an installed package offers an algorithm that cannot be loaded.
    """
    third_party = (_loaded(name) for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names))
    return tuple(
        AlgorithmEntry(
            name=algorithm.name,
            summary=(algorithm.__doc__ or "").strip().partition("\n")[0],
            knob=algorithm.knob,
            watches=algorithm.watches,
            default_rule=algorithm.default_rule,
            parameters=parameters_of(algorithm),
            type_string=default_type_string(algorithm.name, parameters_of(algorithm)),
        )
        for algorithm in (*_BUILT_IN, *third_party)
    )


def _algorithm(name: str) -> type[AlgorithmParameters]:
    for algorithm in _BUILT_IN:
        if algorithm.name == name:
            return algorithm
    offered = entry_points(group=ENTRY_POINT_GROUP).names
    if name in offered:
        return _loaded(name)
    names = [*(algorithm.name for algorithm in _BUILT_IN), *sorted(offered)]
    raise InvalidQuery("algorithm", f"there is none called {name!r:.60}", names_known("known are", name, names))


def _loaded(name: str) -> type[AlgorithmParameters]:
    (entry, *others) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    remedy = f"mend or remove the package that offers it ({entry.value})"
    if others or any(algorithm.name == name for algorithm in _BUILT_IN):
        raise InvalidQuery("algorithm", f"{name!r} is offered twice", remedy)
    try:
        algorithm = entry.load()
        parameters_of(algorithm)
    except Exception as error:  # whatever a third party's import raises
        raise InvalidQuery("algorithm", f"{name!r} cannot be loaded: {error}", remedy) from error
    if not (isinstance(algorithm, type) and issubclass(algorithm, AlgorithmParameters) and algorithm.name == name):
        raise InvalidQuery("algorithm", f"{name!r} is not an algorithm of that name", remedy)
    return algorithm
