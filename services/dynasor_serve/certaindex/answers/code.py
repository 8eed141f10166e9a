"""Programs in Python: found in what a model has written, and in one spelling."""

import ast
import warnings

MAX_CODE_CHARACTERS = 4000

_FENCE = "```"
_PYTHON = frozenset({"python", "python3", "py"})


def last_program(text: str) -> str | None:
    """Return the last fenced block that is marked as Python, else the last that is not marked; None if there is none.

    A block that is cut off is read to the end of the text. Time is linear.
    """
    marked: str | None = None
    unmarked: str | None = None
    block: list[str] | None = None
    language = ""
    for line in [*text.split("\n"), _FENCE]:
        if not line.lstrip(" ").startswith(_FENCE):
            if block is not None:
                block.append(line)
        elif block is None:
            block, language = [], line.strip().lstrip("`").strip().lower()
        else:
            if language in _PYTHON:
                marked = "\n".join(block)
            elif not language:
                unmarked = "\n".join(block)
            block = None
    found = unmarked if marked is None else marked
    return found if found and found.strip() else None


def normalised_program(code: str) -> str | None:
    """Return a program without comments, docstrings and layout; None if it is no Python, is empty or too long.

    Names are left alone: programs that differ in them alone behave alike, and the evaluator sees that.
    """
    if len(code) > MAX_CODE_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that are none, and the like
            tree = ast.parse(code)
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    _drop_docstring(node)
            program = ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return program if program and len(program) <= MAX_CODE_CHARACTERS else None


def _drop_docstring(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:]
        if not node.body and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]
