"""The tracker's gRPC face: live text of the programs it owns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from dynasor_serve.api.tracker.v1 import tracker_pb2 as pb
from dynasor_serve.api.tracker.v1 import tracker_pb2_grpc
from dynasor_serve.programs.query import Branch, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.tracker.holdings import Holdings

_MOST_BUFFERED_DELTAS = 4096
_OWNERSHIP_CHECK_SECONDS = 1.0


class TrackerServicer(tracker_pb2_grpc.TrackerServiceServicer):
    """Lets a gateway listen to running calls while somebody watches."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    async def StreamText(
        self,
        request: pb.StreamTextRequest,
        context: grpc.aio.ServicerContext[pb.StreamTextRequest, AsyncIterator[pb.StreamTextResponse]],
    ) -> AsyncIterator[pb.StreamTextResponse]:
        driver = self._holdings.driver(QueryId(request.query_id))
        if driver is None:
            raise ServiceError(Reason.NOT_OWNER, f"this tracker does not own {request.query_id!r}")
        # A slow reader misses deltas rather than slowing the program: offsets show the gap.
        deltas: asyncio.Queue[pb.StreamTextResponse] = asyncio.Queue(_MOST_BUFFERED_DELTAS)

        def hear(branch: Branch, attempt: str, offset: int, text: str) -> None:
            if not deltas.full():
                deltas.put_nowait(pb.StreamTextResponse(branch=branch, attempt=attempt, offset=offset, text=text))

        driver.listeners.add(hear)
        try:
            while not (driver.is_over and deltas.empty()):
                try:
                    async with asyncio.timeout(_OWNERSHIP_CHECK_SECONDS):
                        delta = await deltas.get()
                except TimeoutError:
                    continue
                yield delta
        finally:
            driver.listeners.discard(hear)
