"""`dynasor submit`: hand a question in and return at once with its id."""

from __future__ import annotations

import sys
from typing import Annotated

import grpc
import typer

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli import query_options as options
from dynasor_serve.cli.connection import CALL_SECONDS, DEFAULT_ADDRESS, AddressOption, connected
from dynasor_serve.cli.exit_codes import EXIT_CODES_HELP
from dynasor_serve.cli.failures import refusal
from dynasor_serve.cli.interruptions import run_async
from dynasor_serve.cli.patience import DEFAULT_SECONDS, Patience, PatienceOption
from dynasor_serve.cli.presentation import one_line_json

app = typer.Typer()


@app.command(epilog=EXIT_CODES_HELP)
@options.takes_query
def submit(
    query: options.QueryOptions,
    address: AddressOption = DEFAULT_ADDRESS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the bare id.")] = False,
    patience: PatienceOption = DEFAULT_SECONDS,
) -> None:
    """Ask a question and return at once: prints the query's id. It is safe from then on.

    `dynasor watch ID` follows it, `dynasor get ID` reads its answer.
    """
    response = run_async(_submit(query.message(), address, Patience(patience, _tell)))
    if as_json:
        print(one_line_json({"query_id": response.query_id, "already_accepted": response.already_accepted}))
    else:
        print(response.query_id)


async def _submit(query: pb.Query, address: str, patience: Patience) -> pb.SubmitResponse:
    async with connected(address) as stub:
        while True:
            try:
                return await stub.Submit(pb.SubmitRequest(query=query), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if not await patience.outlasts(error):
                    raise refusal(error, address) from error


def _tell(sentence: str) -> None:
    print(f"dynasor: {sentence}", file=sys.stderr)
