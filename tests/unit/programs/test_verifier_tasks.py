"""What verifiers are told is read at admission: what they could not work with is refused there, by name."""

from __future__ import annotations

import warnings

import pytest

from dynasor_serve.evaluator.sandbox.isolation import Sandbox
from dynasor_serve.evaluator.verifiers.registry import verifiers
from dynasor_serve.evaluator.verifiers.verifier import InvalidTask
from dynasor_serve.programs.query import (
    VERIFIERS,
    InvalidQuery,
    Query,
    RewardParameters,
    RewardSource,
    validated,
)
from dynasor_serve.programs.verifier_tasks import MOST_READ_BYTES

GOOD = {
    "game24": ["4 9 10 13", "1,1,1,1", " 0 0 0 9999\n"],
    "unit-tests": [
        "assert f(2) == 4",
        "def test_a(): assert f(1) == 1",
        "check(f)",
        "for x in range(3):\n    assert f(x) == x * x",
        r"assert f('\d')",  # which Python warns of
        "assert (f(1), 'it is one')",
    ],
}
BAD = [
    ("game24", "", "is ''; give four whole numbers below 10000, like '4 9 10 13'"),
    ("game24", "4 9 10", "give four whole numbers"),
    ("game24", "four nine ten thirteen", "is 'four nine ten thirteen'"),
    ("game24", "4 9 10 ²", "give four whole numbers"),
    ("game24", "4 9 10 10000", "give four whole numbers"),
    ("unit-tests", "", "is empty; write assert statements, or functions named test_"),
    ("unit-tests", " \n", "is empty"),
    ("unit-tests", "assert f(", "is no Python: SyntaxError: '(' was never closed (tests.py, line 1)"),
    ("unit-tests", "assert 1\x00", "null bytes"),
    ("unit-tests", "(" * 10_000, "is no Python"),
    ("unit-tests", "-" * 30_000 + "1", "is no Python"),
    ("unit-tests", "x = 1\n'text'\ndef helper(): pass", "tests nothing; write assert statements, or functions named"),
    ("unit-tests", "async def test_a(): pass", "coroutine test_a, which nobody awaits; make it a plain function"),
    ("unit-tests", "class Tests:\n  def test_a(self): pass", "has tests in class Tests, which would not be run"),
    ("unit-tests", "x" * 900_000 + "é" * 90_000, "has 1080000 bytes; give at most 1048576"),
]


def judged_by(verifier: str, task: str) -> Query:
    return Query("model", "even", prompt="?", reward=RewardParameters(RewardSource.VERIFIER, "", "", verifier, task))


def test_what_can_be_asked_for_is_what_the_evaluator_has() -> None:
    assert set(VERIFIERS) == verifiers(Sandbox()).keys() == GOOD.keys()


@pytest.mark.parametrize(("verifier", "task"), [(name, task) for name, tasks in GOOD.items() for task in tasks])
def test_a_task_that_can_be_read_passes_without_a_word(verifier: str, task: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        validated(judged_by(verifier, task))
        verifiers(Sandbox())[verifier].check(task)

    assert not said


@pytest.mark.parametrize(("verifier", "task", "words"), BAD)
def test_a_task_that_cannot_be_read_is_refused_by_admission_and_evaluator_alike(
    verifier: str, task: str, words: str
) -> None:
    with pytest.raises(InvalidQuery) as refused:
        validated(judged_by(verifier, task))
    with pytest.raises(InvalidTask) as refused_there:
        verifiers(Sandbox())[verifier].check(task)

    assert refused.value.field == "reward.task"
    assert words in str(refused.value)
    assert words in str(refused_there.value)


def test_tests_are_not_compiled_here() -> None:
    """The compilers of CPython 3.12 and 3.13 crash the process of this."""
    validated(judged_by("unit-tests", "assert " + "[" * 40 + "a" + " for a in b]" * 40))
    validated(judged_by("unit-tests", "return 5"))


def test_long_tests_are_left_to_the_evaluator() -> None:
    """Python's own parser reads them, which takes a while and cannot be interrupted."""
    long = "assert f(\n" + "#" * MOST_READ_BYTES

    validated(judged_by("unit-tests", long))
