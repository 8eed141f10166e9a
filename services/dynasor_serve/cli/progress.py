"""Live progress on standard error: a line that changes on a terminal, a line per step elsewhere."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape

_TICK = re.compile(r" \d+ s$")  # the elapsed time that a long stage repeats


@contextlib.contextmanager
def changing_line(*, plain_lines: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows the current state of one thing.

    Args:
        plain_lines: whether each state becomes a line where standard error is no terminal.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _print_changes() if plain_lines else lambda _: None
        return
    with console.status("asking") as status:
        yield lambda line: status.update(escape(line))


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Yields a function that takes each stage of a start; on a terminal a finished stage stays with a tick.

    The function may be called after the block, too: then it prints a line.
    """
    console = Console(stderr=True)
    began = time.monotonic()
    status = console.status("") if console.is_terminal else None
    current = ""

    def show(line: str) -> None:
        nonlocal current
        elapsed = time.monotonic() - began
        if status is None:
            print(f"[{elapsed:6.1f} s] {line}", file=sys.stderr, flush=True)
            return
        if not _TICK.search(line):
            tick()
            current = line
        status.update(escape(f"{line}  ({elapsed:.0f} s)"))

    def tick() -> None:
        if current:
            console.print(f"[green]✓[/] {escape(current)}", highlight=False)

    with status or contextlib.nullcontext():
        yield show
    tick()
    status = None


def _print_changes() -> Callable[[str], None]:
    last = ""

    def show(line: str) -> None:
        nonlocal last
        if line != last:
            print(line, file=sys.stderr, flush=True)
        last = line

    return show
