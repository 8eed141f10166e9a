r"""`game24`: four numbers, each used once, with + - * / and parentheses, to make 24.

The task is the four numbers: `4 9 10 13`. The solution is the expression in the last `\boxed{…}` that holds one, or
else in the last line that holds one; where that line says `4 * (10 - 4) = 4 * 6 = 24`, it is the part with the four
numbers. The reward is 1 or 0. Arithmetic is exact: 8 / (3 - 8 / 3) is 24.
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

from dynasor_serve.evaluator.verifiers.verifier import InvalidTask, Verification, clipped
from dynasor_serve.programs.unit_tests_task import UnreadableTask
from dynasor_serve.programs.verifier_tasks import game24_numbers

_GOAL = 24
_LARGEST = 10_000
# Of the end of a candidate, where solutions stand, and of each line in it.
_CHARACTERS_READ = 20_000
_LINES_READ = 200
_LINE_CHARACTERS_READ = 1000
_BOXES_READ = 10
# Of an expression. Four numbers need forty; it bounds how deep parentheses nest.
_MOST_CHARACTERS = 200
_DEEPEST_FRACTION = 3  # of four numbers

_SPELLINGS = (
    (re.compile(r"\\left|\\right|\\displaystyle|\\[,;!:]"), ""),
    (re.compile(r"\\times|\\cdot|\\ast|[×·⋅∙∗]"), "*"),
    (re.compile(r"\\div|[÷∕]"), "/"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"(?<=[\d)]) ?[xX] ?(?=[\d(])"), "*"),
    (re.compile(r"\["), "("),
    (re.compile(r"\]"), ")"),
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\{")
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s+(?=\S)")
_ARITHMETIC = re.compile(r"[\d+\-*/(). \t]+")
_OPERATION = re.compile(r"[\d)][ \t]*[+\-*/][ \t]*[\d(-]")
_ODDS_IN_FRONT = re.compile(r"(?:[\s.*/+]|-\s)+")
_ODDS_BEHIND = " \t.*/+-"
_IMPLIED_PRODUCT = re.compile(r"(?<=[\d)])[ \t]*(?=\()")


class Game24:
    """Verifies solutions of the game of 24."""

    name = "game24"

    async def prepare(self) -> None:
        """Nothing is needed."""

    def check(self, task: str) -> None:
        """See whether the task is four whole numbers. Raises `InvalidTask` where it is not."""
        _numbers_of(task)

    async def verify(self, task: str, candidate: str) -> Verification:
        """Return 1 for an expression that makes 24 of the four numbers, and 0 for anything else."""
        numbers = _numbers_of(task)
        expressions = _expressions(candidate[-_CHARACTERS_READ:])
        if not expressions:
            return Verification(0.0, "there is no expression in the text")
        expression = next((each for each in expressions if _mentioned(each) == numbers), expressions[-1])
        return _judged(expression, numbers)


def _judged(expression: str, numbers: list[int]) -> Verification:
    if len(expression) > _MOST_CHARACTERS:
        return Verification(0.0, f"the expression has {len(expression)} characters, more than {_MOST_CHARACTERS}")
    used = _mentioned(expression)
    if used != numbers:
        return Verification(0.0, clipped(f"{expression} uses {_listed(used)} instead of {_listed(numbers)}"))
    try:
        value = _value(ast.parse(_IMPLIED_PRODUCT.sub("*", expression), mode="eval").body)
    except SyntaxError:
        return Verification(0.0, clipped(f"{expression} is not an expression"))
    except ZeroDivisionError:
        return Verification(0.0, clipped(f"{expression} divides by zero"))
    except _OtherOperation:
        return Verification(0.0, clipped(f"{expression} has more than + - * / and parentheses"))
    if value != _GOAL:
        return Verification(0.0, clipped(f"{expression} is {value} and not {_GOAL}"))
    return Verification(1.0, clipped(f"{expression} is {_GOAL}"))


def _numbers_of(task: str) -> list[int]:
    try:
        return game24_numbers(task)
    except UnreadableTask as error:
        raise InvalidTask(f"the task {error}") from error


def _expressions(text: str) -> list[str]:
    """Return the expressions of the place where the solution stands, in order."""
    for boxed in reversed([*_BOXED.finditer(text)][-_BOXES_READ:]):
        found = _arithmetic_of(_in_braces(text, boxed.end()))
        if found:
            return found
    for line in reversed(text.splitlines()[-_LINES_READ:]):
        found = _arithmetic_of(line[-_LINE_CHARACTERS_READ:])
        if found:
            return found
    return []


def _in_braces(text: str, start: int) -> str:
    """Return what stands in the braces that opened before `start`; up to the line's end where they do not close."""
    depth = 1
    for position in range(start, min(len(text), start + _LINE_CHARACTERS_READ)):
        character = text[position]
        depth += (character == "{") - (character == "}")
        if not depth or character == "\n":
            return text[start:position]
    return ""


def _arithmetic_of(line: str) -> list[str]:
    """Return the parts of a line that are arithmetic, in Python's spelling."""
    for spelling, replacement in _SPELLINGS:
        line = spelling.sub(replacement, line)
    for _ in range(_DEEPEST_FRACTION):
        line = _FRACTION.sub(r"((\1)/(\2))", line)
    item = _LIST_ITEM.match(line)
    parts = _ARITHMETIC.findall(line[item.end() :] if item else line)
    return [_trimmed(part) for part in parts if _OPERATION.search(part)]


def _trimmed(part: str) -> str:
    """Return arithmetic without the punctuation of the sentence around it."""
    odds = _ODDS_IN_FRONT.match(part)
    part = (part[odds.end() :] if odds else part).rstrip(_ODDS_BEHIND)
    surplus = part.count(")") - part.count("(")
    while surplus > 0 and part.endswith(")"):
        part, surplus = part[:-1].rstrip(_ODDS_BEHIND), surplus - 1
    while surplus < 0 and part.startswith("("):
        part, surplus = part[1:].lstrip(), surplus + 1
    return part


def _mentioned(expression: str) -> list[int]:
    """Return the numbers of an expression, sorted; huge ones as what no task has."""
    return sorted(int(digits) if len(digits) <= 4 else _LARGEST for digits in re.findall(r"\d+", expression))


def _listed(numbers: list[int]) -> str:
    return " ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")


class _OtherOperation(Exception):
    """Something other than arithmetic."""


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() as number):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
    raise _OtherOperation
