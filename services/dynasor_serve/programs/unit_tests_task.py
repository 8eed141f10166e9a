"""The task of the verifier `unit-tests`: Python that is run behind the candidate's. Needs the standard library alone.

It is read at admission (`verifier_tasks`), and again where it is run: the evaluator sends the source of this module
into the jail, which has no other of ours. Only there is it compiled: compilers of CPython 3.12 and 3.13 die of forty
nested comprehensions, where the parser minds nothing that we know of.
"""

from __future__ import annotations

import ast
import warnings
from typing import NamedTuple

FILE = "tests.py"
"""What tracebacks call it."""
WRITE_TESTS = "write assert statements, or functions named test_…"
MOST_CHARACTERS = 200
"""Of a text that is quoted."""
NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What Python raises for a text that is none."""

# Statements that only prepare others: they alone test nothing.
_PREPARATION = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Pass,
)


class UnreadableTask(ValueError):
    """A task that its verifier cannot work with.

    Attributes:
        wrong: what is wrong, to be read behind the name of the task.
        right: what would be right.
    """

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(f"{wrong}; {right}")
        self.wrong = wrong
        self.right = right


class Tests(NamedTuple):
    """The tests of a task.

    Attributes:
        statements: at the top level, in order.
        functions: names of the test functions among them.
    """

    statements: list[ast.stmt]
    functions: list[str]


def tests_of(task: str) -> Tests:
    """The tests of a task. Raises `UnreadableTask` where it is no Python, or tests nothing that would be run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd and yet Python
            body = ast.parse(task, FILE).body
    except NO_PYTHON as error:
        raise no_python(error) from error
    functions = _functions_of(body)
    if not functions and all(isinstance(node, _PREPARATION) or _is_text(node) for node in body):
        raise UnreadableTask("tests nothing", WRITE_TESTS)
    return Tests(body, functions)


def no_python(error: BaseException) -> UnreadableTask:
    """What the parser or the compiler says."""
    said = f"{type(error).__name__}: {error}"[:MOST_CHARACTERS].removesuffix(": ")
    return UnreadableTask(f"is no Python: {said}", WRITE_TESTS)


def _functions_of(body: list[ast.stmt]) -> list[str]:
    functions: dict[str, None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            functions[node.name] = None
        if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_"):
            wrong = f"has the coroutine {node.name[:MOST_CHARACTERS]}, which nobody awaits"
            raise UnreadableTask(wrong, "make it a plain function")
        if isinstance(node, ast.ClassDef) and any(
            isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name.startswith("test_")
            for each in node.body
        ):
            wrong = f"has tests in class {node.name[:MOST_CHARACTERS]}, which would not be run"
            raise UnreadableTask(wrong, "make them functions named test_…")
    return list(functions)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
