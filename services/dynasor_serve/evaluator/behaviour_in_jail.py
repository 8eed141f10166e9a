"""The program that runs a candidate and notes what it does. It runs in the jail, with nothing but the standard library.

Its standard input is a JSON object, `{"token", "code", "tests", "reader"}`; the reader is the source of the module
`unit_tests_task`, which knows what tests are. In the end it writes `TOKEN DIGEST`, where the digest
stands for what happened in each test: that it passed; what the left side of a comparison that failed was; or the type
of what was raised. Nothing is written where the candidate's own code cannot be run. See `behaviour`.
"""

import ast
import builtins
import hashlib
import json
import os
import re
import sys
import types
from os import _exit, write
from typing import Any

globals()["__builtins__"] = PRISTINE = dict(vars(builtins))  # functions defined from here on look there

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MOST_CHARACTERS = 100_000  # of a value
_MOST_LEVELS = 8


def main() -> None:
    """Do the job and end the process, whatever the candidate has left running in it."""
    job = json.loads(sys.stdin.buffer.read())
    reports = os.dup(sys.stdout.fileno())
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    digest, encode = hashlib.sha256, json.dumps
    statements, functions = _reader(job["reader"]).tests_of(job["tests"])
    module = types.ModuleType("candidate")
    sys.modules[module.__name__] = module  # dataclasses look there
    sys.modules["__main__"] = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = dict(vars(builtins))  # else `exec` would give it ours, to change as it likes
    try:
        exec(compile(job["code"], "candidate.py", "exec", dont_inherit=True), vars(module))  # noqa: S102 - what the jail is for
    except BaseException:  # noqa: BLE001 - whatever it raises, SystemExit included
        _exit(1)
    outcomes = _outcomes(statements, functions, {**vars(module), "__name__": "tests", "__builtins__": PRISTINE})
    write(reports, f"{job['token']} {digest(encode(outcomes).encode()).hexdigest()}\n".encode())
    _exit(0)


def _reader(source: str) -> types.ModuleType:
    """The module that reads tests, as a module that nobody can import."""
    reader = types.ModuleType("reader")
    exec(compile(source, "reader.py", "exec", dont_inherit=True), vars(reader))  # noqa: S102 - it is ours
    return reader


def _outcomes(statements: list[ast.stmt], functions: list[str], names: dict[str, Any]) -> list[str]:
    outcomes = []
    for node in statements:
        if isinstance(node, ast.Assert):
            outcomes.append(_outcome(node.test, names))
            continue
        try:
            exec(compile(ast.Module([node], type_ignores=[]), "tests.py", "exec", dont_inherit=True), names)  # noqa: S102
        except BaseException as error:  # noqa: BLE001 - what follows may need it: the run ends
            return [*outcomes, f"ends: {type(error).__name__}"]
    for name in functions:
        try:
            names[name]()
            outcomes.append("passed")
        except BaseException as error:  # noqa: BLE001 - whatever a candidate makes of it
            outcomes.append(f"raised: {type(error).__name__}")
    return outcomes


def _outcome(test: ast.expr, names: dict[str, Any]) -> str:
    """What an assert statement finds."""
    try:
        if _value(test, names):
            return "passed"
        if isinstance(test, ast.Compare):
            return f"value: {_shown(_value(test.left, names), _MOST_LEVELS)[:_MOST_CHARACTERS]}"
    except BaseException as error:  # noqa: BLE001 - whatever a candidate makes of it
        return f"raised: {type(error).__name__}"
    return "failed"


def _value(expression: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(expression), "tests.py", "eval", dont_inherit=True), names)  # noqa: S307 - as above


def _shown(value: Any, levels: int) -> str:
    """A value in words that are the same in each process: sets in order, no addresses."""
    if type(value) in (list, tuple) and levels:
        return f"{type(value).__name__}({', '.join(_shown(each, levels - 1) for each in value)})"
    if type(value) in (set, frozenset) and levels:
        return f"{type(value).__name__}({', '.join(sorted(_shown(each, levels - 1) for each in value))})"
    if type(value) is dict and levels:
        items = (f"{_shown(key, levels - 1)}: {_shown(each, levels - 1)}" for key, each in value.items())
        return f"dict({', '.join(sorted(items))})"
    return _ADDRESS.sub("", repr(value))


if __name__ == "__main__":
    main()
