"""`dynasor bench`: what the control plane costs here, and what allocation policies save on recorded programs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.cli.contention import allocation_json, allocation_text
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.presentation import one_line_json
from dynasor_serve.cli.scaling import scaling_text
from dynasor_serve.cli.study import study_json, study_text
from dynasor_serve.engines.replay.traces import TraceFormatError
from dynasor_serve.local.answer_benchmark import SAMPLES, AnswerReport, measure_answers
from dynasor_serve.local.benchmark import CONCURRENCY, EVENTS, BenchReport, measure
from dynasor_serve.local.client_benchmark import ClientReport, measure_clients
from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.local.scheduler_benchmark import SchedulerReport, measure_scheduler
from dynasor_serve.scheduling.orderings.registry import UnknownOrdering, ordering_names
from dynasor_serve.simulation.allocation import AllocationSettings, study_of
from dynasor_serve.simulation.autoscaling import compare_laws
from dynasor_serve.simulation.contention import ContentionSettings, contention_of
from dynasor_serve.simulation.forecasts import score_forecasts
from dynasor_serve.simulation.frontier import NoPlots, draw_allocation
from dynasor_serve.simulation.speculation import SpeculationSettings, speculation_of

app = typer.Typer()
bench = typer.Typer(invoke_without_command=True, no_args_is_help=False)
app.add_typer(bench, name="bench")


@bench.callback()
def control_plane(
    context: typer.Context,
    queries: Annotated[int, typer.Option(min=50, help="Queries per measurement.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure what the four processes cost per query, per event and in latency.

    Client, Redis and engine are excluded. `dynasor bench batch` measures what allocation policies save instead,
    `dynasor bench allocation` who should get a short pool's tokens, `dynasor bench answers` how fast answers are
    compared, `dynasor bench scheduler` what a decision of the scheduler costs, and `dynasor bench scaling` how the
    scaling law keeps an SLO.
    """
    if context.invoked_subcommand is not None:
        return
    report = asyncio.run(measure(queries, lambda line: None if as_json else _progress(line)))
    if not as_json:
        print(as_text(report))
    print(report.as_json())


