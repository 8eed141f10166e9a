"""Hostile texts, thousands of them: whoever reads answers raises nothing, keeps to its bounds and does not hang."""

import os

import pytest

from dynasor_serve.certaindex.answers import (
    AnswerType,
    canonical,
    equal_by_keys,
    extract,
    extract_announced,
    extract_in_open_box,
)
from dynasor_serve.certaindex.answers.canonical import MAX_KEY_CHARACTERS
from dynasor_serve.certaindex.answers.code import MAX_CODE_CHARACTERS
from dynasor_serve.certaindex.answers.extraction import MAX_ANSWER_CHARACTERS

from fakes.hostile_answers import hostile_answers

INPUTS = int(os.environ.get("DYNASOR_FUZZ_INPUTS", "2000"))
MEGABYTES = 10
LONGEST = (MAX_ANSWER_CHARACTERS, 16_000)  # a program is never cut, but for the tail that is read
SEED = 20250601


def check_form(text: str, answer_type: AnswerType) -> None:
    form = canonical(text, answer_type)
    assert len(form.key) <= (MAX_CODE_CHARACTERS if answer_type is AnswerType.CODE else MAX_KEY_CHARACTERS)
    if answer_type is AnswerType.MATH:
        # The evaluator reads keys. One that is cut equals its copies only, and need not mean anything.
        is_whole = len(text) <= MAX_KEY_CHARACTERS and "…" not in form.key
        assert not (form.decided and form.key and is_whole) or canonical(form.key, answer_type) == form
    for answer in (
        extract(text, answer_type),
        extract_announced(text, answer_type),
        extract_in_open_box(text, answer_type),
    ):
        assert answer is None or 0 < len(answer) <= LONGEST[answer_type is AnswerType.CODE]


@pytest.mark.fuzz
@pytest.mark.timeout(30 + INPUTS // 20)
def test_answers_are_read_whatever_they_are() -> None:
    before = "1"
    for number, text in enumerate(hostile_answers(SEED, INPUTS)):
        try:
            for answer_type in AnswerType:
                check_form(text, answer_type)
            key = canonical(text, AnswerType.MATH).key
            if key:
                assert equal_by_keys(key, key) is True
                assert equal_by_keys(key, before) is equal_by_keys(before, key)
                before = key
        except BaseException as error:
            error.add_note(f"input {number} of seed {SEED}: {text[:200]!r} ({len(text)} characters)")
            raise


@pytest.mark.fuzz
@pytest.mark.parametrize("answer_type", AnswerType)
@pytest.mark.parametrize(
    "piece",
    ["{", "}", "(", "\\{", r"\frac{", r"\boxed{", r"\text{", "1,", "1;", r"\pm", r"\cup", "<", "A,", "$", "#### 1\n",
     "answer is ", "<think>", "9^", "²", "\ufdfa", "\ud800", "\x00", " ", "\n", r"\begin{pmatrix}", "&", r"\\", "x=",
     "```python\n", "or "],
)  # fmt: skip
def test_ten_megabytes_of_one_thing(piece: str, answer_type: AnswerType) -> None:
    check_form(piece * (MEGABYTES * 1_000_000 // len(piece)), answer_type)


@pytest.mark.parametrize(
    "answer",
    ["{" * 500 + "1" + "}" * 499, r"\{" * 330 + r"\}" * 330, "(1," * 330, "1," * 500, r"1\pm" * 200, "x<" * 500,
     r"\cup" * 250,
     r"\{(" + "),(".join(["1,2"] * 190) + r")\}", r"\begin{pmatrix}" + "&" * 900 + r"\end{pmatrix}", r"\boxed{" * 140,
     ", 100" * 200, " or 1" * 200, r"\\" * 500],
)  # fmt: skip
def test_the_longest_answers_that_are_read(answer: str) -> None:
    check_form(answer, AnswerType.MATH)
