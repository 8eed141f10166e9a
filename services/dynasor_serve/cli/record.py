"""`dynasor record`: run programs to their caps on a live engine, and write down what happened as traces."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.connection import connected
from dynasor_serve.cli.engine_options import ApiKeyOption, EngineOption, ModelOption, TracesOption, engine_of
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input, refusal
from dynasor_serve.cli.interruptions import Interrupted, run_async, until_interrupted
from dynasor_serve.cli.partial_file import PartialFile, locked, writing
from dynasor_serve.cli.presentation import Json, plural
from dynasor_serve.cli.progress import stages
from dynasor_serve.local.questions.prompts import STYLES
from dynasor_serve.local.questions.question_set import Question, read_questions
from dynasor_serve.local.recording.recorder import Job, Recipe, jobs_of, recorded
from dynasor_serve.local.recording.trace_lines import NotRecordable, check_recordable, trace_line
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
    partial: PartialFile
    concurrency: int


# What tells whether a line is a job's: (question's id, question, gold answer, answer type, seed).
_Identity = tuple[object, ...]


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
    again with the same options, the command goes on from there.
    """
    if style != _CHAT and style not in STYLES:
        raise bad_input(f"--style {style}: there is none; known are {', '.join([_CHAT, *STYLES])}")
    if out.exists():
        raise bad_input(f"{out} exists; move it away, or name another file")
    parameters = _recordable(algorithm)
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
    stack = StackOptions(engine=engine_of(engine, model, tuple(traces or ()), api_key=api_key))
    options: dict[str, Json] = {
        "algorithm": str(parameters),
        "dataset": recipe.dataset,
        "engine": engine,
        "max_tokens": max_tokens,
        "model": model,
        "probe_interval": probe_interval,
        "probe_marks": probe_marks,
        "run_id": run_id,
        "style": style,
        "temperature": temperature,
        "traces": [str(path) for path in traces or ()],
    }
    with locked(out.resolve(), "record") as partial:
        with writing(partial.path):
            if partial.path.exists() and partial.path.stat().st_size:
                partial.go_on(options)
            else:
                partial.begin(options)
        plan = _Plan(recipe, jobs_of(chosen, repeats), out, partial, concurrency)
        raise typer.Exit(run_async(_recording(stack, plan)))


def _recordable(type_string: str) -> AlgorithmParameters:
    try:
        parameters = parse_algorithm(type_string)
        check_recordable(parameters.name)
    except InvalidQuery as error:
        raise bad_input(str(error), Reason.INVALID_QUERY) from error
    except NotRecordable as error:
        raise bad_input(f"--algorithm: {error}") from error
    return parameters


def _questions(path: Path) -> list[Question]:
    try:
        return read_questions(path)
    except (OSError, ValueError) as error:
        raise bad_input(f"the questions cannot be read: {error}") from error


async def _recording(stack: StackOptions, plan: _Plan) -> ExitCode:
    try:
        return await until_interrupted(
            _record(stack, plan), f"interrupted; start again to go on from {plan.partial.path.name}"
        )
    except Interrupted as interrupted:
        return interrupted.exit_code


async def _record(stack: StackOptions, plan: _Plan) -> ExitCode:
    known = _lines(plan.partial)
    jobs = [job for job in plan.jobs if _identity(job) not in known]
    left_out = await _append(stack, plan, jobs) if jobs else []
    if left_out:
        raise CommandFailed(f"{plural(len(left_out), 'program')} left out; {left_out[0]}", ExitCode.FAILED)
    _finish(plan)
    print(f"{plural(len(plan.jobs), 'program')} recorded in {plan.out}")
    return ExitCode.ANSWERED


async def _append(stack_options: StackOptions, plan: _Plan, jobs: Sequence[Job]) -> list[str]:
    """Runs the jobs and appends a line for each; returns why some made none."""
    left_out: list[str] = []
    done = len(plan.jobs) - len(jobs)
    with stages() as report:
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
                    plan.partial.append(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    done += 1
                    report(f"{done} of {len(plan.jobs)} programs recorded")
        except StackError as error:
            raise CommandFailed(str(error), ExitCode.FAILED) from error
        except grpc.aio.AioRpcError as error:
            raise refusal(error, "the stack's gateway") from error
    return left_out


def _identity(job: Job) -> _Identity:
    question = job.question
    return question.id, question.question, question.gold, question.answer_type.value, job.seed


def _lines(partial: PartialFile) -> dict[_Identity, bytes]:
    """The lines that are there; those of questions that have been edited fit no job, and are left behind."""
    lines = {}
    for line in partial.lines():
        said = json.loads(line)
        fields = ("question_id", "question", "gold", "answer_type", "program")
        lines[tuple(said[field] for field in fields)] = line
    return lines


def _finish(plan: _Plan) -> None:
    """Makes the whole trace appear at once, in the order of the questions."""
    with writing(plan.out):
        lines = _lines(plan.partial)
        text = b"".join(lines[_identity(job)] for job in plan.jobs)
        plan.partial.finish(gzip.compress(text, mtime=0) if plan.out.suffix == ".gz" else text)
