"""`dynasor bench`: what the control plane costs on this machine."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from dynasor_serve.local.benchmark import CONCURRENCY, EVENTS, BenchReport, measure

app = typer.Typer()


@app.command()
def bench(
    queries: Annotated[int, typer.Option(min=50, help="Queries per measurement.")] = 400,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure what the four processes cost per query, per event and in latency.

    Client, Redis and engine are excluded.
    """
    report = asyncio.run(measure(queries, lambda line: None if as_json else _progress(line)))
    if not as_json:
        print(as_text(report))
    print(report.as_json())


def as_text(report: BenchReport) -> str:
    """The report as people read it, the design's targets beside it."""
    rows = [
        f"  {cost.samples:>8}{cost.gateway_ms:>10.2f}{cost.tracker_ms:>10.2f}{cost.evaluator_ms:>11.2f}"
        f"{cost.scheduler_ms:>11.2f}{cost.total_ms:>8.2f}{_TARGETS_MS[cost.samples]:>8.1f}\n"
        for cost in report.query_costs
    ]
    return (
        f"CPU of the four processes, milliseconds per query ({EVENTS} events per sample, concurrency {CONCURRENCY}):\n"
        f"  {'samples':>8}{'gateway':>10}{'tracker':>10}{'evaluator':>11}{'scheduler':>11}{'total':>8}{'target':>8}\n"
        f"{''.join(rows)}"
        f"added median latency: {report.added_median_ms:.2f} ms (target 5): {report.served_median_ms:.2f} ms for a "
        f"query of one sample, {report.bare_median_ms:.2f} ms for the bare call\n"
        f"tracker CPU per streamed event: {report.us_per_event:.0f} µs (target 60)\n"
        f"verdict to closed socket, seen by the engine: p50 {report.verdict_to_close_p50_ms:.1f} ms, "
        f"p99 {report.verdict_to_close_p99_ms:.1f} ms (target 100)"
    )


def _progress(line: str) -> None:
    sys.stderr.write(f"{line} …\n")


_TARGETS_MS = {1: 2.5, 8: 6.0}
