"""From type strings to algorithms: ours, and those of other packages."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.programs import registry
from dynasor_serve.programs.algorithm import Algorithm, AlgorithmParameters
from dynasor_serve.programs.query import InvalidQuery, Query
from dynasor_serve.programs.registry import ENTRY_POINT_GROUP, algorithm_catalogue, parse_algorithm
from dynasor_serve.programs.self_consistency import SelfConsistencyParameters
from unit.programs.lives import asked

SIX = {"self-consistency", "chain-of-thought", "iterative-cot", "best-of-n", "rebase", "mcts"}


@dataclass(frozen=True, slots=True)
class TwiceAsMany(AlgorithmParameters):
    """Samples twice as many answers: an algorithm of somebody else, in one class."""

    name: ClassVar[str] = "twice-as-many"
    knob: ClassVar[str] = "samples"
    watches: ClassVar[Evidence] = Evidence.VOTES
    half: int = parameter(2, minimum=1, maximum=8, doc="half of the samples")

    def start(self, query: Query) -> Algorithm:
        return SelfConsistencyParameters(max_samples=2 * self.half).start(query)


@pytest.fixture
def another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoints(
        [
            EntryPoint("twice-as-many", f"{__name__}:TwiceAsMany", ENTRY_POINT_GROUP),
            EntryPoint("broken", "no.such.module:Algorithm", ENTRY_POINT_GROUP),
            EntryPoint("no-algorithm", "builtins:dict", ENTRY_POINT_GROUP),
            EntryPoint("rebase", f"{__name__}:TwiceAsMany", ENTRY_POINT_GROUP),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", offered.select)
    parse_algorithm.cache_clear()


def test_all_six_are_listed_with_knobs_and_parameters() -> None:
    catalogue = {entry.name: entry for entry in algorithm_catalogue()}
    assert catalogue.keys() == SIX
    for entry in catalogue.values():
        assert entry.knob
        assert entry.summary
        assert entry.parameters


@pytest.mark.parametrize("name", sorted(SIX))
def test_the_canonical_string_is_read_back(name: str) -> None:
    parameters = parse_algorithm(name)
    assert parse_algorithm(str(parameters)) == parameters


def test_an_algorithm_of_another_package_is_one_class(another_package: None) -> None:
    parameters = parse_algorithm("twice-as-many:half=3")
    assert parameters.start(asked("twice-as-many:half=3", source=None).query).cap == 6


@pytest.mark.parametrize(
    ("name", "words"),
    [("broken", "cannot be loaded"), ("no-algorithm", "cannot be loaded|is not an algorithm")],
)
def test_a_broken_package_is_named(another_package: None, name: str, words: str) -> None:
    with pytest.raises(InvalidQuery, match=words):
        parse_algorithm(name)


@pytest.mark.parametrize(
    ("type_string", "field", "words"),
    [
        ("", "algorithm", "there is none called ''"),
        ("rebas", "algorithm", "did you mean 'rebase'"),
        ("mcts:rollouts", "algorithm", "is not a setting"),
        ("mcts:rollout=3", "algorithm.rollout", "did you mean 'rollouts'"),
        ("mcts:rollouts=3,rollouts=4", "algorithm.rollouts", "given twice"),
        ("mcts:rollouts=nan", "algorithm.rollouts", "must be a whole number"),
        ("mcts:exploration=nan", "algorithm.exploration", "must be a number"),
        ("mcts:rollouts=1e3", "algorithm.rollouts", "must be a whole number"),
        ("rebase:width=" + "9" * 300, "algorithm", "characters"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(type_string: str, field: str, words: str) -> None:
    with pytest.raises(InvalidQuery, match=words) as error:
        parse_algorithm(type_string)
    assert error.value.field == field


@given(st.text(max_size=300))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(InvalidQuery):
        parse_algorithm(text)
