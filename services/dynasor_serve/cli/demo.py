"""`dynasor demo`: start everything, answer the bundled questions early and at the fixed budget, compare, stop."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dynasor_serve.cli.comparison import Comparison, Total, compare
from dynasor_serve.cli.connection import connected
from dynasor_serve.cli.demo_display import conclusions, counting, summary, watching_each
from dynasor_serve.cli.demo_programs import show_other_programs
from dynasor_serve.cli.demonstration import MAX_SAMPLES, WIDTH, Asked, ask_all, not_yet_asked
from dynasor_serve.cli.engine_options import ApiKeyOption, EngineOption, ModelOption, TracesOption, engine_of
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.cli.interruptions import Interrupted, run_async, until_interrupted
from dynasor_serve.cli.presentation import Json, plural, query_json
from dynasor_serve.cli.progress import stages
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.local.questions.question_set import BUNDLED, Question, read_questions
from dynasor_serve.local.stack import EngineEndpoint, LocalStack, StackOptions
from dynasor_serve.local.supervised import StackError
from dynasor_serve.local.vllm_options import VllmOptions

app = typer.Typer()

FIXED_BUDGET = "even"
_REPLAY_PACE = ("--ttft-ms", "60", "--time-per-output-token-ms", "15")
"""A small model's on two cores, so that one can watch."""
# Nothing here outlives the demonstration, so its end need not wait for work that is under way.
_DRAIN_SECONDS = "0.5"
_ENVIRONMENT = {
    f"DYNASOR_{name}_DRAIN_SECONDS": _DRAIN_SECONDS for name in ("GATEWAY", "TRACKER", "SCHEDULER", "EVALUATOR")
}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demonstration asks, and how."""

    questions: tuple[Question, ...]
    rule: str
    concurrency: int
    report: Path | None
    is_ours: bool  # the questions and recordings are those that the project ships


@dataclass(frozen=True, slots=True)
class Pass:
    """All questions, answered under one rule."""

    asked: Sequence[Asked]
    seconds: float

    @property
    def rule(self) -> str:
        """The rule as the server spelt it out."""
        return next((one.standing.outcome.rule for one in self.asked if one.standing.outcome), "")


@app.command()
def demo(
    engine: EngineOption = "vllm",
    model: ModelOption = "",
    traces: TracesOption = None,
    api_key: ApiKeyOption = "",
    questions: Annotated[
        Path | None, typer.Option(help="A question file (JSON Lines).", show_default="the bundled ones")
    ] = None,
    rule: Annotated[
        str, typer.Option(help="When to stop early; `dynasor rules` lists them.", show_default="the server's")
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Queries that run at once.")] = 4,
    report: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the results there as JSON.")
    ] = None,
) -> None:
    """Start everything, answer the bundled questions, and compare with the fixed budget.

    Every question is asked twice: once until the rule says that its vote is settled, once to the cap of 16 samples.
    Exit status: 0 when all are answered; 1 where something failed; 130 after Ctrl-C.
    """
    if report is not None and not report.resolve().parent.is_dir():
        raise bad_input(f"--json {report}: there is no directory {report.resolve().parent}")
    try:
        chosen = tuple(read_questions(questions or BUNDLED))
    except (OSError, ValueError) as error:
        raise bad_input(f"the questions cannot be read: {error}") from error
    if not chosen:
        raise bad_input(f"{questions} holds no question")
    source = engine_of(engine, model, tuple(traces or ()), api_key=api_key, replay_flags=_REPLAY_PACE)
    if isinstance(source, VllmOptions):
        source = replace(source, shutdown_timeout_seconds=1)
    stack = StackOptions(engine=source, environment=_ENVIRONMENT)
    is_ours = questions is None and not traces
    raise typer.Exit(run_async(_demo(stack, DemoOptions(chosen, rule, concurrency, report, is_ours))))


async def _demo(stack: StackOptions, options: DemoOptions) -> ExitCode:
    try:
        return await until_interrupted(_demonstrate(stack, options), "interrupted; stopping everything")
    except Interrupted as interrupted:
        return interrupted.exit_code


async def _demonstrate(stack_options: StackOptions, options: DemoOptions) -> ExitCode:
    console = Console()
    async with contextlib.AsyncExitStack() as parts:
        with stages() as report:
            stack = LocalStack(stack_options, report)
            try:
                await parts.enter_async_context(stack)
            except StackError as error:
                raise CommandFailed(str(error), ExitCode.FAILED) from error
        early, fixed = await _both_passes(stack, options, console)
        exit_code = _concluded(early, fixed, stack.engine, options, console)
        if options.is_ours:
            async with connected(stack.gateway) as stub:
                is_replay = stack.engine.kind is EngineKind.REPLAY
                await show_other_programs(stub, stack.gateway, console, is_replay=is_replay)
    return exit_code


async def _both_passes(stack: LocalStack, options: DemoOptions, console: Console) -> tuple[Pass, Pass]:
    address = stack.gateway
    early, fixed = not_yet_asked(options.questions), not_yet_asked(options.questions)
    async with connected(address) as stub:
        ask = partial(ask_all, stub, address, concurrency=options.concurrency)
        console.print(f"\n{_introduction(options, stack.engine)}\n", markup=False, highlight=False)
        began = time.monotonic()
        with watching_each(console, early) as changed:
            await ask(early, rule=options.rule, changed=changed)
        early_seconds = time.monotonic() - began
        began = time.monotonic()
        console.print()
        with counting(console, f"The same questions at the fixed budget (rule {FIXED_BUDGET})", fixed) as changed:
            await ask(fixed, rule=FIXED_BUDGET, changed=changed)
        return Pass(early, early_seconds), Pass(fixed, time.monotonic() - began)


def _introduction(options: DemoOptions, engine: EngineEndpoint) -> str:
    questions = plural(len(options.questions), "question")
    return (
        f"{questions} for {engine.model} ({engine.kind.value}): at most {MAX_SAMPLES} samples each, {WIDTH} at a time, "
        f"{options.concurrency} questions at once. A vote stops as soon as its rule says that it is settled."
    )


def _concluded(early: Pass, fixed: Pass, engine: EngineEndpoint, options: DemoOptions, console: Console) -> ExitCode:
    """Prints the summary, writes the report, and says whether all went well."""
    comparison = compare([one.result for one in early.asked], [one.result for one in fixed.asked])
    estimated_saved = sum(
        one.standing.outcome.ledger.tokens_saved_estimate for one in early.asked if one.standing.outcome
    )
    table = summary(comparison, rule=early.rule, early_seconds=early.seconds, fixed_seconds=fixed.seconds)
    console.print("\n", table, "\n", sep="", highlight=False)
    for line in conclusions(comparison, estimated_saved=estimated_saved, is_replay=engine.kind is EngineKind.REPLAY):
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    if options.report is not None:
        report = _report(early, fixed, comparison, estimated_saved, engine)
        options.report.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        console.print(f"\nAll results are in {options.report}", markup=False, highlight=False, soft_wrap=True)
    broken = [f"{one.question.id}: {one.error}" for one in (*early.asked, *fixed.asked) if one.error]
    if broken:
        raise CommandFailed(f"{plural(len(broken), 'query')} failed; {broken[0]}", ExitCode.FAILED)
    return ExitCode.ANSWERED


def _report(
    early: Pass, fixed: Pass, comparison: Comparison, estimated_saved: int, engine: EngineEndpoint
) -> dict[str, Json]:
    return {
        "engine": engine.kind.value,
        "model": engine.model,
        "max_samples": MAX_SAMPLES,
        "tokens_saved_estimated_live": estimated_saved,
        "early": _pass_json(early, comparison.early),
        "fixed": _pass_json(fixed, comparison.fixed),
        "saving": asdict(comparison.saving),
        "accuracy_difference": asdict(comparison.accuracy_difference),
    }


def _pass_json(one_pass: Pass, total: Total) -> dict[str, Json]:
    queries: list[Json] = [
        {
            "question_id": one.question.id,
            "gold": one.question.gold,
            "correct": one.is_correct,
            **query_json(one.standing),
        }
        for one in one_pass.asked
    ]
    return {
        "rule": one_pass.rule,
        "seconds": round(one_pass.seconds, 3),
        "accuracy": total.accuracy,
        **asdict(total),
        "queries": queries,
    }
