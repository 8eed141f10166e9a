"""The program that runs a candidate and its tests. It runs in the jail, with nothing but the standard library.

Its standard input is a JSON object, `{"token", "code", "tests", "reader"}`; the reader is the source of the module
`unit_tests_task`, which knows what tests are. It writes lines that begin with the token:
`TOKEN malformed WHY` where the tests cannot be run at all; or `TOKEN loaded` once the candidate's own code has been
run, and in the end `TOKEN passed NUMBER TESTS FAILURE`. Texts are in Python's escapes. What the candidate writes or
exits with says nothing. See `unit_tests` for what a test is, and for what a candidate could still forge.

From the moment the candidate's code runs, no verdict goes through what that code could have patched by name: builtins
are taken from a copy, functions of the system are bound before, reports need no library, and this module is none that
can be imported.
"""

import ast
import builtins
import json
import os
import sys
import traceback
import types
from os import _exit, write
from typing import Any

globals()["__builtins__"] = PRISTINE = dict(vars(builtins))  # functions defined from here on look there

_CODE = "candidate.py"
_MOST_CHARACTERS = 200  # of a failure's text


class _Statement:
    """One top-level statement of the tests."""

    def __init__(self, node: ast.stmt, source: str, file: str) -> None:
        self.is_test = isinstance(node, ast.Assert)
        self.code = compile(ast.Module([node], type_ignores=[]), file, "exec", dont_inherit=True)
        self.label = f"line {node.lineno} ({source[:_MOST_CHARACTERS]})"


def main() -> None:
    """Do the job and end the process, whatever the candidate has left running in it."""
    job = json.loads(sys.stdin.buffer.read())
    token = job["token"]
    reports = _silence()
    reader = _reader(job["reader"])
    try:
        statements, functions = _read(reader, job["tests"])
    except reader.UnreadableTask as problem:
        write(reports, f"{token} malformed {_escaped(str(problem))}\n".encode())
        return
    try:
        candidate = _loaded(job["code"])
    except BaseException as error:  # noqa: BLE001 - whatever it raises, SystemExit included
        tests = sum(statement.is_test for statement in statements) + len(functions)
        passed, of, failure = 0, tests or 1, f"the code itself: {_told(error, _CODE)}"
    else:
        write(reports, f"{token} loaded\n".encode())
        names = {**vars(candidate), "__name__": "tests", "__builtins__": PRISTINE}
        passed, of, failure = _run(statements, functions, reader.FILE, names)
    write(reports, f"{token} passed {passed} {of} {_escaped(failure)}\n".encode())
    _exit(0)


def _silence() -> int:
    """Return a descriptor of the standard output; what is written to the standard ones from here on goes nowhere."""
    reports = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return reports


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode()


def _reader(source: str) -> types.ModuleType:
    """The module that reads tests, as a module that nobody can import."""
    reader = types.ModuleType("reader")
    exec(compile(source, "reader.py", "exec", dont_inherit=True), vars(reader))  # noqa: S102 - it is ours
    return reader


def _read(reader: types.ModuleType, tests: str) -> tuple[list[_Statement], list[str]]:
    """Return (the statements, the names of the test functions among them)."""
    nodes, functions = reader.tests_of(tests)
    lines = tests.splitlines()
    try:
        return [_Statement(node, lines[node.lineno - 1].strip(), reader.FILE) for node in nodes], functions
    except reader.NO_PYTHON as error:
        raise reader.no_python(error) from error


def _loaded(code: str) -> types.ModuleType:
    """Run a candidate's own code, as an imported module and not as a script."""
    module = types.ModuleType("candidate")
    sys.modules[module.__name__] = module  # dataclasses look there
    sys.modules["__main__"] = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = dict(vars(builtins))  # else `exec` would give it ours, to change as it likes
    exec(compile(code, _CODE, "exec", dont_inherit=True), vars(module))  # noqa: S102 - it is what the jail is for
    return module


def _run(statements: list[_Statement], functions: list[str], file: str, names: dict[str, Any]) -> tuple[int, int, str]:
    """Return (tests passed, tests, the first failure)."""
    passed, failure = 0, ""
    tests = sum(statement.is_test for statement in statements) + len(functions)
    for statement in statements:
        try:
            exec(statement.code, names)  # noqa: S102 - it is what the jail is for
            passed += statement.is_test
        except BaseException as error:  # noqa: BLE001 - whatever a candidate makes of it
            failure = failure or f"{statement.label}: {_told(error, file)}"
            if not statement.is_test:  # what follows may need it: the run ends, one failed test more
                return passed, tests + 1 if tests else 1, failure
    for name in functions:
        try:
            names[name]()
            passed += 1
        except BaseException as error:  # noqa: BLE001 - whatever a candidate makes of it
            failure = failure or f"{name}: {_told(error, file)}"
    return (passed, tests, failure) if tests else (1, 1, "")


def _told(error: BaseException, file: str) -> str:
    """Return what an error says, and the line of a file that it came from."""
    try:
        said = f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS].removesuffix(": ")
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    except BaseException:  # noqa: BLE001 - `__str__` is the candidate's
        return "an exception that cannot be told"
    return f"{said} in line {lines[-1]}" if lines else said


if __name__ == "__main__":
    main()
