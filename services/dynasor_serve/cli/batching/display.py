"""How far a batch is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dynasor_serve.cli.batching.totals import Totals, costs_text
from dynasor_serve.cli.presentation import printable

_REFRESHES_PER_SECOND = 4
_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal
_BAR_COLUMNS = 40


class Display:
    """What a batch tells the person who waits for it; made by `displayed`."""

    def __init__(self, show: Callable[[], None], say: Callable[[str], None], *, is_live: bool) -> None:
        self._show = show
        self._say = say
        self._is_live = is_live
        self._began = time.monotonic()
        self.trouble = ""

    @property
    def seconds(self) -> float:
        """Since the first line was asked."""
        return time.monotonic() - self._began

    def changed(self) -> None:
        """The totals have changed."""
        self._show()

    def say(self, line: str) -> None:
        """Something that stays."""
        self._say(printable(line))

    def away(self, trouble: str) -> None:
        """Why nothing comes; empty once it comes again."""
        if not self._is_live and (trouble or self.trouble):
            self._say(printable(trouble or "the gateway is back; nothing was lost"))
        self.trouble = trouble


@contextlib.contextmanager
def displayed(totals: Totals) -> Iterator[Display]:
    """Shows how far the batch is until the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        show = _now_and_then(lambda: _print(progress_line(totals, display.seconds)))
        display = Display(show, _print, is_live=False)
        yield display
        return

    def say(line: str) -> None:
        live.console.print(line, markup=False, highlight=False)

    display = Display(lambda: None, say, is_live=True)
    with Live(
        get_renderable=lambda: _picture(totals, display), console=console, refresh_per_second=_REFRESHES_PER_SECOND
    ) as live:
        yield display


def progress_line(totals: Totals, seconds: float) -> str:
    """The whole progress in one line.

    Args:
        seconds: that this run has taken so far.
    """
    share = f"{totals.done / totals.lines:.0%}" if totals.lines else "100%"
    return f"{totals.done:,} of {totals.lines:,} lines ({share}) · {_pace(totals, seconds)} · {costs_text(totals)}"


def _pace(totals: Totals, seconds: float) -> str:
    """Queries per second of this run, and when it will be done at that."""
    asked = totals.done - totals.found
    if not asked or seconds <= 0:
        return "waiting for the first answer"
    rate = asked / seconds
    left = timedelta(seconds=round((totals.lines - totals.done) / rate))
    return f"{rate:.1f} queries/s · {left} left"


def _picture(totals: Totals, display: Display) -> Group:
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(totals.lines, 1), completed=totals.done, width=_BAR_COLUMNS),
        f"{totals.done:,}/{totals.lines:,}",
        _pace(totals, display.seconds),
    )
    lines: list[RenderableType] = [bar, Text(costs_text(totals), overflow="ellipsis", no_wrap=True)]
    if display.trouble:
        lines.append(Text(printable(display.trouble), style="yellow"))
    return Group(*lines)


def _now_and_then(act: Callable[[], None]) -> Callable[[], None]:
    """Acts when it is called, but not again for a while."""
    acted_at = time.monotonic()

    def maybe() -> None:
        nonlocal acted_at
        if time.monotonic() - acted_at >= _PLAIN_SECONDS:
            acted_at = time.monotonic()
            act()

    return maybe


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
