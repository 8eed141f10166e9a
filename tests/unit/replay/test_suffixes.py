"""What is asked behind a text: the questions that programs really ask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.rules.registry import parse_chain_rule
from dynasor_serve.engines.replay.suffixes import GO_ON, Ask, Question, read_own, readings
from dynasor_serve.programs.chain import Chain, ChainShape
from dynasor_serve.programs.probe_prompts import BUILT_IN
from dynasor_serve.programs.query import ProbeParameters, RewardParameters
from dynasor_serve.programs.rewards import reward_call

CLOSED = "\n</think>\n\n"


def asked_behind(text: str, suffix: str) -> Question:
    """The question that stands exactly behind a text."""
    return next(question for said, question in readings(text + suffix) if said == text)


def conclusion() -> str:
    """What a chain that ran out of tokens is really asked."""
    shape = ChainShape(parse_chain_rule("trial-confidence:threshold=0.9"), ProbeParameters(), 100, 20)
    return Chain.start(shape, AnswerType.NUMBER).cut().concluding_call().suffix


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("text", ["", "Then x = 7.", "Then x = 7.\n", "Then x = 7.\n\n"])
@pytest.mark.parametrize("closed", ["", CLOSED])
def test_built_in_probes_are_told_from_the_text_whatever_it_ends_with(name: str, text: str, closed: str) -> None:
    assert asked_behind(text, closed + BUILT_IN[name].suffix) == Question(Ask.PROBE, opened_box=True)


@pytest.mark.parametrize("closed", ["", CLOSED])
def test_the_conclusion_of_a_chain_is_known(closed: str) -> None:
    assert asked_behind("Then x = 7.", closed + conclusion()) == Question(Ask.CONCLUDE, opened_box=True)
    stated = "The final answer is \\boxed{\\frac{1}{2}}.\n\n"
    assert asked_behind("Then", closed + stated) == Question(Ask.CONCLUDE, stated="\\frac{1}{2}")


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("closed", ["", CLOSED])
def test_the_judgement_of_a_path_is_known(is_complete: bool, closed: str) -> None:
    suffix = reward_call(RewardParameters(), "Then x = 7.", is_complete=is_complete).suffix

    assert asked_behind("Then x = 7.", closed + suffix) == Question(Ask.JUDGE)


@given(text=st.text(max_size=60))
def test_the_first_reading_asks_nothing_and_longer_questions_come_later(text: str) -> None:
    said = [reading.said for reading in readings(text + BUILT_IN["deer"].suffix)]

    assert next(readings(text)) == (text, GO_ON)
    assert said == sorted(said, key=len, reverse=True)


@pytest.mark.parametrize(
    ("suffix", "question"),
    [
        ("", GO_ON),
        (" So far: ", Question(Ask.PROBE)),
        ("\nMy answer: $\\boxed{ ", Question(Ask.PROBE, opened_box=True)),
        ("\n</think>\n\nSo: \\fbox{", Question(Ask.CONCLUDE, opened_box=True)),
        ("</think>", Question(Ask.CONCLUDE)),
    ],
)
def test_a_question_of_a_users_own_is_read_by_how_it_ends(suffix: str, question: Question) -> None:
    assert read_own(suffix) == question
