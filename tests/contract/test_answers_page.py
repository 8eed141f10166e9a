"""docs/answers.md is right: what it calls equal is equal, and what it calls unequal is not."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from dynasor_serve.certaindex.answers import AnswerType, canonical, equal_by_keys
from dynasor_serve.certaindex.rules.parameters import default_type_string, parameters_of
from dynasor_serve.certaindex.similarities import parse_similarity, similarity_names
from dynasor_serve.evaluator.equality_worker import decide

PAGE = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()
CODE = r"`[^`]+`"
MATHEMATICS = PAGE.partition("## Mathematics")[2].partition("## Free text")[0].replace(r"\|", "|")
EQUAL = [
    pair
    for chain in re.findall(rf"{CODE}(?: = {CODE})+", MATHEMATICS)
    for pair in pairwise(re.findall(r"`([^`]+)`", chain))
]
UNEQUAL = [pair for line in MATHEMATICS.splitlines() for pair in re.findall(r"`([^`]+)` (?:and|≠) `([^`]+)`", line)]


def are_equal(left: str, right: str) -> bool:
    first, second = (canonical(answer, AnswerType.MATH) for answer in (left, right))
    known = equal_by_keys(first.key, second.key)
    return bool(decide(first.key, second.key) if known is None else known)


@pytest.mark.parametrize(("left", "right"), EQUAL)
def test_what_the_page_calls_equal(left: str, right: str) -> None:
    assert are_equal(left, right)


@pytest.mark.parametrize(("left", "right"), UNEQUAL)
def test_what_the_page_calls_unequal(left: str, right: str) -> None:
    assert not are_equal(left, right)


def test_the_page_has_examples_and_every_type_and_similarity() -> None:
    assert len(EQUAL) > 30
    assert len(UNEQUAL) > 8
    assert [each for each in AnswerType if f"| `{each}` |" not in PAGE] == []
    missing = [name for name in similarity_names() if f"`{str_of(name)}`" not in PAGE]
    assert not missing


def str_of(name: str) -> str:
    """The type string with its defaults spelled out."""
    return default_type_string(name, parameters_of(parse_similarity(name)))
