"""What is read from the reply to a probe: an answer that may count, or none, and whether it is doubted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.hesitation import hesitates
from dynasor_serve.certaindex.trial_answer import TrialAnswer, read_trial
from unit.certaindex.test_certaindex_canonical_answers import HOSTILE, LATEX

NUMBER, CHOICE, MATH, TEXT = AnswerType.NUMBER, AnswerType.CHOICE, AnswerType.MATH, AnswerType.TEXT


@pytest.mark.parametrize(
    "text",
    [
        "Wait, that is wrong",
        "wait",
        "} \\]\n\nHmm, let me see",
        "hmmmm",
        "but is it?",
        "However, we need x > 0",
        "Hold on.",
        "hold\non",
        "Okay, so I have to find x",
        "No, that is not it",
        "no.",
        "No!",
    ],
)
def test_doubt_is_heard(text: str) -> None:
    assert hesitates(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "} \\]",
        "none",
        "a nonzero denominator",
        "the north, now, in knots",
        "the threshold of a distribution",
        "both conditions hold for n",
        "there is no other solution",
        "await the waiter",
        "butter",
        "hm",
        "okayed",
        "snowbut_wait_no",
    ],
)
def test_other_words_are_no_doubt(text: str) -> None:
    """The research code's substrings `no`, `but` and `hold` are in most of these."""
    assert not hesitates(text)


@pytest.mark.parametrize(
    ("text", "answer_type", "answer", "hesitant"),
    [
        ("12} \\]", NUMBER, "12", False),
        (r"\frac{1}{2}} \]", MATH, r"\frac{1}{2}", False),
        ("12} \\]\n\nWait, I should check", NUMBER, "12", True),
        ("} \\]", MATH, None, False),
        ("   } \\]", TEXT, None, False),
        ("", NUMBER, None, False),
        (r"\text{}}", MATH, None, False),
        ("no} \\]", TEXT, "no", False),  # the answer itself is not read for doubt
        ("no, but} \\]", TEXT, "no, but", False),
        (r"\text{none}} \]", MATH, r"\text{none}", False),
        ("B} \\]", CHOICE, "B", False),
        ("A}", NUMBER, None, False),
        ("A}", MATH, None, False),
        (r"\text{(C)}}", MATH, None, False),
        (r"\mathbf{D}.}", MATH, None, False),
        ("e}", MATH, "e", False),
        ("i}", MATH, "i", False),
        ("x}", MATH, "x", False),
        ("N}", MATH, "N", False),
        ("A + B}", MATH, "A + B", False),
    ],
)
def test_an_answer_in_the_box_that_the_probe_opened(
    text: str, answer_type: AnswerType, answer: str | None, hesitant: bool
) -> None:
    assert read_trial(text, answer_type, opened_box=True) == TrialAnswer(answer, hesitant)


@pytest.mark.parametrize("text", ["12", r"\frac{12345678901234567890", r"\frac{1}{2", "Wait", r"\}"])
def test_a_box_that_is_not_closed_holds_no_answer(text: str) -> None:
    """A probe's reply ends after some tokens. Numbers longer than that would be cut alike, and would agree."""
    assert read_trial(text, MATH, opened_box=True).answer is None


@pytest.mark.parametrize(
    ("text", "answer_type", "answer", "hesitant"),
    [
        (r"The answer is \boxed{12}.", NUMBER, "12", False),
        (r"\boxed{5}. Wait, is it 5", NUMBER, "5", True),
        (r"Hmm. \boxed{5}", NUMBER, "5", True),
        ("The answer is no.", TEXT, "no.", False),
        ("There is no doubt: the answer is no", TEXT, "no", False),
        (r"\boxed{B}", MATH, None, False),
        ("(b)", CHOICE, "B", False),
        ("I do not know.", NUMBER, None, False),
        ("But I do not know.", NUMBER, None, True),
    ],
)
def test_an_answer_to_a_probe_without_a_box(
    text: str, answer_type: AnswerType, answer: str | None, hesitant: bool
) -> None:
    assert read_trial(text, answer_type, opened_box=False) == TrialAnswer(answer, hesitant)


@given(st.one_of(st.text(max_size=300), LATEX), st.sampled_from(AnswerType), st.booleans())
def test_reading_never_fails_and_an_answer_has_content(text: str, answer_type: AnswerType, opened_box: bool) -> None:
    answer = read_trial(text, answer_type, opened_box=opened_box).answer
    assert answer is None or answer.strip()


@given(st.integers(-(10**12), 10**12), st.text(max_size=100))
def test_what_follows_the_box_does_not_change_the_answer(value: int, after: str) -> None:
    assert read_trial(f"{value}}}{after}", NUMBER, opened_box=True).answer == str(value)


@pytest.mark.parametrize("opened_box", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_only_a_bounded_part_of_the_reply_is_read(name: str, opened_box: bool) -> None:
    """What is beyond the bound cannot change anything, however much there is."""
    part = HOSTILE[name][:4000].ljust(4000)
    longer = part + "} wait" * 1000 if opened_box else "wait {" * 1000 + part
    for answer_type in AnswerType:
        expected = read_trial(part, answer_type, opened_box=opened_box)
        assert read_trial(longer, answer_type, opened_box=opened_box) == expected
