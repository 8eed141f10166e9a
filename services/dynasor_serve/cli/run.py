"""`dynasor run`: ask one question, follow it, print the answer and what it cost."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Annotated

import grpc
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli import query_options as options
from dynasor_serve.cli.connection import CALL_SECONDS, DEFAULT_ADDRESS, AddressOption, connected
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.following import run_query
from dynasor_serve.cli.interruptions import interruptions, run_async
from dynasor_serve.cli.patience import DEFAULT_SECONDS, Patience, PatienceOption
from dynasor_serve.cli.presentation import (
    answer_text,
    ending_line,
    one_line_json,
    progress_line,
    query_json,
    refused_json,
)
from dynasor_serve.cli.progress import changing_line
from dynasor_serve.cli.standing import Standing

app = typer.Typer()

_POLL_SECONDS = 0.02
_WIND_UP_SECONDS = 10.0
"""How long an interrupted command waits for the cancelled query's last event."""


@app.command(epilog=EXIT_CODES_HELP)
@options.takes_query
def run(
    query: options.QueryOptions,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer alone; no progress.")] = False,
    patience: PatienceOption = DEFAULT_SECONDS,
) -> None:
    """Ask a question and wait for its answer. Ctrl-C cancels the query.

    Runs the program, by default many samples and a vote, and stops it as soon as its rule says that it is settled.
    """
    standing = Standing(answer_type=query.answer_type)
    try:
        exit_code = run_async(_answer(query, address, standing, patience, is_chatty=not quiet, plain_lines=not as_json))
    except CommandFailed as failure:
        if as_json:
            print(one_line_json(refused_json(standing, failure)))
        raise
    if as_json:
        print(one_line_json(query_json(standing)))
    elif quiet:
        print(answer_text(standing))
    else:
        print(f"{answer_text(standing)}\n{ending_line(standing)}")
    raise typer.Exit(exit_code)


async def _answer(
    query: options.QueryOptions,
    address: str,
    standing: Standing,
    patience_seconds: float,
    *,
    is_chatty: bool,
    plain_lines: bool,
) -> ExitCode:
    """Asks the query and folds its events into the standing, to its end or to Ctrl-C."""
    message = query.message()
    async with connected(address) as stub:
        with (
            interruptions() as interrupted,
            changing_line(plain_lines=plain_lines) if is_chatty else contextlib.nullcontext(_ignore) as show,
        ):
            patience = Patience(patience_seconds, show)
            following = asyncio.create_task(_follow(stub, message, address, standing, patience, show))
            await asyncio.wait((following, interrupted), return_when=asyncio.FIRST_COMPLETED)
            if interrupted.done():
                if patience.is_waiting:  # nothing was accepted
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                else:
                    await _cancel(stub, following, standing)
                return interrupted.result()
    following.result()
    return ExitCode.ANSWERED if standing.phase == "succeeded" else ExitCode.FAILED


async def _follow(
    stub: ReasoningServiceStub,
    query: pb.Query,
    address: str,
    standing: Standing,
    patience: Patience,
    show: Callable[[str], None],
) -> None:
    async with contextlib.aclosing(run_query(stub, query, address, patience)) as events:
        async for event in events:
            standing.apply(event)
            if standing.outcome is None:
                show(progress_line(standing))


async def _cancel(stub: ReasoningServiceStub, following: asyncio.Task[None], standing: Standing) -> None:
    """Cancels the query and waits for its last event, which carries the best answer so far.

    A query that has just been sent has no id here yet: its first event brings it.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WIND_UP_SECONDS):
            while not standing.query_id and not following.done():
                await asyncio.wait((following,), timeout=_POLL_SECONDS)
            if not following.done():
                request = pb.CancelRequest(query_id=standing.query_id, reason="interrupted at the command line")
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.Cancel(request, timeout=CALL_SECONDS)
            await asyncio.wait((following,))
    if not following.done():
        following.cancel()
        hint = f": dynasor cancel {standing.query_id}" if standing.query_id else ""
        print(f"dynasor: no gateway confirmed the cancellation; the query may still run{hint}", file=sys.stderr)
    await asyncio.gather(following, return_exceptions=True)


def _ignore(_: str) -> None:
    """Shows nothing."""
