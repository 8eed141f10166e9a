"""`dynasor up`: the whole system on this machine, kept running until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import shlex
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from dynasor_serve.cli.data_directory import default_data, owned
from dynasor_serve.cli.engine_options import (
    ApiKeyOption,
    EngineOption,
    ModelOption,
    TracesOption,
    engine_of,
    example_question,
)
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.cli.interruptions import Interrupted, run_async, until_interrupted
from dynasor_serve.cli.progress import stages
from dynasor_serve.cli.stack_watch import watch_stack
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.local.ports import HOST
from dynasor_serve.local.stack import DEFAULT_GATEWAY_PORT, ExternalOptions, LocalStack, StackOptions
from dynasor_serve.local.supervised import StackError
from dynasor_serve.scheduling.orderings.registry import UnknownOrdering, ordering_names, parse_ordering

app = typer.Typer()

_REWARD_KINDS = {kind.value.removeprefix("vllm-"): kind for kind in EngineKind if kind.is_reward}


@app.command()
def up(
    engine: EngineOption = "vllm",
    model: ModelOption = "",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway on 127.0.0.1; 0 picks a free one.")
    ] = DEFAULT_GATEWAY_PORT,
    traces: TracesOption = None,
    api_key: ApiKeyOption = "",
    reward: Annotated[
        str, typer.Option("--reward-engine", metavar="URL", help="A vLLM that serves a reward model, for trees.")
    ] = "",
    reward_kind: Annotated[
        str, typer.Option(help=f"How it is asked: {', '.join(_REWARD_KINDS)}; the name of vLLM's endpoint.")
    ] = "classify",
    data: Annotated[
        Path | None,
        typer.Option(help="Where queries and logs are kept.", show_default="~/.cache/dynasor/state"),
    ] = None,
    ordering: Annotated[
        str, typer.Option(help=f"Whose calls go next: {', '.join(ordering_names())}.")
    ] = "gang-shortest",
    schedulers: Annotated[
        int, typer.Option(min=1, max=5, help="How many: one is active, the others stand by for it.")
    ] = 1,
    redis_url: Annotated[
        str, typer.Option(envvar="DYNASOR_REDIS_URL", help="A running Redis instead of our own: redis://HOST:PORT/0.")
    ] = "",
    log_level: Annotated[str, typer.Option(help="Least severe line in the processes' logs.")] = "INFO",
) -> None:
    """Start everything on this machine and keep serving until Ctrl-C.

    Accepted queries survive a restart: they are kept in the data directory. A process that dies is started again.
    Exit status: 0 after Ctrl-C or SIGTERM; 1 where a part cannot be started; 2 where the command line is wrong.
    """
    try:
        parse_ordering(ordering)
    except UnknownOrdering as error:
        raise bad_input(str(error)) from error
    options = StackOptions(
        engine=engine_of(engine, model, tuple(traces or ()), api_key=api_key),
        reward=_reward(reward, reward_kind, api_key),
        data=data or default_data(),
        gateway_port=port,
        redis_url=redis_url,
        schedulers=schedulers,
        environment={"DYNASOR_SCHEDULER_ORDERING": ordering},
        log_level=log_level.upper(),
    )
    run_async(_up(options))


def _reward(url: str, kind: str, api_key: str) -> ExternalOptions | None:
    if kind not in _REWARD_KINDS:
        raise bad_input(f"--reward-kind {kind}: there is none; known are {', '.join(_REWARD_KINDS)}")
    return ExternalOptions(url, kind=_REWARD_KINDS[kind], api_key=api_key) if url else None


async def _up(options: StackOptions) -> None:
    assert options.data is not None
    _refuse_used_port(options.gateway_port)
    with owned(options.data), contextlib.suppress(Interrupted):
        await until_interrupted(_serve(options), "stopping; accepted queries go on at the next start")


async def _serve(options: StackOptions) -> None:
    """Serves until cancelled."""
    async with contextlib.AsyncExitStack() as parts:
        with stages() as report:
            stack = LocalStack(options, report)
            try:
                await parts.enter_async_context(stack)
            except StackError as error:
                raise CommandFailed(str(error), ExitCode.FAILED) from error
        print(_welcome(stack, example_question(options.engine)), flush=True)
        await watch_stack(stack, _notify)


def _refuse_used_port(port: int) -> None:
    """Raises `CommandFailed` where the gateway could not listen, before anything is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            message = f"cannot listen on {HOST}:{port}: {error.strerror}; stop what uses it, or give --port"
            raise CommandFailed(message, ExitCode.FAILED) from error


def _welcome(stack: LocalStack, question: str) -> str:
    address = "" if stack.gateway.endswith(f":{DEFAULT_GATEWAY_PORT}") else f" --address {stack.gateway}"
    return (
        f"\nDynasor serves {stack.engine.model} at {stack.gateway} (gRPC, with reflection)\n"
        f"  engine  {stack.engine.url} ({stack.engine.kind.value})\n"
        f"{_reward_line(stack)}"
        f"  state   {stack.data}\n"
        f"  logs    {stack.data / 'logs'}\n\n"
        f"Ask:   dynasor run {shlex.quote(question)}{address}\n"
        f"Stop:  Ctrl-C\n"
    )


def _reward_line(stack: LocalStack) -> str:
    return f"  reward  {stack.reward.url} ({stack.reward.model}, {stack.reward.kind.value})\n" if stack.reward else ""


def _notify(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
