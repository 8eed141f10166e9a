"""`dynasor batch`: answer every line of a file, thousands of them, and go on where an earlier run broke off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli import query_options as options
from dynasor_serve.cli.batching.display import Display, displayed, progress_line
from dynasor_serve.cli.batching.input_file import LineKey, LineNames, read_lines
from dynasor_serve.cli.batching.line_shape import BadLine
from dynasor_serve.cli.batching.lines import question_of
from dynasor_serve.cli.batching.result_file import ResultFile, opened
from dynasor_serve.cli.batching.results import Result, ResultId, bad_line_result, result_of
from dynasor_serve.cli.batching.stream import Asked, answers
from dynasor_serve.cli.batching.totals import Totals, accuracy_text, costs_text, summary_json
from dynasor_serve.cli.connection import DEFAULT_ADDRESS, AddressOption, connected
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.cli.interruptions import interruptions, run_async
from dynasor_serve.cli.presentation import Json, one_line_json, plural, printable
from dynasor_serve.programs.query import MAX_DEADLINE_SECONDS

app = typer.Typer()

EXIT_HELP = (
    "Exit status: 0 every line is answered; 1 some lines ended in an error, or the results cannot be written; 2 the "
    "command line, IN or OUT is wrong, or OUT is in use; 3 no gateway answers, or it breaks every stream; 130 "
    "interrupted by Ctrl-C: the same command goes on."
)

DeadlineOption = Annotated[
    float,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="Each query ends with the best answer so far after this long.",
        show_default="a day",
    ),
]

_LINES_AT_ONCE = 1000  # between two looks at whether somebody wants to stop
_MOST_NAMED = 5


@app.command(epilog=EXIT_HELP)
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Questions, a line of JSON each.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the answers go once all are there.")],
    address: AddressOption = DEFAULT_ADDRESS,
    in_flight: Annotated[
        int, typer.Option(min=1, help="Most queries that run at once; the server has a bound too.")
    ] = 256,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT once the new answers are whole.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Ask lines again that ended in an error that may have passed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
    model: options.ModelOption = "",
    system: options.SystemOption = "",
    answer_type: options.AnswerTypeOption = "text",
    algorithm: options.AlgorithmOption = options.SELF_CONSISTENCY,
    max_samples: options.MaxSamplesOption = None,
    width: options.WidthOption = None,
    idle_width: options.IdleWidthOption = None,
    rule: options.RuleOption = "",
    budget_tokens: options.BudgetOption = 0,
    deadline: DeadlineOption = MAX_DEADLINE_SECONDS,
    temperature: options.TemperatureOption = None,
    top_p: options.TopPOption = None,
    max_tokens: options.MaxTokensOption = None,
    stop: options.StopOption = None,
    chain_rule: options.ChainRuleOption = "",
    probe_prompt: options.ProbePromptOption = "",
    probe_interval: options.ProbeIntervalOption = None,
    probe_marks: options.ProbeMarksOption = None,
    thinking_budget: options.ThinkingBudgetOption = None,
    reward: options.RewardOption = "",
    reward_model: options.RewardModelOption = "",
    verifier: options.VerifierOption = "",
    task: options.TaskOption = "",
    tenant: options.TenantOption = "default",
    label: options.LabelOption = None,
) -> None:
    """Answer every question of a file. The options that describe a query hold for lines that do not say.

    Interrupted, killed or cut off, the same command goes on where it was, and asks nothing twice. docs/batch.md has the
    format of IN and OUT.
    """
    if overwrite and retry_errors:
        raise bad_input("--overwrite asks every line anew and --retry-errors some lines again; give one of them")
    source, out = source.absolute(), out.resolve()
    if not source.is_file():
        raise bad_input(f"{source} is no regular file; IN is read twice, so give the name of a file")
    if out.exists() and out.samefile(source):
        raise bad_input(f"IN and OUT are the same file, {out}; give another OUT")
    if not 0 < deadline <= MAX_DEADLINE_SECONDS:
        raise bad_input(f"--deadline is {deadline:g}; give more than 0 and at most {MAX_DEADLINE_SECONDS:g} seconds")
    default = options.QueryOptions(
        question="",
        system=system,
        answer_type=answer_type,
        model=model,
        algorithm=algorithm,
        max_samples=max_samples,
        width=width,
        idle_width=idle_width,
        rule=rule,
        chain_rule=chain_rule,
        probe_prompt=probe_prompt,
        probe_interval=probe_interval,
        probe_marks=probe_marks,
        thinking_budget=thinking_budget,
        reward=reward,
        reward_model=reward_model,
        verifier=verifier,
        task=task,
        budget_tokens=budget_tokens,
        deadline_seconds=deadline,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        query_class=options.ClassName.BATCH,
        tenant=tenant,
        labels=tuple(label or ()),
    )
    message = default.message()
    message.ClearField("chat")
    totals = Totals()
    with opened(out, _given(default), overwrite=overwrite, retry_errors=retry_errors) as results:
        work = Batch(source, message, LineNames(), results, totals)
        with displayed(totals) as display:
            try:
                exit_code = run_async(_until_whole_or_interrupted(work, address, in_flight, display))
            except CommandFailed as failure:
                if as_json:
                    error: Json = {"reason": failure.reason, "message": str(failure)}
                    print(one_line_json(summary_json(totals, None, display.seconds) | {"error": error}))
                hint = f"{failure}. The same command goes on from here"
                raise CommandFailed(hint, failure.exit_code, failure.reason) from failure
        is_whole = exit_code is ExitCode.ANSWERED
        if is_whole:
            results.finish()
    if as_json:
        print(one_line_json(summary_json(totals, str(out) if is_whole else None, display.seconds)))
    elif is_whole:
        print(_summary(totals, out))
    raise typer.Exit(ExitCode.FAILED if is_whole and totals.errors else exit_code)


def _given(default: options.QueryOptions) -> dict[str, Json]:
    """The options that are set, as plain values: a batch keeps those it was begun with."""
    given = {
        field.name: getattr(default, field.name)
        for field in fields(default)
        if field.default is not MISSING and getattr(default, field.name) != field.default
    }
    plain: dict[str, Json] = msgspec.json.decode(msgspec.json.encode(given))
    return plain


@dataclass(frozen=True, slots=True)
class Batch:
    """The parts of a batch that is worked on."""

    source: Path
    default: pb.Query
    names: LineNames
    results: ResultFile
    totals: Totals


async def _until_whole_or_interrupted(work: Batch, address: str, in_flight: int, display: Display) -> ExitCode:
    """ANSWERED when every line has its result; else the status of the signal that came first."""
    with interruptions() as interrupted:
        working = asyncio.create_task(_work(work, address, in_flight, display))
        await asyncio.wait((working, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if not interrupted.done():
            working.result()
            return ExitCode.ANSWERED
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, CommandFailed):
            await working
        left = plural(work.totals.lines - work.totals.done, "line")
        display.say(f"interrupted with {left} to go; what has been asked runs on. The same command goes on from here")
        return interrupted.result()


async def _work(work: Batch, address: str, in_flight: int, display: Display) -> None:
    """Gives every line of the input its result."""
    await _look_through(work, display)
    if work.totals.found:
        display.say(f"{plural(work.totals.found, 'result')} of an earlier run found")
    if work.totals.done == work.totals.lines:
        return
    take = partial(_take, work, display)
    coming = _coming(work, take)
    async with connected(address) as stub:
        stream = answers(stub, address, coming, most_in_flight=in_flight, away=display.away)
        async with contextlib.aclosing(stream) as answered:
            async for asked, answer in answered:
                take(asked.result_id, result_of(asked.result_id, asked.custom_id, asked.question, answer))
    display.say(progress_line(work.totals, display.seconds))


async def _look_through(work: Batch, display: Display) -> None:
    """Reads the input once: how many lines it has, what they are called, and which of them have results."""
    present: set[LineKey] = set()
    for line in read_lines(work.source):
        work.totals.lines += 1
        identity = work.names.identity(line)
        if work.results.has_result_of(identity.key):
            present.add(identity.key)
        if work.totals.lines % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    changed, gone = [], 0
    for result in work.results.leave_out_others(present):
        if work.names.has(result.custom_id):
            changed.append(result.custom_id)
        else:
            gone += 1
    if changed:
        named = ", ".join(changed[:_MOST_NAMED]) + (", …" if len(changed) > _MOST_NAMED else "")
        display.say(f"{plural(len(changed), 'line')} changed since the answer came, asked again: {named}")
    if gone:
        display.say(f"{plural(gone, 'result')} of lines that are not in {work.source.name} any more, left out")
    for result in work.results.standing():
        work.totals.add(result)
    work.totals.found = work.totals.done


def _coming(work: Batch, take: Callable[[ResultId, Result], None]) -> Iterator[Asked | None]:
    """The lines that need an answer; None for those that have one, or can be given none."""
    for line in read_lines(work.source):
        identity = work.names.identity(line)
        result_id = work.results.next_id(identity.key)
        if result_id is None:
            yield None
            continue
        custom_id = work.names.name(line, identity)
        try:
            if identity.problem is not None:
                raise identity.problem
            assert line.content is not None, "a line without content has that problem"
            question = question_of(line.content, work.default)
        except BadLine as problem:
            take(result_id, bad_line_result(result_id, custom_id, line.number, problem))
            yield None
            continue
        question.query.idempotency_key = str(result_id)
        yield Asked(result_id, custom_id, question)


def _take(work: Batch, display: Display, result_id: ResultId, result: Result) -> None:
    """A line has its result: safe first, then counted and shown."""
    work.results.append(result_id, result)
    work.totals.add(result)
    display.changed()


def _summary(totals: Totals, out: Path) -> str:
    lines = [f"{totals.answered:,} of {plural(totals.lines, 'line')} answered: {printable(str(out))}"]
    lines.append(costs_text(totals))
    if accuracy := accuracy_text(totals):
        lines.append(accuracy)
    if totals.retryable:
        errors = plural(totals.retryable, "error")
        lines.append(f"{errors} may have passed: the same command with --retry-errors asks those lines again")
    return "\n".join(lines)
