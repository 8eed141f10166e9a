"""When are two answers equal? Most are by their keys alone; the rest is left to the evaluator."""

import re
from dataclasses import dataclass

from dynasor_serve.certaindex.answers.answer_type import AnswerType
from dynasor_serve.certaindex.answers.latex import normalise_latex, without_unit
from dynasor_serve.certaindex.answers.numbers import MAX_NUMBER_CHARACTERS, number_key
from dynasor_serve.certaindex.answers.plain_text import bounded_key, fold_text

MAX_KEY_CHARACTERS = 1000

_NUMBER_STARTS = frozenset("0123456789+-.")
_BOX = re.compile(r"\\(?:boxed|fbox)\{(.*)\}", re.DOTALL)
_NAMED_VALUE = re.compile(r"(?:[a-zA-Z](?:_(?:\w|\{\w{1,8}\}))?(?:\([a-zA-Z]\))?)?(?:=|\\approx ?)")
_LETTER = re.compile(
    r"[\s$*_\"'`(\[{]*(?:\\(?:text|mathrm|textbf|mathbf)\s?\{\s?)?[\s(\[]*([A-Ja-j])[\s)\]}.:$*_\"'`]*"
)
_WORDS = re.compile(r"(?=.*[a-z]{4})[a-z'-]+(?: [a-z'-]+)*")
_WRAPPED_WORDS = re.compile(r"\\text\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Canonical:
    """An answer with its key.

    Attributes:
        key: answers of one type with equal keys are equal; at most `MAX_KEY_CHARACTERS`. Empty if there is no answer
            in the text, as in `\\text{}`.
        decided: whether answers with other decided keys are proven unequal by that alone. False for LaTeX whose
            equality takes algebra; the key is then normalised LaTeX that the evaluator can read.
    """

    key: str
    decided: bool


def canonical(answer: str, answer_type: AnswerType) -> Canonical:
    """Return the key of an answer. Never raises, and takes time linear in the answer.

    Conventions:
        - Numbers are compared exactly: `1,000`, `1000.0`, `1e3` and `\\frac{2000}{2}` are equal, 0.333 and 1/3 are not.
        - Signs of currency and of percent, and units, are dropped: `50%` = `50`; so 5 ≠ `500%`.
        - `3,400` is one number, not two. `x = 5` is 5.
        - A `math` answer over `MAX_KEY_CHARACTERS` long equals only its copies.
    """
    match answer_type:
        case AnswerType.NUMBER:
            key = _number_key(answer, any_unit=True) or _text_key(answer)
            return Canonical(key, decided=True)
        case AnswerType.CHOICE:
            letter = _LETTER.fullmatch(answer) if len(answer) <= 80 else None
            return Canonical(letter.group(1).upper() if letter else _text_key(answer), decided=True)
        case AnswerType.TEXT:
            return Canonical(_text_key(answer), decided=True)
        case AnswerType.MATH:
            return _canonical_math(answer)


def _text_key(answer: str) -> str:
    return bounded_key(fold_text(answer), MAX_KEY_CHARACTERS)


def _number_key(answer: str, *, any_unit: bool) -> str | None:
    if len(answer) > MAX_NUMBER_CHARACTERS:
        return None
    return number_key(answer) or _number_of(normalise_latex(answer), any_unit=any_unit)


def _number_of(expression: str, *, any_unit: bool) -> str | None:
    """Return the key of a normalised expression that is a number, maybe named, in brackets or with a unit."""
    value = (
        _NAMED_VALUE.sub("", _unboxed(expression), count=1) if "=" in expression or "\\a" in expression else expression
    )
    value = _unboxed(value)
    while value[:1] + value[-1:] in ("()", "{}") and value.count(value[0]) == 1 and "," not in value:
        value = value[1:-1]
    key = number_key(value)
    if key is None and (value[:1] in _NUMBER_STARTS or value.startswith("\\frac")):
        key = number_key(without_unit(value, any_word=any_unit))
    return key


def _unboxed(expression: str) -> str:
    match = _BOX.fullmatch(expression)
    return match.group(1) if match else expression


def _canonical_math(answer: str) -> Canonical:
    if (plain := number_key(answer)) is not None:
        return Canonical(plain, decided=True)
    if len(answer) > MAX_KEY_CHARACTERS:
        return Canonical(bounded_key(answer.strip(), MAX_KEY_CHARACTERS), decided=True)
    expression = _unboxed(normalise_latex(answer))
    if (number := _number_of(expression, any_unit=False)) is not None:
        return Canonical(number, decided=True)
    wrapped = _WRAPPED_WORDS.fullmatch(expression)
    words = fold_text(wrapped.group(1) if wrapped else answer)
    if wrapped or _WORDS.fullmatch(words):
        return Canonical(f"\\text{{{words}}}" if words else "", decided=True)
    letter = expression.strip("()")
    if len(letter) == 1 and letter.isalpha():
        return Canonical(letter, decided=True)
    return Canonical(bounded_key(expression, MAX_KEY_CHARACTERS), decided=False)
