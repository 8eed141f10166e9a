"""When are two answers equal? Most are by their keys alone; the rest is left to the evaluator."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from dynasor_serve.certaindex.answers.answer_type import AnswerType
from dynasor_serve.certaindex.answers.choices import several_letters
from dynasor_serve.certaindex.answers.code import normalised_program
from dynasor_serve.certaindex.answers.latex import normalise_latex, without_text_unit, without_unit
from dynasor_serve.certaindex.answers.numbers import MAX_NUMBER_CHARACTERS, number_key
from dynasor_serve.certaindex.answers.plain_text import bounded_key, fold_text
from dynasor_serve.certaindex.answers.structures import (
    Decision,
    Kind,
    Structure,
    equal_by_parts,
    latex_of,
    read_structure,
)

MAX_KEY_CHARACTERS = 1000

_NUMBER_STARTS = frozenset("0123456789+-.")
_BOXES = (r"\boxed{", r"\fbox{")
_NAMED_VALUE = re.compile(r"(?:[a-zA-Z](?:_(?:\w|\{\w{1,8}\}))?(?:\([a-zA-Z]\))?)?(?:=|\\approx ?)")
_LETTER = re.compile(
    r"[\s$*_\"'`(\[{]*(?:\\(?:text|mathrm|textbf|mathbf)\s?\{\s?)?[\s(\[]*([A-Ja-j])[\s)\]}.:$*_\"'`]*"
)
_WORDS = re.compile(r"(?=.*[a-z]{4})[a-z'-]+(?: [a-z'-]+)*")
_WRAPPED_WORDS = re.compile(r"\\text\{([^{}]*)\}")
_COUNTED = re.compile(r"([-+]?[\d.,/]{1,40}) (?!(?:and|or|if|times|plus|minus)\b)[a-z]{4,20}(?: [a-z]{1,20}){0,3}")
_ENVIRONMENT = re.compile(r"(?<!\\)\\begin")
_SPACED_COMMA = re.compile(r"(?<=\d), +(?=[1-9]\d\d(?!\d))")
_JOINING_WORD = re.compile(r"(?<=[\d)}\]$]),? +(?:and|or) +(?=[-+\\$(\[\d]|[a-z] ?[=<>])")
_MAY_HAVE_PARTS = re.compile(r"[,;<>{]|\\(?:cup|pm|begin|le|ge|ne|lor|vee|emptyset|varnothing|mathbb|lang)(?![a-z])")
_INFINITIES = (r"\infty", r"-\infty")
_RATIONAL = re.compile(r"-?\d{1,50}(?:/\d{1,50})?")
_MOST_LEVELS = 3
_MOST_REMEMBERED = 4096  # of which each takes some 6 kB at most


@dataclass(frozen=True, slots=True)
class Canonical:
    """An answer with its key.

    Attributes:
        key: answers of one type with equal keys are equal; at most `MAX_KEY_CHARACTERS`, of a program
            `MAX_CODE_CHARACTERS`. Empty if there is no answer
            in the text, as in `\\text{}`.
        decided: whether answers with other decided keys are proven unequal by that alone. False for a list, which may
            be a set or a point, for free text and programs, and for LaTeX whose equality takes algebra; the key is
            then what the evaluator can read.
        structure: its parts, by their keys, where the answer is made of answers.
    """

    key: str
    decided: bool
    structure: Structure | None = field(default=None, compare=False, repr=False)


def canonical(answer: str, answer_type: AnswerType) -> Canonical:
    """Return the key of an answer. Never raises, and takes time linear in the answer.

    Conventions (docs/answers.md has them all):
        - Numbers are compared exactly: `1,000`, `1000.0`, `1e3` and `\\frac{2000}{2}` are equal, 0.333 and 1/3 are not.
        - Signs of currency and of percent, and units, are dropped: `50%` = `50`; so 5 ≠ `500%`.
        - `3,400` is one number, not two; `3, 400` with a space is two. `x = 5` is 5.
        - What is made of answers is compared part by part: points and intervals in order, sets in any order.
        - A program's key is the program without comments, docstrings and layout; one that is no Python, or over
          `MAX_CODE_CHARACTERS` long, equals only its copies.
        - A `math` answer over `MAX_KEY_CHARACTERS` long equals only its copies.
    """
    return _remembered(answer, answer_type) if len(answer) <= MAX_KEY_CHARACTERS else _canonical(answer, answer_type)


def equal_by_keys(left: str, right: str, answer_type: AnswerType = AnswerType.MATH) -> Decision:
    """Return whether two answers, given by keys that are not empty, are equal; None if the evaluator has to tell.

    Tells more than the keys' own equality: that a list is a set, or the point with these parts, and that no point is a
    matrix.
    """
    if answer_type is AnswerType.MATH:
        return _equal_parts(left, right, may_match=True)
    return True if left == right else None


@lru_cache(maxsize=_MOST_REMEMBERED)
def _remembered(answer: str, answer_type: AnswerType) -> Canonical:
    return _canonical(answer, answer_type)


def _canonical(answer: str, answer_type: AnswerType) -> Canonical:
    match answer_type:
        case AnswerType.NUMBER:
            key = _number_key(answer, any_unit=True) or _text_key(answer)
            if key.isdecimal() and answer.rstrip().endswith("!"):  # a factorial, whose sign is no punctuation
                key += "!"
            return Canonical(key, decided=True)
        case AnswerType.CHOICE:
            letter = _LETTER.fullmatch(answer) if len(answer) <= 80 else None
            if letter is None and (letters := several_letters(answer)):
                return Canonical("".join(letters), decided=True)
            return Canonical(letter.group(1).upper() if letter else _text_key(answer), decided=True)
        case AnswerType.TEXT:
            return Canonical(_text_key(answer), decided=True)
        case AnswerType.FREE_TEXT:
            return Canonical(_text_key(answer), decided=False)
        case AnswerType.CODE:
            program = normalised_program(answer)
            return Canonical(program or bounded_key(answer.strip(), MAX_KEY_CHARACTERS), decided=program is None)
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
    """Return what the last box holds, if there is one."""
    if "box" not in expression:
        return expression
    start = max(expression.rfind(box) + len(box) if box in expression else 0 for box in _BOXES)
    end = expression.rfind("}")
    return expression[start:end] if 0 < start <= end else expression


def _canonical_math(answer: str) -> Canonical:
    if (plain := number_key(answer)) is not None:
        return Canonical(plain, decided=True)
    if len(answer) > MAX_KEY_CHARACTERS:
        return Canonical(bounded_key(answer.strip(), MAX_KEY_CHARACTERS), decided=True)
    expression = _unboxed(normalise_latex(_respaced(answer)))
    form = _form(expression, levels=_MOST_LEVELS)
    if form.decided or form.structure:
        return form
    words = fold_text(answer)
    if _WORDS.fullmatch(words):
        return Canonical(_words_key(words), decided=True)
    if (counted := _COUNTED.fullmatch(words)) and (number := number_key(counted.group(1))):
        return Canonical(number, decided=True)
    return Canonical(bounded_key(form.key, MAX_KEY_CHARACTERS), decided=False)


def _respaced(answer: str) -> str:
    """Say in signs what is said in spaces and words, before they are dropped."""
    if "\\\\" in answer and not _ENVIRONMENT.search(answer):  # escaped once too often
        answer = answer.replace("\\\\", "\\")
    if ", " in answer:
        answer = _SPACED_COMMA.sub(";", answer)
    return _JOINING_WORD.sub(r"\\lor ", answer) if " and " in answer or " or " in answer else answer


def _form(expression: str, *, levels: int) -> Canonical:
    """Return the form of a normalised expression.

    Args:
        levels: how deep answers may be made of answers.
    """
    if (number := number_key(expression) or _number_of(expression, any_unit=False)) is not None:
        return Canonical(number, decided=True)
    if wrapped := _WRAPPED_WORDS.fullmatch(expression):
        words = fold_text(wrapped.group(1))
        if not any(character.isalpha() for character in words):
            return _form(words.replace(" ", ""), levels=levels)
        counted = _COUNTED.fullmatch(words)
        number = number_key(counted.group(1)) if counted else None
        return Canonical(number or (_words_key(words) if words else ""), decided=True)
    letter = expression.strip("()")
    if len(letter) == 1 and letter.isalpha():
        return Canonical(letter, decided=True)
    if expression.removeprefix("+") in _INFINITIES:
        return Canonical(expression.removeprefix("+"), decided=True)
    if levels and _MAY_HAVE_PARTS.search(expression) and (structure := read_structure(expression)):
        whole = _form_of_parts(structure, levels=levels - 1)
        if whole is not None:
            return whole
    return Canonical(expression.replace(";", ","), decided=False)


def _words_key(words: str) -> str:
    return f"\\text{{{bounded_key(words, MAX_KEY_CHARACTERS - len(r'.text{}'))}}}"


def _form_of_parts(structure: Structure, *, levels: int) -> Canonical | None:
    forms = [_form(without_text_unit(part), levels=levels) for part in structure.parts]
    if not all(form.key for form in forms):
        return None
    decided = all(form.decided for form in forms)
    keys = tuple(form.key for form in forms)
    match structure.kind:
        case Kind.SET:
            if len(set(keys)) == 1:
                return forms[0]
            keys = tuple(sorted(set(keys)))
        case Kind.LIST:
            decided = False
        case Kind.UNION:
            parts = [form.structure for form in forms if form.structure]
            if len(parts) < len(forms) or any(part.kind not in (Kind.SEQUENCE, Kind.SET) for part in parts):
                return None
            decided = decided and _are_apart(parts)
            keys = tuple(sorted(set(keys)))
    structure = Structure(structure.kind, keys, structure.form)
    key = latex_of(structure)
    return Canonical(key, decided, structure) if len(key) <= MAX_KEY_CHARACTERS else None


def _are_apart(parts: list[Structure]) -> bool:
    """Whether these are intervals with a gap between each and the next, so that there is one way to write their union.

    False where it takes algebra to tell.
    """
    ends = []
    for part in parts:
        if part.kind is not Kind.SEQUENCE or len(part.parts) != 2:
            return False
        low, high = part.parts
        if not (low in _INFINITIES or _RATIONAL.fullmatch(low)) or not (
            high in _INFINITIES or _RATIONAL.fullmatch(high)
        ):
            return False
        ends.append((_end(low), _end(high), part.form))
    ends.sort()
    return all(
        high < low or (high == low and before[1] == ")" and after[0] == "(")
        for (_, high, before), (low, _, after) in pairwise(ends)
    )


def _end(key: str) -> Fraction | float:
    return float(key.replace(r"\infty", "inf")) if key in _INFINITIES else Fraction(key)


def _equal_parts(left: str, right: str, *, may_match: bool = False) -> Decision:
    """Compare two keys.

    Args:
        may_match: whether parts in any order may be matched, which takes the square of their number.
    """
    if left == right:
        return True
    first, second = canonical(left, AnswerType.MATH), canonical(right, AnswerType.MATH)
    if first.key == second.key:
        return True
    if first.decided and second.decided:
        return False
    if first.structure is None or second.structure is None:
        # What is decided and has no parts is one piece, and what has parts is none.
        one_piece = first if first.structure is None else second
        return False if one_piece.decided and (first.structure or second.structure) else None
    if not may_match and Kind.SEQUENCE is not first.structure.kind is not Kind.MATRIX:
        return None
    return equal_by_parts(first.structure, second.structure, _equal_parts)
