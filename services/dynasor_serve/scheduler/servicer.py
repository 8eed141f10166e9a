"""The scheduler's gRPC face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

import grpc

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2_grpc
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.scheduler.health import WorkerHealth
from dynasor_serve.scheduler.pools import Pools, TrackerSession

DEFAULT_MAX_IN_FLIGHT = 64
DEFAULT_INTERVAL_SECONDS = 1.0  # between two demands
LEAST_INTERVAL_SECONDS, MOST_INTERVAL_SECONDS = 0.1, 3600.0


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Grants calls; answers NOT_ACTIVE while another scheduler of the group is active."""

    def __init__(self, pools: Pools, health: WorkerHealth) -> None:
        self._pools = pools
        self._health = health

    async def Coordinate(
        self,
        request_iterator: AsyncIterator[pb.CoordinateRequest],
        context: grpc.aio.ServicerContext[AsyncIterator[pb.CoordinateRequest], AsyncIterator[pb.CoordinateResponse]],
    ) -> AsyncIterator[pb.CoordinateResponse]:
        self._require_active()
        first = await anext(request_iterator, None)
        if first is None or not first.tracker:
            raise ServiceError(Reason.MALFORMED_REQUEST, "the first message of a conversation names the tracker")
        self._require_active()  # still, after the wait for the first message
        session = self._pools.open_session(first.tracker)
        self._pools.hear(session, first)
        hearing = asyncio.create_task(self._hear(session, request_iterator))
        try:
            while not session.is_over:
                await session.wakeup.wait()
                session.wakeup.clear()
                if session.grants:
                    grants, session.grants = session.grants, []
                    yield pb.CoordinateResponse(grants=grants)
        finally:
            hearing.cancel()
            self._pools.close_session(session)
        if not hearing.done():
            raise ServiceError(Reason.NOT_ACTIVE, "another scheduler takes over; connect again")

    async def RegisterWorker(
        self,
        request: pb.RegisterWorkerRequest,
        context: grpc.aio.ServicerContext[pb.RegisterWorkerRequest, Awaitable[pb.RegisterWorkerResponse]],
    ) -> pb.RegisterWorkerResponse:
        worker = request.worker
        kinds = [kind.value for kind in EngineKind]
        for field, value in (("pool", request.pool), ("model", request.model), ("worker.name", worker.name)):
            if not value:
                raise ServiceError(Reason.MALFORMED_REQUEST, f"{field} is empty", field=field)
        if not worker.url.startswith(("http://", "https://")):
            message = f"worker.url {worker.url!r} is no URL; give http://HOST:PORT without /v1"
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field="worker.url")
        if "@" in worker.url:
            message = "worker.url names a user; leave that out: engines are shown the bearer token engine_api_key"
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field="worker.url")
        if worker.engine not in kinds:
            message = f"worker.engine {worker.engine!r} is unknown; known are {', '.join(kinds)}"
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field="worker.engine")
        max_in_flight = worker.max_in_flight or DEFAULT_MAX_IN_FLIGHT
        url = worker.url.rstrip("/")
        self._pools.register(request.pool, request.model, worker.name, url, worker.engine, max_in_flight)
        await self._health.check_all()
        return pb.RegisterWorkerResponse()

    async def DrainWorker(
        self,
        request: pb.DrainWorkerRequest,
        context: grpc.aio.ServicerContext[pb.DrainWorkerRequest, Awaitable[pb.DrainWorkerResponse]],
    ) -> pb.DrainWorkerResponse:
        return pb.DrainWorkerResponse(in_flight=self._pools.drain(request.pool, request.worker))

    async def ListPools(
        self,
        request: pb.ListPoolsRequest,
        context: grpc.aio.ServicerContext[pb.ListPoolsRequest, Awaitable[pb.ListPoolsResponse]],
    ) -> pb.ListPoolsResponse:
        self._require_active()
        return pb.ListPoolsResponse(pools=self._pools.messages())

    async def WatchDemand(
        self,
        request: pb.WatchDemandRequest,
        context: grpc.aio.ServicerContext[pb.WatchDemandRequest, AsyncIterator[pb.WatchDemandResponse]],
    ) -> AsyncIterator[pb.WatchDemandResponse]:
        interval_seconds = request.interval_seconds or DEFAULT_INTERVAL_SECONDS
        if not LEAST_INTERVAL_SECONDS <= interval_seconds <= MOST_INTERVAL_SECONDS:
            message = (
                f"interval_seconds {request.interval_seconds:g} is out of range; give {LEAST_INTERVAL_SECONDS:g} to "
                f"{MOST_INTERVAL_SECONDS:g}, or 0 for {DEFAULT_INTERVAL_SECONDS:g}"
            )
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field="interval_seconds")
        while True:
            self._require_active()
            yield pb.WatchDemandResponse(demands=self._pools.demands())
            await self._pools.resigned(interval_seconds)

    def _require_active(self) -> None:
        if not self._pools.epoch:
            raise ServiceError(Reason.NOT_ACTIVE, "another scheduler of the group is active", retry_after_seconds=0.5)

    async def _hear(self, session: TrackerSession, requests: AsyncIterator[pb.CoordinateRequest]) -> None:
        try:
            async for request in requests:
                self._pools.hear(session, request)
        finally:
            session.end()
