"""Verifiers by their names, and what each can be told: the part of a query that only its verifier understands.

Admission (`query.validated`) and the evaluator ask the same functions, so that a query whose every path would be
refused later is refused before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dynasor_serve.programs.unit_tests_task import WRITE_TESTS, UnreadableTask, tests_of

MAX_TASK_BYTES = 1 << 20
MOST_READ_BYTES = 32 << 10
"""Of tests that are read here: 0.2 s at worst, which nobody can interrupt. Longer ones only the jail reads."""

_LARGEST = 10_000


def game24_numbers(task: str) -> list[int]:
    """The four numbers of a task of `game24`, sorted. Raises `UnreadableTask` where it is none."""
    words = task.replace(",", " ").split()
    if len(words) != 4 or not all(word.isascii() and word.isdecimal() and len(word) <= 4 for word in words):
        raise UnreadableTask(f"is {task[:50]!r}", f"give four whole numbers below {_LARGEST}, like '4 9 10 13'")
    return sorted(int(word) for word in words)


def check_unit_tests(task: str) -> None:
    """Sees whether a task holds tests, as far as that is quickly seen. Raises `UnreadableTask` where it does not."""
    if not task.strip():
        raise UnreadableTask("is empty", WRITE_TESTS)
    size = len(task.encode("utf-8", "replace"))
    if size > MAX_TASK_BYTES:
        raise UnreadableTask(f"has {size} bytes", f"give at most {MAX_TASK_BYTES}")
    if size <= MOST_READ_BYTES:
        tests_of(task)


TASK_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {"game24": game24_numbers, "unit-tests": check_unit_tests}
"""Verifier -> raises `UnreadableTask` for a task that it cannot work with."""
