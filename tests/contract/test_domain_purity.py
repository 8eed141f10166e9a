"""The domain does no I/O and reads neither clock nor randomness.

import-linter forbids the libraries of the outside (pyproject.toml, contract `pure-domain`). This covers what it leaves:
the standard library's modules and the builtins. A module imported under `if TYPE_CHECKING:` is only a name for an
annotation (`random.Random` as a parameter) and is fine.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVE = Path(__file__).parents[2] / "services" / "dynasor_serve"
DOMAIN = ("certaindex", "programs", "scheduling")
FORBIDDEN_MODULES = {
    "asyncio",
    "concurrent",
    "datetime",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "queue",
    "random",
    "secrets",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}
FORBIDDEN_BUILTINS = {"breakpoint", "input", "open", "print"}


def outside_world(source: str) -> list[str]:
    """What a module's source touches that the domain must not: `line 3: imports time`."""
    return [f"line {line}: {what}" for line, what in touched(ast.parse(source))]


def touched(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Walk the tree, but not into `if TYPE_CHECKING:`."""
    match node:
        case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), orelse=otherwise):
            for statement in otherwise:
                yield from touched(statement)
            return
        case ast.Import(names=names):
            for alias in names:
                if alias.name.partition(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, f"imports {alias.name}"
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FORBIDDEN_MODULES:
            yield node.lineno, f"imports from {module}"
        case ast.Call(func=ast.Name(name)) if name in FORBIDDEN_BUILTINS:
            yield node.lineno, f"calls {name}()"
        case ast.AsyncFunctionDef() | ast.Await():
            yield node.lineno, "is asynchronous"
        case ast.Attribute(value=ast.Name("np" | "numpy"), attr="random"):
            yield node.lineno, "draws from numpy.random; take a Generator as a parameter"
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from touched(child)


@pytest.mark.parametrize("package", DOMAIN)
def test_the_domain_touches_nothing_outside_itself(package: str) -> None:
    files = sorted((SERVE / package).rglob("*.py"))
    assert files, f"there is no module in {package}"

    found = {file.relative_to(SERVE).as_posix(): outside_world(file.read_text()) for file in files}

    assert not {name: touches for name, touches in found.items() if touches}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time", ["line 1: imports time"]),
        ("import os.path as p", ["line 1: imports os.path"]),
        ("def f():\n    from random import choice", ["line 2: imports from random"]),
        ("open('x')", ["line 1: calls open()"]),
        ("async def f(): ...", ["line 1: is asynchronous"]),
        ("np.random.shuffle(x)", ["line 1: draws from numpy.random; take a Generator as a parameter"]),
        ("if TYPE_CHECKING:\n    import random", []),
        ("import math\nreopen('x')\ntimes.time()", []),
    ],
)
def test_the_check_itself_sees_what_it_should(source: str, expected: list[str]) -> None:
    assert outside_world(source) == expected
