"""What the demonstration shows while it runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.comparison import Comparison, Interval
from dynasor_serve.cli.demonstration import MAX_SAMPLES, Asked
from dynasor_serve.cli.presentation import NO_ANSWER, plural, shortened, stop_words, votes_text

Changed = Callable[[Asked, pb.QueryEvent], None]

_REFRESHES_PER_SECOND = 8
_OTHER_COLUMNS = 62  # width of all but the question, in characters
_SHORTEST_QUESTION, _LONGEST_QUESTION = 16, 44


@contextlib.contextmanager
def watching_each(console: Console, asked: Sequence[Asked]) -> Iterator[Changed]:
    """Shows every query: votes, Certaindex, tokens spent and saved, why it stopped."""
    if not console.is_terminal:
        began = time.monotonic()

        def log(one: Asked, event: pb.QueryEvent) -> None:
            line = event_log_line(one, event)
            if line:
                console.print(
                    f"[{time.monotonic() - began:6.1f} s] {line}", markup=False, highlight=False, soft_wrap=True
                )

        yield log
        return
    with Live(
        get_renderable=lambda: table_of(asked, console.width), console=console, refresh_per_second=_REFRESHES_PER_SECOND
    ) as live:
        yield lambda _one, _event: None
        live.refresh()


@contextlib.contextmanager
def counting(console: Console, title: str, asked: Sequence[Asked]) -> Iterator[Changed]:
    """Shows how far a pass is, in one line."""

    def progress() -> str:
        done = sum(one.is_final for one in asked)
        tokens = sum(one.standing.tokens for one in asked)
        return f"{title}: {done} of {plural(len(asked), 'question')}, {plural(tokens, 'token')}"

    if console.is_terminal:
        with console.status(progress()) as status:
            yield lambda _one, _event: status.update(progress())
    else:
        yield lambda _one, _event: None
    console.print(progress(), highlight=False)


def table_of(asked: Sequence[Asked], width: int) -> Table:
    """All queries as they stand, on a terminal of so many columns."""
    characters = max(_SHORTEST_QUESTION, min(_LONGEST_QUESTION, width - _OTHER_COLUMNS))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("question", no_wrap=True, width=characters)
    table.add_column("answer", no_wrap=True, width=14)
    for name, columns in (("votes", 8), ("certaindex", 10), ("tokens", 6), ("saved*", 6)):
        table.add_column(name, justify="right", no_wrap=True, width=columns)
    table.add_column("stopped", no_wrap=True, min_width=11)
    for one in asked:
        table.add_row(*_cells(one, characters))
    return table


def event_log_line(one: Asked, event: pb.QueryEvent) -> str:
    """One event of one query; empty for events that say nothing to a person."""
    standing, name = one.standing, one.question.id
    match event.WhichOneof("event"):
        case "sample_finished":
            sample = event.sample_finished
            answer = shortened(sample.answer, 30) if sample.HasField("answer") else NO_ANSWER
            score = f"certaindex {standing.certaindex:.2f}, {plural(standing.tokens, 'token')}"
            return f"{name}: sample {sample.samples} says {answer}; {score}; votes: {votes_text(standing)}"
        case "call_failed":
            return f"{name}: a call failed, {standing.last_failure}"
        case "finished":
            outcome = event.finished.outcome
            saved = f"{outcome.ledger.tokens_saved_estimate} saved (estimate)"
            verdict = "right" if one.is_correct else f"WRONG, it is {one.question.gold}"
            why = f"{stop_words(outcome.stop_reason)}: {outcome.stop_detail}"
            if outcome.HasField("error"):
                why = f"failed: {outcome.error.reason}: {outcome.error.message}"
            answer = shortened(outcome.answer, 30) or NO_ANSWER
            cost = f"{plural(outcome.samples, 'sample')}, {outcome.ledger.tokens_spent} tokens spent, {saved}"
            return f"{name}: ANSWER {answer} ({verdict}); {cost}; {why}"
        case _:
            return ""


def summary(comparison: Comparison, *, rule: str, early_seconds: float, fixed_seconds: float) -> Table:
    """Both passes side by side."""
    early, fixed = comparison.early, comparison.fixed
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("stopped early", justify="right")
    table.add_column("fixed budget", justify="right")
    table.add_row("rule", rule, f"even (all {MAX_SAMPLES} samples)")
    table.add_row("right answers", f"{early.correct} of {early.questions}", f"{fixed.correct} of {fixed.questions}")
    table.add_row("accuracy", f"{early.accuracy:.0%}", f"{fixed.accuracy:.0%}")
    table.add_row("samples", f"{early.samples:,}", f"{fixed.samples:,}")
    table.add_row("tokens spent", f"{early.tokens:,}", f"{fixed.tokens:,}")
    table.add_row("seconds", f"{early_seconds:.1f}", f"{fixed_seconds:.1f}")
    return table


def conclusions(comparison: Comparison, *, estimated_saved: int, is_replay: bool) -> list[str]:
    """What the two passes say, each with how it was obtained."""
    estimated = estimated_saved / (estimated_saved + comparison.early.tokens)
    source = (
        "Both passes replay the same recorded samples, so nothing but the rule differs."
        if is_replay
        else "Each pass drew its own samples, so the difference in accuracy holds sampling noise as well."
    )
    return [
        f"Tokens saved, measured against the fixed pass: {_percent(comparison.saving)}",
        f"Accuracy difference, measured: {_points(comparison.accuracy_difference)}",
        f"Tokens saved, as the ledger estimated live (*): {estimated:.0%}, {plural(estimated_saved, 'token')}",
        "",
        f"Intervals: 95 % bootstrap over the {comparison.early.questions} questions. {source}",
        "(*) A query that stops early never sees its cap: live, the rest is priced at its own mean tokens per sample.",
    ]


def _cells(one: Asked, characters: int) -> list[Text]:
    standing = one.standing
    question = shortened(one.question.question, characters)
    if not standing.samples and not one.is_final:
        waiting = "" if standing.phase == "unknown" else "…"
        return [Text(question, "dim" if not waiting else ""), Text(waiting)]
    votes = standing.votes
    leader = standing.outcome.answer if standing.outcome else votes[0][0]
    leading = next((count for answer, count in votes if answer == leader), 0)
    mark, style = ("✓", "green") if one.is_correct else ("✗", "red")
    answer = Text(
        f"{mark if one.is_final else ' '} {shortened(leader, 12) or NO_ANSWER}", style if one.is_final else ""
    )
    saved, why = Text(""), Text("")
    if standing.outcome is not None:
        saved = Text(str(standing.outcome.ledger.tokens_saved_estimate), "green")
        stopped = standing.outcome.stop_reason.removeprefix("stop-")
        why = Text(one.error or stopped, "red" if one.error else "")
    return [
        Text(question),
        answer,
        Text(f"{leading} of {standing.samples}"),
        Text(f"{standing.certaindex:.2f}"),
        Text(str(standing.tokens)),
        saved,
        why,
    ]


def _percent(interval: Interval) -> str:
    return f"{interval.estimate:.0%} [{interval.low:.0%} to {interval.high:.0%}]"


def _points(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    return f"{100 * interval.estimate:+.1f} points [{low:+.1f} to {high:+.1f}]"
