"""The options that choose the engine of a local stack, shared by `up` and `demo`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.engines.replay.traces import TraceFormatError, read_records
from dynasor_serve.local.ports import free_port
from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.local.stack import ExternalOptions, ReplayOptions
from dynasor_serve.local.vllm_options import EngineError, VllmOptions, choose_engine

EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="vllm|replay|URL",
        help="vllm: a vLLM of our own, installed on first use (2.5 GB, no GPU needed). replay: recorded answers, "
        "no engine. URL: a running OpenAI-compatible server, such as http://127.0.0.1:8000.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="vllm: a packaged model, a model directory or a Hugging Face name. replay, URL: one of those served.",
    ),
]
TracesOption = Annotated[
    list[Path] | None,
    typer.Option("--traces", help="replay: file or directory of recorded answers; repeatable.", show_default="ours"),
]

ApiKeyOption = Annotated[
    str,
    typer.Option(
        envvar="DYNASOR_ENGINE_API_KEY", help="URL: the key that the server asks for, if any.", show_default=False
    ),
]

Engine = ReplayOptions | ExternalOptions | VllmOptions


def engine_of(
    engine: str, model: str, traces: Sequence[Path], *, api_key: str, replay_flags: tuple[str, ...] = ()
) -> Engine:
    """The engine that the options mean.

    Raises:
        CommandFailed: they mean none, or this machine cannot run it.
    """
    if traces and engine != "replay":
        raise bad_input(f"--traces is for --engine replay, not for {engine!r}")
    if engine == "vllm":
        return _vllm(model)
    if engine == "replay":
        return _replay(model, traces, replay_flags)
    if engine.startswith(("http://", "https://")):
        return ExternalOptions(engine, model=model, api_key=api_key)
    raise bad_input(f"--engine is {engine!r}; give vllm, replay, or a URL like http://127.0.0.1:8000")


def example_question(engine: Engine) -> str:
    """A question that the engine can answer: of a replay engine one that it has recorded."""
    if isinstance(engine, ReplayOptions):
        with contextlib.suppress(TraceFormatError):
            for record in read_records(engine.traces):
                return record.question or f"[[trace:{record.dataset}/{record.question_id}]]"
    return "What is the capital of France?"


def _vllm(model: str) -> VllmOptions:
    # A fixed port: an engine that died comes back where the scheduler looks for it.
    options = VllmOptions(model=model, port=free_port()) if model else VllmOptions(port=free_port())
    try:
        choose_engine(options)
    except EngineError as error:
        raise CommandFailed(str(error), ExitCode.FAILED) from error
    return options


def _replay(model: str, traces: Sequence[Path], flags: tuple[str, ...]) -> ReplayOptions:
    chosen = tuple(traces) or (TRACES,)
    for path in chosen:
        if not path.exists():
            raise bad_input(f"no recorded answers at {path}; give a .jsonl or .jsonl.gz file, or a directory of them")
    served = ("--served-model-name", model) if model else ()
    return ReplayOptions(chosen, flags=(*served, *flags))
