"""Where an answer is found in what a model writes."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, canonical, extract, extract_in_open_box
from unit.certaindex.test_certaindex_canonical_answers import HOSTILE, LATEX

NUMBER, CHOICE, MATH, TEXT = AnswerType.NUMBER, AnswerType.CHOICE, AnswerType.MATH, AnswerType.TEXT


@pytest.mark.parametrize(
    ("text", "answer_type", "expected"),
    [
        # boxes
        (r"So \boxed{12}.", NUMBER, "12"),
        (r"First \boxed{1}, finally \boxed{2}.", NUMBER, "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", MATH, r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1,2\}}", MATH, r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", MATH, "5"),
        (r"it is \boxed {7}", MATH, "7"),
        (r"cut off: \boxed{\frac{1}{2}", MATH, r"\frac{1}{2}"),
        (r"\boxed{42} Put your answer in \boxed{}.", NUMBER, "42"),
        (r"\boxed{\text{(B)}}", CHOICE, "B"),
        (r"\boxed{Paris}", TEXT, "Paris"),
        (r"\boxed{12\text{ cm}}", NUMBER, r"12\text{ cm}"),
        (r"\boxed{x} = 3", NUMBER, "3"),
        # announcements
        ("The final answer is 42.", NUMBER, "42"),
        ("The answer is: $3.5$. Then 7 more words", NUMBER, "$3.5"),
        ("Answer: 17\n\nI checked it 3 times.", NUMBER, "17"),
        ("**Final Answer:** 1,234", NUMBER, "1,234"),
        ("**Answer**\n\n-8", NUMBER, "-8"),
        ("#### 1,000", NUMBER, "1,000"),
        ("2 + 2 = 4\n#### 4", NUMBER, "4"),
        ("The answer is 1/2", NUMBER, "1/2"),
        (r"The answer is $\frac{\pi}{2}$.", MATH, r"\frac{\pi}{2}"),
        (r"The answer is \(x^2\).", MATH, "x^2"),
        ("The answer is x + 1. It is 3.", MATH, "x + 1"),
        ("The answer is (B).", CHOICE, "B"),
        ("answer is B", CHOICE, "B"),
        ("The correct answer is option C because of 3", CHOICE, "C"),
        (r"Answer: \text{(D)}", CHOICE, "D"),
        ("**Answer: E**", CHOICE, "E"),
        ("The answer is A.", CHOICE, "A"),
        ("The answer is Paris.\nIt is in France.", TEXT, "Paris."),
        ("#### Step 1\nThat makes 12.", NUMBER, "12"),
        ("#### Conclusion\nIt is red.\n", TEXT, "It is red."),
        ("ANSWER: 12", NUMBER, "12"),
        ("Ans: 12 (not 13)", NUMBER, "12"),
        ("Two answers are possible: 1; the answer = 2 though 3", NUMBER, "2"),
        ("It spans is 5 metres, 6 at most", NUMBER, "6"),
        # by type
        ("It is 17. " + "And that is all there is to say. " * 40, NUMBER, "17"),
        ("We get 3 apples and 5 pears, 8 in all", NUMBER, "8"),
        ("That is $1,250.50 each", NUMBER, "$1,250.50"),
        (r"so we have \frac{3}{4} left", NUMBER, r"\frac{3}{4}"),
        ("down by −3", NUMBER, "−3"),
        ("B", CHOICE, "B"),
        ("(b)", CHOICE, "B"),
        ("B) mitochondria", CHOICE, "B"),
        ("Because it is red.\n\n**C**", CHOICE, "C"),
        ("I pick (A), no, (D) it is", CHOICE, "D"),
        ("I go for option F.", CHOICE, "F"),
        (r"x^2 + 1", MATH, "x^2 + 1"),
        ("Well,\nParis\n", TEXT, "Paris"),
        ("Paris", TEXT, "Paris"),
        # nothing
        ("", NUMBER, None),
        ("   \n", TEXT, None),
        ("I do not know.", NUMBER, None),
        ("Let me think.\nIt is late.", MATH, None),
        ("A good question. I think so.", CHOICE, None),
        ("The answer is a function", CHOICE, None),
        ("The answer is I am not sure", CHOICE, None),
        (r"\boxed{}", MATH, None),
        (r"\boxed{\text{}}", MATH, None),
    ],
)
def test_extract(text: str, answer_type: AnswerType, expected: str | None) -> None:
    assert extract(text, answer_type) == expected


@pytest.mark.parametrize("text", [r"\boxed{C}", "The answer is C", "C", "(C)"])
def test_a_letter_is_no_number(text: str) -> None:
    """The research code's probe yields letters on questions without choices, and they agree with one another."""
    assert extract(text, NUMBER) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"<think>maybe \boxed{1}</think> So \boxed{2}.", "2"),
        (r"maybe \boxed{1}</think> The answer is 2", "2"),  # the opening tag was in the prompt
        (r"<think>it is 17</think>", None),
        (r"<think>it is \boxed{17}</think>", "17"),
        (r"<think>perhaps 17, or 1", None),  # cut off
        (r"<think>I am sure: \boxed{17}. Let me check 18", "17"),
        (r"<think>first \boxed{1}</think> I give up.", None),
        (r"<think>a</think> 3 <think>b</think> 4", "4"),
    ],
)
def test_reasoning_is_not_the_answer(text: str, expected: str | None) -> None:
    assert extract(text, NUMBER) == expected


def test_the_answer_to_a_probe_ends_at_the_brace_that_was_open() -> None:
    assert extract_in_open_box(r"\frac{1}{2}} \]", MATH) == r"\frac{1}{2}"
    assert extract_in_open_box("12", NUMBER) == "12"
    assert extract_in_open_box("} and so on", MATH) is None
    assert extract_in_open_box("C}", NUMBER) is None


@given(st.one_of(st.text(max_size=500), LATEX), st.sampled_from(AnswerType))
def test_an_extracted_answer_has_content(text: str, answer_type: AnswerType) -> None:
    answer = extract(text, answer_type)
    assert answer is None or answer.strip()
    if answer is not None and answer_type is NUMBER:
        assert any(character.isdecimal() for character in answer)
    if answer is not None and answer_type is CHOICE:
        assert answer in "ABCDEFGHIJ"


@given(st.integers(-(10**12), 10**12), st.text(max_size=200))
def test_what_comes_before_a_box_does_not_matter(value: int, before: str) -> None:
    assert extract(f"{before} \\boxed{{{value}}}", NUMBER) == str(value)


@pytest.mark.parametrize("answer_type", AnswerType)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_cost_little(name: str, answer_type: AnswerType) -> None:
    started = time.process_time()
    for text in (HOSTILE[name], f"The answer is {HOSTILE[name]}", rf"\boxed{{{HOSTILE[name]}}}"):
        answer = extract(text, answer_type)
        assert answer is None or len(answer) <= 4000
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        (r"So \boxed{A, C}.", "A, C"),
        (r"So \boxed{AC}.", "A, C"),
        (r"\boxed{\text{(C) and (A)}}", "A, C"),
        ("The answer is B and D.", "B, D"),
        ("Answer: **A, B, and D**", "A, B, D"),
        (r"\boxed{BAD}", None),
        (r"\boxed{A}", "A"),
        ("The answer is A, because C is wrong.", "A"),
        ("The answer is C. A is wrong.", "C"),
    ],
)
def test_several_letters_are_one_choice(text: str, letters: str | None) -> None:
    answer = extract(text, AnswerType.CHOICE)
    assert answer == letters
    if answer:
        assert canonical(answer, AnswerType.CHOICE).key == answer.replace(", ", "")
