"""`dynasor record`: run programs to their caps on a live engine, and write down what happened as traces."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.connection import connected
from dynasor_serve.cli.engine_options import ApiKeyOption, EngineOption, ModelOption, TracesOption, engine_of
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input, refusal
from dynasor_serve.cli.interruptions import Interrupted, run_async, until_interrupted
from dynasor_serve.cli.presentation import plural
from dynasor_serve.cli.progress import stages
from dynasor_serve.local.questions.prompts import STYLES
from dynasor_serve.local.questions.question_set import Question, read_questions
from dynasor_serve.local.recording.recorder import Job, Recipe, jobs_of, recorded
from dynasor_serve.local.recording.trace_lines import NotRecordable, trace_line
from dynasor_serve.local.stack import LocalStack, StackOptions
from dynasor_serve.local.supervised import StackError
from dynasor_serve.programs.algorithm import AlgorithmParameters
from dynasor_serve.programs.query import InvalidQuery
from dynasor_serve.programs.registry import parse_algorithm
from dynasor_serve.rpc.errors import Reason
from dynasor_serve.state.redis_client import connect

app = typer.Typer()

_CHAT = "chat"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is recorded, and where to."""

    recipe: Recipe
    jobs: Sequence[Job]
    out: Path
    concurrency: int


@app.command(epilog=EXIT_CODES_HELP)
def record(
    questions: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="JSON Lines of {id, question, gold, answer_type}.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The trace, JSON Lines; compressed where it ends in .gz.")],
    engine: EngineOption = "vllm",
    model: ModelOption = "",
    traces: TracesOption = None,
    api_key: ApiKeyOption = "",
    algorithm: Annotated[
        str, typer.Option(help="self-consistency, chain-of-thought or rebase, with parameters.")
    ] = "self-consistency",
    repeats: Annotated[int, typer.Option(min=1, help="Programs per question.")] = 1,
    style: Annotated[str, typer.Option(help=f"How a question is asked: {', '.join([_CHAT, *STYLES])}.")] = _CHAT,
    probe_interval: Annotated[int, typer.Option(min=0, help="Chains: tokens between probes; 0: only marks.")] = 32,
    probe_marks: Annotated[bool, typer.Option(help="Chains: probe at reflection marks, too.")] = True,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a sample, path or chain.", show_default="the style's")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 to 2.")] = 0.8,
    dataset: Annotated[str, typer.Option(help="As the trace names it.", show_default="the question file's name")] = "",
    run_id: Annotated[str, typer.Option(help="Tells recordings of one model apart.")] = "live",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Programs that run at once.")] = 4,
) -> None:
    """Run programs to their caps and write a trace: votes, probed chains or trees, one program a line.

    `dynasor up --engine replay --traces OUT` answers from it. What is recorded so far lies in OUT.partial; started
    again, the command goes on from there.
    """
    if style != _CHAT and style not in STYLES:
        raise bad_input(f"--style {style}: there is none; known are {', '.join([_CHAT, *STYLES])}")
    if not out.resolve().parent.is_dir():
        raise bad_input(f"{out}: there is no directory {out.resolve().parent}")
    if out.exists():
        raise bad_input(f"{out} exists; move it away, or name another file")
    parameters = _algorithm(algorithm)
    chosen = _questions(questions)[:limit]
    recipe = Recipe(
        dataset=dataset or questions.stem,
        run_id=run_id,
        query=pb.Query(
            algorithm=pb.Algorithm(type_string=algorithm),
            sampling=pb.SamplingParameters(temperature=temperature, max_tokens=max_tokens),
            probe=pb.Probe(interval=probe_interval, marks=probe_marks) if parameters.probes_chains else None,
        ),
        style=STYLES.get(style),
    )
    plan = _Plan(recipe, jobs_of(chosen, repeats), out, concurrency)
    stack = StackOptions(engine=engine_of(engine, model, tuple(traces or ()), api_key=api_key))
    raise typer.Exit(run_async(_recording(stack, plan)))


def _algorithm(type_string: str) -> AlgorithmParameters:
    try:
        return parse_algorithm(type_string)
    except InvalidQuery as error:
        raise bad_input(str(error), Reason.INVALID_QUERY) from error


def _questions(path: Path) -> list[Question]:
    try:
        return read_questions(path)
    except (OSError, ValueError) as error:
        raise bad_input(f"the questions cannot be read: {error}") from error


async def _recording(stack: StackOptions, plan: _Plan) -> ExitCode:
    try:
        return await until_interrupted(
            _record(stack, plan), f"interrupted; start again to go on from {_partial(plan.out)}"
        )
    except Interrupted as interrupted:
        return interrupted.exit_code


async def _record(stack: StackOptions, plan: _Plan) -> ExitCode:
    partial = _partial(plan.out)
    done = _whole_lines(partial)
    known = {(line["question_id"], line["program"]) for line in done}
    jobs = [job for job in plan.jobs if (job.question.id, job.seed) not in known]
    left_out = await _append(stack, plan, jobs, len(done)) if jobs else []
    if left_out:
        raise CommandFailed(f"{plural(len(left_out), 'program')} left out; {left_out[0]}", ExitCode.FAILED)
    _finish(partial, plan)
    print(f"{plural(len(plan.jobs), 'program')} recorded in {plan.out}")
    return ExitCode.ANSWERED


async def _append(stack_options: StackOptions, plan: _Plan, jobs: Sequence[Job], done: int) -> list[str]:
    """Runs the jobs and appends a line for each; returns why some made none."""
    left_out: list[str] = []
    with stages() as report, _partial(plan.out).open("ab") as file:
        try:
            async with (
                LocalStack(stack_options, report) as stack,
                connected(stack.gateway) as stub,
                connect(stack.redis_url) as redis,
                contextlib.aclosing(  # type: ignore[type-var]
                    recorded(stub, redis, plan.recipe, jobs, concurrency=plan.concurrency)
                ) as programs,
            ):
                async for program in programs:
                    try:
                        line = trace_line(program) | {"program": program.seed}
                    except NotRecordable as error:
                        left_out.append(str(error))
                        continue
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    file.flush()
                    done += 1
                    report(f"{done} of {len(plan.jobs)} programs recorded")
        except StackError as error:
            raise CommandFailed(str(error), ExitCode.FAILED) from error
        except grpc.aio.AioRpcError as error:
            raise refusal(error, "the stack's gateway") from error
    return left_out


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _whole_lines(partial: Path) -> list[dict[str, Any]]:
    """The lines of an earlier run; a torn last one is cut off."""
    if not partial.exists():
        return []
    content = partial.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        partial.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _finish(partial: Path, plan: _Plan) -> None:
    """Makes the whole trace appear at once, in the order of the questions."""
    place = {(job.question.id, job.seed): number for number, job in enumerate(plan.jobs)}
    lines = {(line["question_id"], line["program"]): line for line in _whole_lines(partial)}
    ordered = [lines[job] for job in sorted(place, key=place.__getitem__)]
    text = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in ordered)
    with _replacing(plan.out) as path:
        path.write_bytes(gzip.compress(text, mtime=0) if plan.out.suffix == ".gz" else text)
    partial.unlink()


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    path = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield path
        path.replace(out)
    finally:
        path.unlink(missing_ok=True)
