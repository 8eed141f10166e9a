"""The game of 24: what counts as the solution in a text, and whether it is right."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.evaluator.verifiers.game24 import Game24
from dynasor_serve.evaluator.verifiers.verifier import MAX_DETAIL_CHARACTERS, InvalidTask, Status

RIGHT = [
    ("4 9 10 13", "4 * (10 - (13 - 9)) = 24"),
    (
        "4 9 10 13",
        "13 - 9 = 4 (left: 4 4 10)\n10 - 4 = 6 (left: 4 6)\n4 * 6 = 24 (left: 24)\nAnswer: 4 * (10 - (13 - 9)) = 24",
    ),
    ("4 9 10 13", "24 = (10-4)*(13-9)"),
    ("4 9 10 13", "(10 - 4) * (13 - 9) = 6 * 4 = 24."),
    ("4 9 10 13", "I tried 4 + 9 + 10 + 13 = 36.\n\n**(10 - 4) * (13 - 9) = 24**"),
    ("4 9 10 13", "1. (10 - 4) * (13 - 9)"),
    ("4 9 10 13", "- (10 - 4) * (13 - 9)"),
    ("4 9 10 13", "The answer (found by search: (10 - 4) * (13 - 9))"),
    ("4 9 10 13", r"So $\boxed{(10-4)\times(13-9)}$, since 6 * 4 = 24."),
    ("4 9 10 13", r"\boxed{(10-4)(13-9)}"),
    ("4 9 10 13", r"\[ (10 − 4) × (13 − 9) = 24 \]"),
    ("4 9 10 13", r"\left(10-4\right)\cdot\left(13-9\right)"),
    ("3 3 8 8", "8 / (3 - 8 / 3)"),
    ("3 3 8 8", r"\boxed{\frac{8}{3-\frac{8}{3}}} = 24"),
    ("3,3,8,8", "8 ÷ (3 - 8 ÷ 3) = 24"),
    ("1 1 11 11", "(1 + 11) * (1 + 1) = 24 is wrong.\nThe solution is 11 + 11 + 1 + 1 = 24"),
    ("2 3 4 1", "2 x 3 x 4 x 1 = 24"),
    ("24 0 5 6", "24 + 0 * (5 - 6)"),
    ("1 5 7 13", "-(1 - 5) * (13 - 7) = 24"),
]

WRONG = [
    ("4 9 10 13", "", "no expression"),
    ("4 9 10 13", "There is no solution.", "no expression"),
    ("4 9 10 13", r"\boxed{24}", "no expression"),
    ("4 9 10 13", "4 * 6 = 24", "instead of 4 9 10 13"),
    ("4 9 10 13", "(10 - 4) * (13 - 9) * 1 = 24", "instead of 4 9 10 13"),
    ("4 9 10 13", "(10 - 4) * (13 - 9)\n12 * 2 = 24", "instead of 4 9 10 13"),
    ("4 9 10 13", "4 + 9 + 10 + 13 = 24", "is 36 and not 24"),
    ("4 9 10 13", "(4 + 9 - 13) / 10 - 24", "instead of 4 9 10 13"),
    ("4 9 10 13", "10 / (4 + 9 - 13)", "divides by zero"),
    ("4 9 10 13", "4 ** 9 + 10 + 13", "more than + - * /"),
    ("4 9 10 13", "4 // 9 + 10 + 13", "more than + - * /"),
    ("4 9 10 13", "4.9 + 10 + 13", "more than + - * /"),
    ("4 9 10 13", "(4 + 9 * (10 + 13", "is not an expression"),
    ("4 9 10 13", "04 + 9 + 10 + 13", "is not an expression"),
    ("4 9 10 13", "49 + 10 + 13", "instead of 4 9 10 13"),
    ("3 3 8 8", "8 / (3 - 8 / 3) + 0.0000000001 - 0.0000000001", "instead of"),
]

HOSTILE = [
    "9**9**9**9",
    "(" * 5000 + "4+9" + ")" * 5000,
    "-" * 100_000 + "4",
    "4+" * 200_000,
    "\\boxed{" * 100_000,
    "\\frac{" * 100_000,
    "\\frac{1}{" * 1000 + "}" * 1000,
    "1" * 1_000_000 + "+1",
    "4 9 10 13 + " + "9" * 5000,
    "1 + 1\n" * 100_000,
    "(" * 120 + "4" + ")" * 60 + "+9+10+13" + ")" * 60,
    "\x00\u202e\ud800 4 + \x00 9",
    "4\u00b2 + 9 + 10 + 13",
    "٤ + ٩ + 10 + 13",
    "__import__('os').system('touch hostile') + 4",
    " " * 1_000_000,
]


@pytest.mark.parametrize(("task", "candidate"), RIGHT)
async def test_right_solutions(task: str, candidate: str) -> None:
    verification = await Game24().verify(task, candidate)

    assert verification.reward == 1.0, verification.detail


@pytest.mark.parametrize(("task", "candidate", "why"), WRONG)
async def test_wrong_solutions_say_why(task: str, candidate: str, why: str) -> None:
    verification = await Game24().verify(task, candidate)

    assert verification.reward == 0.0
    assert verification.status is Status.VERIFIED
    assert why in verification.detail


@pytest.mark.parametrize("candidate", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_texts_are_judged_like_others(candidate: str) -> None:
    verification = await Game24().verify("4 9 10 13", candidate)

    assert verification.reward == 0.0
    assert len(verification.detail) <= MAX_DETAIL_CHARACTERS
    assert verification.detail.encode(), "it can be sent"


@pytest.mark.parametrize(
    "task",
    ["", "4 9 10", "4 9 10 13 1", "4 9 10 x", "4 9 10 -13", "4 9 10 1.5", "4 9 10 99999", "٤ 9 10 13", "4;9;10;13"],
)
def test_a_task_is_four_whole_numbers(task: str) -> None:
    with pytest.raises(InvalidTask, match="four whole numbers below 10000, like '4 9 10 13'"):
        Game24().check(task)


@given(st.text(max_size=300) | st.text(alphabet="0123456789+-*/(){}= \n\\boxedfracleight×", max_size=300))
async def test_any_text_gets_a_verdict(candidate: str) -> None:
    verification = await Game24().verify("1 2 3 4", candidate)

    assert verification.reward in (0.0, 1.0)


Tree = tuple[str, Fraction | None, list[int]]


def joined(left: Tree, right: Tree, operation: str) -> Tree:
    """An operation on two expressions, in parentheses, with its value (None: none) and its numbers."""
    value: Fraction | None = None
    if left[1] is not None and right[1] is not None:
        match operation:
            case "+":
                value = left[1] + right[1]
            case "-":
                value = left[1] - right[1]
            case "*":
                value = left[1] * right[1]
            case "/" if right[1]:
                value = left[1] / right[1]
    return f"({left[0]} {operation} {right[0]})", value, left[2] + right[2]


numbers = st.integers(1, 13).map(lambda number: (str(number), Fraction(number), [number]))
trees = st.recursive(numbers, lambda inner: st.builds(joined, inner, inner, st.sampled_from("+-*/")), max_leaves=4)


@given(trees.filter(lambda tree: len(tree[2]) == 4))
async def test_every_expression_of_the_four_numbers_is_judged_by_its_exact_value(tree: Tree) -> None:
    expression, value, used = tree
    verification = await Game24().verify(" ".join(map(str, used)), f"Answer: {expression} = 24")

    assert verification.reward == (1.0 if value == 24 else 0.0), verification.detail
