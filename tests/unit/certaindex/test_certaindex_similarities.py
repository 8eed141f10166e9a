"""When two free texts say the same."""

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, canonical, extract
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.certaindex.similarities import parse_similarity, registry, similarity_names

TEXTS = st.text(max_size=80)


@dataclass(frozen=True, slots=True)
class SameLength:
    """Takes texts for the same that are as long."""

    name: ClassVar[str] = "same-length"
    slack: int = parameter(0, minimum=0, maximum=10, doc="characters")

    def says_same(self, left: str, right: str) -> bool:
        return abs(len(left) - len(right)) <= self.slack


@pytest.mark.parametrize(
    ("type_string", "left", "right", "same"),
    [
        ("", "red and blue", "blue and red", True),
        ("token-set", "red and blue", "red or green", False),
        ("token-set:threshold=0.5", "a b c d", "a b c e", True),
        ("edit-ratio", "the eiffel tower", "the eifel tower", True),
        ("edit-ratio", "red and blue", "blue and red", False),
        ("edit-ratio:threshold=1", "red", "red", True),
        ("token-set:threshold=1", "red", "reed", False),
    ],
)
def test_texts_that_say_the_same(type_string: str, left: str, right: str, same: bool) -> None:
    assert parse_similarity(type_string).says_same(left, right) is same


@given(TEXTS, TEXTS, st.sampled_from(["token-set", "edit-ratio", "edit-ratio:threshold=0.5"]))
def test_similarities_are_reflexive_and_symmetric(left: str, right: str, type_string: str) -> None:
    similarity = parse_similarity(type_string)
    assert similarity.says_same(left, left)
    assert similarity.says_same(left, right) is similarity.says_same(right, left)


@pytest.mark.parametrize(
    ("type_string", "problem"),
    [
        ("telepathy", "there is no similarity 'telepathy'"),
        ("token-set:threshold=0", "must be a number above 0"),
        ("token-set:limit=1", "limit"),
        ("token-set:" + "x" * 300, "characters"),
    ],
)
def test_a_wrong_type_string_is_refused(type_string: str, problem: str) -> None:
    with pytest.raises(InvalidRule, match=re.escape(problem)):
        parse_similarity(type_string)


def offering(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **select: EntryPoints(entries).select(**select))


def test_an_installed_package_offers_one(monkeypatch: pytest.MonkeyPatch) -> None:
    offering(monkeypatch, EntryPoint("same-length", f"{__name__}:SameLength", registry.ENTRY_POINT_GROUP))
    monkeypatch.setattr(EntryPoint, "load", lambda _: SameLength)
    registry.parse_similarity.cache_clear()
    assert "same-length" in similarity_names()
    assert parse_similarity("same-length:slack=1").says_same("abc", "abcd")
    registry.parse_similarity.cache_clear()


@pytest.mark.parametrize(
    "offered", ["no_such_module:Thing", "dynasor_serve.certaindex.entropy:NoSuchClass", "re:Pattern"]
)
def test_a_package_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, offered: str) -> None:
    offering(monkeypatch, EntryPoint("broken", offered, registry.ENTRY_POINT_GROUP))
    with pytest.raises(InvalidRule, match=re.escape(offered)):
        parse_similarity("broken")


def test_free_text_is_asked_about() -> None:
    clusters = AnswerClusters.empty(AnswerType.FREE_TEXT).add("Red and blue.").add("red  AND blue").add("Blue and red")
    assert clusters.labels == (0, 0, 1)
    assert clusters.questions() == (("red and blue", "blue and red"),)


def test_free_text_is_all_that_is_said() -> None:
    assert extract("<think>hm</think>\nOne line.\nAnother.", AnswerType.FREE_TEXT) == "One line.\nAnother."
    assert extract("Well. The answer is: money.", AnswerType.FREE_TEXT) == "money."
    assert canonical("  ", AnswerType.FREE_TEXT).key == ""
