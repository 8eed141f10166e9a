"""Finds the Python in what a model has written."""

from __future__ import annotations

_FENCE = "```"
_PYTHON = frozenset({"python", "python3", "py"})


def last_python_block(text: str) -> str:
    """Return the last fenced block that is marked as Python, else the last that is not marked, else the whole text.

    A block that is cut off is read to the end of the text.
    """
    marked: str | None = None
    unmarked: str | None = None
    lines = text.split("\n")
    start, language = -1, ""  # of the block that is open
    for number, line in enumerate(lines):
        if not line.lstrip(" ").startswith(_FENCE):
            continue
        if start < 0:
            start, language = number + 1, line.strip().lstrip("`").strip().lower()
            continue
        marked, unmarked = _noted("\n".join(lines[start:number]), language, marked, unmarked)
        start = -1
    if start >= 0:
        marked, unmarked = _noted("\n".join(lines[start:]), language, marked, unmarked)
    if marked is not None:
        return marked
    return text if unmarked is None else unmarked


def _noted(block: str, language: str, marked: str | None, unmarked: str | None) -> tuple[str | None, str | None]:
    if language in _PYTHON:
        return block, unmarked
    return (marked, block) if not language else (marked, unmarked)
