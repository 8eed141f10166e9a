"""When two answers have one key, and when only algebra can tell."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, canonical

ONE_THOUSAND = [
    "1,000", "1000", "1000.0", "1000.", "1e3", "10^3", "10^{3}", "10³", r"1\times10^{3}", "1 x 10^3", r"\frac{2000}{2}",
    r"\dfrac{2000}{2}", "2000/2",
    "$1,000", r"\$1{,}000", "$1000$", r"1\,000", "1 000", "+1000",
    "１０００", "١٠٠٠", "1000 dollars", r"1000\text{ cm}", r"1000\text{ cm}^2", "1000 cm²", r"1000^\circ", "1000°",
    r"1000^{\circ} \text{C}",
    "x = 1000", "= 1000", r"\boxed{1000}", "1000%", r"1000\%", "1 thousand", "(1000)", "{1000}", "€1000", "1000 km",
]  # fmt: skip


def key(answer: str, answer_type: AnswerType = AnswerType.MATH) -> str:
    return canonical(answer, answer_type).key


@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
@pytest.mark.parametrize("written", ONE_THOUSAND)
def test_one_thousand_however_it_is_written(written: str, answer_type: AnswerType) -> None:
    form = canonical(written, answer_type)
    assert (form.key, form.decided) == ("1000", True)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.5", r"\frac{1}{2}"),
        ("½", "1/2"),
        (r"\frac12", ".5"),
        ("1½", r"1\frac{1}{2}"),
        ("1 1/2", "1.5"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        ("−7", "-7"),
        ("5 million", r"5\text{ million}"),
        ("5 million", "5e6"),
        ("-0", "0.00"),
        ("1e400", "10e399"),
        ("1e999999", "10e999998"),
        ("1" + "0" * 350, "1e350"),
        ("007", "7"),
    ],
)
@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
def test_equal_numbers(left: str, right: str, answer_type: AnswerType) -> None:
    assert canonical(left, answer_type) == canonical(right, answer_type)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.333", "1/3"),
        ("0.3333333333333333", r"\frac{1}{3}"),
        ("1 1/2", "11/2"),
        ("5 million", "5"),
        ("10³", "103"),
        ("1e999999", "1e999998"),
        ("9007199254740993", "9007199254740992"),  # one float
        ("1,00", "100"),
        ("5", "-5"),
        ("1/0", "0"),
        ("2^3", "2"),
        ("2^{3}", "2"),
        ("5²", "5"),
        ("5!", "5"),
    ],
)
@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
def test_unequal_numbers(left: str, right: str, answer_type: AnswerType) -> None:
    assert key(left, answer_type) != key(right, answer_type)


@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.MATH])
@pytest.mark.parametrize("percent", ["500%", "500 %", r"500\%", "500 percent", "500\\,\\%"])
def test_five_is_not_five_hundred_percent(percent: str, answer_type: AnswerType) -> None:
    """The research code takes x, x/100 and 100x for equal."""
    assert key("5", answer_type) != key(percent, answer_type)


def test_a_percent_sign_is_a_unit() -> None:
    assert key("50%") == key("50")
    assert key("50%") != key("0.5")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),  # unequal in the research code
        (r"\frac{\sqrt3}2", r"\dfrac{\sqrt{3}}{2}"),
        (r"\frac\pi2", r"\tfrac{\pi}{2}"),
        ("2π", r"2\pi"),
        ("√2", r"\sqrt{2}"),
        (r"x^{2} + 1", "x^2+1"),
        (r"$x_{1}$", "x_1"),
        (r"\frac{\sqrt{3}}{2}\text{ cm}", r"\frac{\sqrt{3}}{2}"),
        (r"\text{(C)}", "(C)"),
        (r"\text{(C)}", "C"),
        (r"\text{No solution}", "no solution."),
        ("3*4", r"3 \cdot 4"),
        (r"\left. x \right|", "x|"),
        (r"x \leq 5", r"x\le5"),
    ],
)
def test_latex_in_one_spelling(left: str, right: str) -> None:
    assert canonical(left, AnswerType.MATH) == canonical(right, AnswerType.MATH)


@pytest.mark.parametrize(
    ("answer", "decided"),
    [
        ("42", True),
        (r"-\frac{7}{3}", True),
        (r"\text{even}", True),
        (r"\text{(B)}", True),
        ("x", True),
        (r"\sqrt{25}", False),
        ("2^{10}", False),
        ("(1,2)", True),
        ("(3,400)", True),  # a point, not three thousand four hundred
        ("1,2", False),  # a set, or a point
        (r"x=1 \text{ or } x=2", True),
        (r"(1,\sqrt{4})", False),
        ("5x", False),
        ("xy", False),
        ("x" * 1001, True),  # too long for anybody to decide
    ],
)
def test_what_keys_alone_decide(answer: str, decided: bool) -> None:
    assert canonical(answer, AnswerType.MATH).decided is decided


@pytest.mark.parametrize("written", ["B", "b", "(B)", "B.", "B)", "**B**", r"\text{(B)}", r"\text{B}", " b ", "$B$"])
def test_a_choice_is_its_letter(written: str) -> None:
    assert canonical(written, AnswerType.CHOICE).key == "B"


def test_text_is_folded() -> None:
    assert key(" The  Eiffel\nTower. ", AnswerType.TEXT) == key('"the eiffel tower"', AnswerType.TEXT)
    assert key("Straße", AnswerType.TEXT) == key("STRASSE", AnswerType.TEXT)
    assert key("a" * 5000, AnswerType.TEXT) != key("a" * 5001, AnswerType.TEXT)
    assert len(key("a" * 5000, AnswerType.TEXT)) <= 1000


@pytest.mark.parametrize("answer", ["", "  ", r"\text{}", "$$", r"\,", r"\left. \right."])
def test_nothing_is_no_answer(answer: str) -> None:
    assert key(answer) == ""


@given(st.fractions(max_denominator=10**6))
def test_fractions_are_exact(value: Fraction) -> None:
    written = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert canonical(written, AnswerType.NUMBER).key == str(value)
    assert canonical(f"{value.numerator} / {value.denominator}", AnswerType.MATH).key == str(value)


@given(st.integers(min_value=-(10**40), max_value=10**40), st.integers(0, 30))
def test_decimals_are_exact(digits: int, places: int) -> None:
    whole, part = divmod(abs(digits), 10**places)
    written = f"{'-' if digits < 0 else ''}{whole:,}" + (f".{part:0{places}d}" if places else "")
    assert canonical(written, AnswerType.NUMBER).key == str(Fraction(digits, 10**places))


LATEX = st.lists(
    st.sampled_from(
        [*"0123456789+-=/(){}[]^_.,%$ xyzABC\\", r"\frac", r"\sqrt", r"\text", r"\left", r"\right", r"\boxed{", "e9",
         r"\times",
         r"10^", r"\circ", "½", "²", "π", "−", "·", "√", "\u202e", "٣", "．", "<think>", "answer is", "####"]
    ),
    max_size=60,
).map("".join)  # fmt: skip


@given(st.one_of(st.text(max_size=300), LATEX), st.sampled_from(AnswerType))
def test_every_text_has_a_key(text: str, answer_type: AnswerType) -> None:
    form = canonical(text, answer_type)
    assert form == canonical(text, answer_type)
    assert len(form.key) <= 1000
    assert form.decided or answer_type in (AnswerType.MATH, AnswerType.FREE_TEXT, AnswerType.CODE)


@given(LATEX)
def test_a_key_is_its_own_key(text: str) -> None:
    """The evaluator reads keys, so a key must mean what its answer means."""
    form = canonical(text, AnswerType.MATH)
    if form.decided and form.key:
        assert canonical(form.key, AnswerType.MATH).key == form.key


HOSTILE = {
    "tower": "9^{9^{9^9}}",
    "power": "10**10**10",
    "exponent": "1e999999999999999999",
    "digits": "9" * 1_000_000,
    "commas": "1," * 500_000,
    "grouped": "1" + ",000" * 250_000,
    "braces": "{" * 1_000_000,
    "fractions": r"\frac" * 200_000,
    "nested fractions": r"\frac{" * 200 + "1" + "}{2}" * 200,
    "nested boxes": r"\boxed{" * 100_000,
    "spaces": " " * 1_000_000,
    "answers": "answer is " * 100_000,
    "letters": "A" * 1_000_000,
    "slashes": "\\" * 1_000_000,
    "dollars": "$" * 1_000_000,
    "thinks": "<think>" * 150_000,
    "text unit": r"\text{" * 200_000,
    "ligatures": "\ufdfa" * 1_000_000,
    "superscripts": "²" * 1_000_000,
    "signs": "-" * 1_000_000,
    "bounded text": r"\text{a" * 130,
    "bounded spaced": "1 " * 500,
    "bounded braces": "{" * 500 + "}" * 499,
    "bounded words": "a " * 499 + "1",
    "bounded exponents": "x^{" * 300,
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("answer_type", AnswerType)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_cost_little(name: str, answer_type: AnswerType) -> None:
    started = time.process_time()
    form = canonical(HOSTILE[name], answer_type)
    assert len(form.key) <= 1000
    assert time.process_time() - started < 2.0