@bench.command()
def batch(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILES]...", help="Recorded traces, or directories of them; the bundled ones if none."),
    ] = None,
    shuffles: Annotated[int, typer.Option(min=1, max=1000, help="Random orders of each vote's samples.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the shuffles.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: accuracy against tokens over caps.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Score the paper's allocation policies and baselines over caps (arXiv 2412.20993, figure 7) on recorded programs.

    What a policy must be told is fitted on one half of the questions and scored on the other, both ways round.
    """
    try:
        study = study_of(files or [TRACES], AllocationSettings(shuffles=shuffles, seed=seed))
        if plot is not None:
            draw_allocation(study, plot)
    except TraceFormatError as error:
        raise bad_input(str(error), "INVALID_TRACES") from error
    except (NoPlots, OSError) as error:
        raise bad_input(f"--plot {plot}: {error}") from error
    print(one_line_json(study_json(study)) if as_json else study_text(study))


@bench.command()
def allocation(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILES]...", help="Recorded traces, or directories of them; the bundled ones if none."),
    ] = None,
    places: Annotated[int, typer.Option(min=1, max=4096, help="Calls that run at once in a short pool.")] = 8,
    rule: Annotated[str, typer.Option(help="Of the programs in a short pool.")] = "even",
    shuffles: Annotated[int, typer.Option(min=1, max=1000, help="Random orders of each vote's samples.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Play recorded votes through the scheduler's pool in virtual time: who gets its places, and what that brings.

    Where places are short: accuracy at equal tokens, under `expected-gain`, other orderings and an even split. Where
    places are left over: what speculation gains in time and costs in tokens.
    """
    traces = files or [TRACES]
    try:
        short = contention_of(traces, ContentionSettings(places=places, rule=rule, shuffles=shuffles, seed=seed))
        idle = speculation_of(traces, SpeculationSettings(seed=seed))
    except TraceFormatError as error:
        raise bad_input(str(error), "INVALID_TRACES") from error
    except InvalidRule as error:
        raise bad_input(f"--{error}", "INVALID_RULE") from error
    print(one_line_json(allocation_json(short, idle)) if as_json else allocation_text(short, idle))


@bench.command()
def scaling(
    hours: Annotated[float, typer.Option(min=0.1, max=24.0, help="Virtual hours of each load.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the programs and the bursts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Play the scaling law against an autoscaler on queue length, and score its forecasts of outstanding work.

    The play is in virtual time, on the scheduler's own pool; forecasts are of the bundled recorded votes.
    """
    forecasts = {rule: score_forecasts([TRACES], rule, seed=seed) for rule in _FORECAST_RULES}
    outcomes = compare_laws(hours * 3600, seed)
    if as_json:
        print(
            one_line_json(
                {
                    "forecasts": {rule: asdict(score) for rule, score in forecasts.items()},
                    "laws": {
                        load: {law: asdict(outcome) for law, outcome in laws.items()} for load, laws in outcomes.items()
                    },
                }
            )
        )
    else:
        print(scaling_text(forecasts, outcomes))


@bench.command()
def answers(
    seconds: Annotated[float, typer.Option(min=0.1, help="For each measurement.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure how many answers one core compares: by their keys, and by algebra where that is needed."""
    report = asyncio.run(measure_answers(seconds))
    print(report.as_json() if as_json else answers_as_text(report))


@bench.command()
def clients(
    calls: Annotated[int, typer.Option(min=100, help="Per client and turn.")] = 3000,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure what the clients of engines and of Redis cost, beside general ones."""
    report = asyncio.run(measure_clients(calls))
    print(report.as_json() if as_json else clients_as_text(report))


def clients_as_text(report: ClientReport) -> str:
    """The report as people read it."""
    rows = (
        ("a streamed call to an engine", "aiohttp", report.aiohttp_us_per_call, report.ours_us_per_call),
        ("a script in Redis", "redis-py's pool", report.pool_us_per_script, report.shared_us_per_script),
    )
    return "\n".join(
        f"{what}: {ours:.0f} µs of CPU here, {general:.0f} µs with {client} ({general / ours:.1f} times as much)"
        for what, client, general, ours in rows
    )


@bench.command()
def scheduler(
    programs: Annotated[int, typer.Option(min=100, help="Live programs.")] = 10_000,
    workers: Annotated[int, typer.Option(min=1, help="Workers, which share places for one call per program.")] = 200,
    decisions: Annotated[int, typer.Option(min=100, help="Decisions to measure.")] = 50_000,
    ordering: Annotated[str, typer.Option(help="Type string of the ordering.")] = "gang-shortest",
    every: Annotated[bool, typer.Option("--all", help="Measure all orderings, one after the other.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure what the scheduler's decisions cost in time and its live programs in memory, on one core."""
    try:
        reports = [
            measure_scheduler(name, programs=programs, workers=workers, decisions=decisions)
            for name in (ordering_names() if every else [ordering])
        ]
    except UnknownOrdering as error:
        raise bad_input(f"--ordering: {error}") from error
    print(one_line_json([asdict(report) for report in reports]) if as_json else scheduler_as_text(reports))


def scheduler_as_text(reports: Sequence[SchedulerReport]) -> str:
    """The reports as people read them, the targets beside them."""
    rows = [
        f"  {report.ordering:<24}{report.decisions_per_second:>12,.0f}{report.p50_us:>10.0f}{report.p99_us:>10.0f}"
        f"{report.longest_ms:>12.1f}{report.kib_per_program:>14.1f}\n"
        for report in reports
    ]
    first = reports[0]
    return (
        f"decisions of the scheduler: {first.programs:,} live programs, {first.workers} workers with {first.places:,} "
        f"places, all taken\n"
        f"  {'ordering':<24}{'per CPU s':>12}{'p50 µs':>10}{'p99 µs':>10}{'longest ms':>12}{'KiB/program':>14}\n"
        f"{''.join(rows)}"
        f"  {'target':<24}{'≥ 20,000':>12}{'':>10}{'≤ 5,000':>10}{'':>12}{'≤ 20':>14}"
    )


def answers_as_text(report: AnswerReport) -> str:
    """The report as people read it, the targets beside it."""
    rates = "".join(
        f"  {kind:<8}{voted:>12,.0f}{report.different_per_second[kind]:>12,.0f}\n"
        for kind, voted in report.voted_per_second.items()
    )
    return (
        f"clusterings of {SAMPLES} new answers per second and core, by keys (target 2,000):\n"
        f"  {'':<8}{'4 spellings':>12}{'16':>12}\n{rates}"
        f"new LaTeX answers per second and core, by algebra (target 15): {report.latex_answers_per_second:.1f} "
        f"({report.pairs_per_answer:.1f} pairs each, {report.wrongly_told} answers in a wrong cluster)"
    )


def as_text(report: BenchReport) -> str:
    """The report as people read it, the design's targets beside it."""
    rows = [
        f"  {cost.samples:>8}{cost.gateway_ms:>10.2f}{cost.tracker_ms:>10.2f}{cost.evaluator_ms:>11.2f}"
        f"{cost.scheduler_ms:>11.2f}{cost.total_ms:>8.2f}{_TARGETS_MS[cost.samples]:>8.1f}\n"
        for cost in report.query_costs
    ]
    closings = "".join(
        f"\n  {each.progress.value:<10} p50 {each.p50_ms:6.1f} ms   p99 {each.p99_ms:6.1f} ms"
        for each in report.closings
    )
    return (
        f"CPU of the four processes, milliseconds per query ({EVENTS} events per sample, concurrency {CONCURRENCY}):\n"
        f"  {'samples':>8}{'gateway':>10}{'tracker':>10}{'evaluator':>11}{'scheduler':>11}{'total':>8}{'target':>8}\n"
        f"{''.join(rows)}"
        f"added median latency: {report.added_median_ms:.2f} ms (target 5): {report.served_median_ms:.2f} ms for a "
        f"query of one sample, {report.bare_median_ms:.2f} ms for the bare call\n"
        f"tracker CPU per streamed event: {report.us_per_event:.0f} µs (target 60)\n"
        f"calls per second, client, Redis and engine on the same cores: {report.calls_per_second:.0f} (target 1,000)\n"
        f"verdict to closed socket, seen by the engine (target p99 100 ms):{closings}"
    )


def _progress(line: str) -> None:
    sys.stderr.write(f"{line} …\n")


_FORECAST_RULES = ("beta-posterior:confidence=0.95", "n-step-threshold:threshold=0.7,every=2", "even")
_TARGETS_MS = {1: 2.5, 8: 6.0}
