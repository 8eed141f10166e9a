"""`dynasor replay`: what would rules have saved on recorded programs, and what would it have cost in answers?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dynasor_serve.certaindex.accuracy_policy import AccuracyPolicy, PolicyError, read_policy
from dynasor_serve.certaindex.rules.registry import rule_catalogue
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import Json, one_line_json
from dynasor_serve.cli.scores import interval_text, score_json
from dynasor_serve.engines.replay.traces import TraceFormatError
from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.simulation.frontier import NoPlots, draw_frontiers
from dynasor_serve.simulation.replay import MEAN, Replay, ReplaySettings, Row, replay_files

app = typer.Typer()


@app.command()
def replay(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILES]...", help="Recorded traces, or directories of them; the bundled ones if none."),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", help="A rule's type string, as often as you like (see `dynasor rules`); all if none."),
    ] = None,
    cap: Annotated[
        int | None, typer.Option(min=1, help="Most samples of a vote.  [default: all that are recorded]")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Samples of a vote that run side by side.")] = 1,
    shuffles: Annotated[
        int, typer.Option(min=0, max=10_000, help="Random orders of each vote's samples; 0 takes the recorded one.")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Of the shuffles.")] = 0,
    chain_rule: Annotated[
        str | None, typer.Option(help="Settles the chains of a vote over chains before they vote.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="A policy that `dynasor calibrate` wrote: its rule, too, at its cap and width, on its model."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: accuracy against tokens, per dataset.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Ask stopping rules about recorded programs: accuracy, tokens and what a plain smaller budget would have scored.

    Votes, chains and trees are replayed under the rules that watch them. Tokens are net of probes and of cancelled
    samples; the change of accuracy is against the same program run to its cap, with a 95 % interval over questions.
    """
    try:
        promised = None if policy is None else _policy(policy)
        if promised is not None:
            cap = promised.cap if cap is None else cap
            rules = [*(rules or ()), promised.rule]
        settings = ReplaySettings(cap=cap, width=width, shuffles=shuffles, seed=seed, chain_rule=chain_rule)
        with _progress(shown=not as_json) as progressed:
            replayed = _replay(files or [TRACES], rules, settings, progressed)
            rows = replayed.rows()
        if promised is not None:
            _check_policy(promised, rows, settings)
        if plot is not None:
            draw_frontiers(rows, replayed.curves(), plot)
    except InvalidRule as error:
        raise bad_input(str(error), "INVALID_RULE") from error
    except TraceFormatError as error:
        raise bad_input(str(error), "INVALID_TRACES") from error
    except PolicyError as error:
        raise bad_input(f"--policy {policy}: {error}", "INVALID_POLICY") from error
    except (NoPlots, OSError) as error:
        raise bad_input(f"--plot {plot}: {error}") from error
    if as_json:
        print(one_line_json({"rows": [row_json(row) for row in rows]}))
    else:
        _print_tables(rows)


def row_json(row: Row) -> dict[str, Json]:
    """The fixed keys of a row."""
    fields: dict[str, Json] = {
        "dataset": row.dataset,
        "model": row.model,
        "source": row.source,
        "run": row.run,
        "kind": row.kind,
        "rule": row.rule,
        **score_json(row.score, row.saved_percent),
    }
    if row.run == MEAN:
        fields["runs"] = row.runs
        fields["saved_percent_pooled"] = round(row.saved_percent_pooled or 0.0, 4)
    return fields


def _replay(
    files: list[Path], rules: list[str] | None, settings: ReplaySettings, progressed: Callable[[int], None]
) -> Replay:
    if rules:
        return replay_files(files, [*dict.fromkeys(rules)], settings, progressed)
    return replay_files(files, [entry.example for entry in rule_catalogue()], settings, progressed, all_must_fit=False)


def _policy(file: Path) -> AccuracyPolicy:
    """Reads a policy. Raises `PolicyError`."""
    try:
        written = file.read_bytes()
    except OSError as error:
        raise PolicyError(
            f"it cannot be read ({error.strerror}); give a file that `dynasor calibrate` wrote"
        ) from error
    return read_policy(written)


def _check_policy(policy: AccuracyPolicy, rows: list[Row], settings: ReplaySettings) -> None:
    """Raises `PolicyError` where its promise does not cover what was replayed."""
    algorithms = {"votes": "self-consistency", "chains": "chain-of-thought", "trees": "a recorded tree"}
    for row in rows:
        if row.rule == policy.rule and row.run != MEAN:
            policy.check_fits(
                algorithm=algorithms[row.kind], model=str(row.model), cap=settings.cap or 0, width=settings.width
            )


@contextlib.contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of records so far; silent where standard error is no terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda _: None
        return
    columns = (TextColumn("replaying"), MofNCompleteColumn(), TextColumn("records"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("replay", total=None)
        yield lambda count: progress.update(task, completed=count)


def _print_tables(rows: list[Row]) -> None:
    """One table per dataset: its means over runs."""
    shown = [row for row in rows if row.run == MEAN]
    for panel in dict.fromkeys((row.kind, row.dataset, row.source) for row in shown):
        members = [row for row in shown if (row.kind, row.dataset, row.source) == panel]
        first, score = members[0], members[0].score
        runs = "" if first.runs == 1 else f", mean over {first.runs} runs"
        print(
            f"{first.dataset}: {' of '.join(filter(None, (first.kind, first.source)))}; "
            f"{first.model or 'several models'}, {score.questions} questions{runs}\n"
            f"full program: {score.accuracy_full:.1f} % right, {score.tokens_full:,.0f} tokens"
        )
        wide = max(len(row.rule) for row in members)
        print(f"  {'rule':<{wide}}  {_HEADINGS}")
        for row in members:
            print(f"  {row.rule:<{wide}}  {_cells(row)}")
        print()


_HEADINGS = f"{'right':>7}{'change':>8}{'95 % interval':>17}{'tokens':>10}{'saved':>8}{'harm:rescue':>13}{'plain':>8}"


def _cells(row: Row) -> str:
    score = row.score
    return (
        f"{score.accuracy:>5.1f} %{score.delta_points:>+8.2f}{interval_text(score):>17}{score.tokens:>10,.0f}"
        f"{row.saved_percent:>6.1f} %{f'{score.harm:.1f}:{score.rescue:.1f}':>13}{score.equal_token_accuracy:>6.1f} %"
    )
