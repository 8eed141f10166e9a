"""`dynasor get`, `list`, `watch` and `cancel`: queries that were asked before, by their ids."""

from __future__ import annotations

import contextlib
from typing import Annotated

import grpc
import typer
from rich.console import Console
from rich.table import Table

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.connection import CALL_SECONDS, DEFAULT_ADDRESS, AddressOption, connected
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from dynasor_serve.cli.failures import refusal
from dynasor_serve.cli.following import watch_query
from dynasor_serve.cli.interruptions import run_async
from dynasor_serve.cli.presentation import (
    answer_text,
    ending_line,
    event_line,
    one_line_json,
    plain,
    printable,
    query_json,
    shortened,
    votes_text,
)
from dynasor_serve.cli.standing import PHASES, Standing, standing_of

app = typer.Typer()

QueryIdArgument = Annotated[str, typer.Argument(metavar="QUERY_ID", help="As printed by `run --json` and `submit`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]

_WIDE_COLUMNS = 200  # of a table that goes into a file or a pipe
_LARGEST_PAGE = 200


@app.command(epilog=EXIT_CODES_HELP)
def get(query_id: QueryIdArgument, address: AddressOption = DEFAULT_ADDRESS, as_json: JsonOption = False) -> None:
    """Show where a query is, with its answer once it has one. Exits 1 where the query failed."""
    state = run_async(_get(query_id, address))
    standing = standing_of(state)
    if as_json:
        print(one_line_json(query_json(standing)))
    else:
        print(_description(state, standing))
    if standing.phase == "failed":
        raise typer.Exit(ExitCode.FAILED)


@app.command("list", epilog=EXIT_CODES_HELP)
def list_queries(
    address: AddressOption = DEFAULT_ADDRESS,
    tenant: Annotated[str, typer.Option(help="Whose queries.")] = "default",
    limit: Annotated[int, typer.Option(min=1, help="Most queries shown.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List a tenant's queries, newest first. With --json, one object per line."""
    states = run_async(_list(tenant, limit, address))
    if as_json:
        for state in states:
            print(one_line_json(query_json(standing_of(state))))
    else:
        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDE_COLUMNS)
        console.print(_table(states) if states else f"tenant {tenant!r} has no queries", markup=False, highlight=False)


@app.command(epilog=EXIT_CODES_HELP)
def watch(
    query_id: QueryIdArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    from_sequence: Annotated[int, typer.Option("--from", help="First event shown.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Follow a query's events until it is final. With --json, one object per line. Exits 1 where the query fails."""
    phase = run_async(_watch(query_id, from_sequence, address, as_json=as_json))
    if phase == "failed":
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog=EXIT_CODES_HELP)
def cancel(
    query_id: QueryIdArgument,
    address: AddressOption = DEFAULT_ADDRESS,
    reason: Annotated[str, typer.Option(help="Recorded with the query.")] = "cancelled at the command line",
    as_json: JsonOption = False,
) -> None:
    """End a query with its best answer so far. Cancelling a finished query changes nothing."""
    phase = run_async(_cancel(query_id, reason, address))
    if as_json:
        print(one_line_json({"query_id": query_id, "phase": phase}))
    elif phase == "running":
        print("running; its tracker is winding it up")
    else:
        print(phase)


async def _get(query_id: str, address: str) -> pb.QueryState:
    async with connected(address) as stub:
        try:
            return (await stub.Get(pb.GetRequest(query_id=query_id), timeout=CALL_SECONDS)).state
        except grpc.aio.AioRpcError as error:
            raise refusal(error, address) from error


async def _list(tenant: str, limit: int, address: str) -> list[pb.QueryState]:
    states: list[pb.QueryState] = []
    token = ""
    async with connected(address) as stub:
        while len(states) < limit:
            size = min(_LARGEST_PAGE, limit - len(states))
            try:
                page = await stub.List(
                    pb.ListRequest(tenant=tenant, page_size=size, page_token=token), timeout=CALL_SECONDS
                )
            except grpc.aio.AioRpcError as error:
                raise refusal(error, address) from error
            states += page.states
            token = page.next_page_token
            if not token:
                break
    return states


async def _watch(query_id: str, from_sequence: int, address: str, *, as_json: bool) -> str:
    phase = ""
    async with (
        connected(address) as stub,
        contextlib.aclosing(watch_query(stub, query_id, from_sequence, address)) as events,
    ):
        async for event in events:
            fields = plain(event)
            print(one_line_json(fields) if as_json else event_line(fields), flush=True)
            if event.HasField("finished"):
                phase = PHASES[event.finished.phase]
    return phase


async def _cancel(query_id: str, reason: str, address: str) -> str:
    async with connected(address) as stub:
        try:
            response = await stub.Cancel(pb.CancelRequest(query_id=query_id, reason=reason), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise refusal(error, address) from error
    return PHASES[response.phase]


def _description(state: pb.QueryState, standing: Standing) -> str:
    query = state.query
    rows = [
        ("query", standing.query_id),
        ("phase", standing.phase),
        ("question", shortened(_question(query), 200)),
        ("model", query.model),
        ("rule", query.policy.rule),
        ("accepted", state.accepted_at.ToJsonString()),
    ]
    if standing.outcome is not None:
        rows += [("answer", answer_text(standing)), ("votes", votes_text(standing)), ("ended", ending_line(standing))]
    rows.append(("certaindex", f"{standing.certaindex:.3f} after {standing.samples} samples"))
    return "\n".join(f"{name:<11} {printable(value)}" for name, value in rows)


def _table(states: list[pb.QueryState]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("query", no_wrap=True)
    table.add_column("phase", no_wrap=True)
    table.add_column("question", overflow="ellipsis", no_wrap=True)
    table.add_column("answer", overflow="ellipsis", no_wrap=True)
    for name in ("certaindex", "samples", "tokens", "saved (est.)"):
        table.add_column(name, justify="right", no_wrap=True)
    for state in states:
        standing = standing_of(state)
        outcome = standing.outcome
        table.add_row(
            standing.query_id,
            standing.phase,
            shortened(_question(state.query), 60),
            shortened(outcome.answer, 30) if outcome else "",
            f"{standing.certaindex:.2f}",
            str(standing.samples),
            str(standing.tokens) if outcome else "",
            str(outcome.ledger.tokens_saved_estimate)
            if outcome and outcome.ledger.HasField("tokens_saved_estimate")
            else "",
        )
    return table


def _question(query: pb.Query) -> str:
    """What was asked, without the examples that a raw prompt may hold before it."""
    if query.WhichOneof("input") == "prompt":
        return query.prompt.rpartition("\n\n")[2]
    turns = [message.content for message in query.chat.messages if message.role == "user"]
    return turns[-1] if turns else ""
