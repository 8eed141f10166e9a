"""Follows a query to its end through broken streams: a gateway may restart, the query lives on.

`run_query` asks and follows, `watch_query` follows one that exists. Both go on with Watch from the last sequence number
plus one; a Run that broke before its first event is asked again under the same idempotency key, so it is one query.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncGenerator
from typing import TypeAlias

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli.failures import refusal, unreachable
from dynasor_serve.cli.patience import Patience
from dynasor_serve.rpc.errors import reason_of

RunStream: TypeAlias = "grpc.aio.UnaryStreamCall[pb.RunRequest, pb.RunResponse]"
WatchStream: TypeAlias = "grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.WatchResponse]"

MOST_RETRIES = 8
"""In a row without an event between them; with the pauses below about 12 s, a gateway's restart several times over."""

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.5
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


async def run_query(
    stub: ReasoningServiceStub, query: pb.Query, address: str, patience: Patience | None = None
) -> AsyncGenerator[pb.QueryEvent, None]:
    """Asks a query and yields its events, each once, the final one last.

    Args:
        patience: for a server that has too much to do; None: its refusal is final.

    Raises:
        CommandFailed: the server refuses the query, or cannot be reached any more.
    """
    if not query.idempotency_key:
        query.idempotency_key = f"cli-{uuid.uuid4().hex}"
    async for event in _followed(stub, address, query, "", 0, patience):
        yield event


async def watch_query(
    stub: ReasoningServiceStub, query_id: str, from_sequence: int, address: str
) -> AsyncGenerator[pb.QueryEvent, None]:
    """Yields the events of an accepted query from a sequence number on, the final one last.

    A query that is final and has no such event yields nothing. Raises as `run_query` does.
    """
    async for event in _followed(stub, address, None, query_id, from_sequence, None):
        yield event


async def _followed(
    stub: ReasoningServiceStub,
    address: str,
    query: pb.Query | None,
    query_id: str,
    next_sequence: int,
    patience: Patience | None,
) -> AsyncGenerator[pb.QueryEvent, None]:
    failures = 0
    while True:
        call: RunStream | WatchStream = (
            stub.Run(pb.RunRequest(query=query))
            if query is not None and not query_id
            else stub.Watch(pb.WatchRequest(query_id=query_id, from_sequence=next_sequence))
        )
        trouble, is_silent = "the stream ended before the query was final", True
        try:
            async for response in call:
                event, is_silent = response.event, False
                query_id, next_sequence, failures = event.query_id, event.sequence + 1, 0
                yield event
                if event.HasField("finished"):
                    return
            if query is None and is_silent:
                return
        except grpc.aio.AioRpcError as error:
            if patience is not None and not query_id and await patience.outlasts(error):
                continue
            # A typed refusal of Run is final. Once accepted, a gateway that has just restarted may not know Redis yet.
            is_settled = bool(reason_of(error)) and (not query_id or error.code() is not grpc.StatusCode.UNAVAILABLE)
            if is_settled or error.code() not in _PASSING:
                raise refusal(error, address) from error
            trouble = error.details() or error.code().name
        finally:
            call.cancel()
        failures += 1
        if failures > MOST_RETRIES:
            known = f"; the query goes on as {query_id}: `dynasor watch {query_id}`" if query_id else ""
            raise unreachable(address, f"{trouble}; gave up after {MOST_RETRIES} tries{known}")
        pause = min(_LONGEST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS * 2.0**failures)
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
