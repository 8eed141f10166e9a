"""A scheduler that holds a lease and grants what it is told to, over real gRPC and in a real Redis.

async with granting_scheduler(redis, "one") as one:
    await one.lease.acquire()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2_grpc
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.state.group_lease import GroupLease

GROUP = "default"


class GrantingScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Grants without being asked.

    Attributes:
        lease: its own; nothing keeps it from granting without.
        heard: what trackers have told, one message after the other.
        conversations: that are open.
    """

    def __init__(self) -> None:
        self.lease: GroupLease
        self.heard: asyncio.Queue[pb.CoordinateRequest] = asyncio.Queue()
        self.conversations = 0
        self._grants: asyncio.Queue[pb.Grant] = asyncio.Queue()

    def grant(self, query_id: str, epoch: int) -> None:
        """Sends a grant to whoever listens, now or later."""
        self._grants.put_nowait(
            pb.Grant(query_id=query_id, attempt="1.1", epoch=epoch, url="http://worker", engine="replay")
        )

    async def Coordinate(  # noqa: N802 gRPC names it
        self, request_iterator: AsyncIterator[pb.CoordinateRequest], context: object
    ) -> AsyncIterator[pb.CoordinateResponse]:
        hearing = asyncio.create_task(self._hear(request_iterator))
        self.conversations += 1
        try:
            while True:
                yield pb.CoordinateResponse(grants=[await self._grants.get()])
        finally:
            self.conversations -= 1
            hearing.cancel()

    async def _hear(self, requests: AsyncIterator[pb.CoordinateRequest]) -> None:
        async for request in requests:
            self.heard.put_nowait(request)


@asynccontextmanager
async def granting_scheduler(redis: Redis, name: str, *, lease_seconds: float) -> AsyncIterator[GrantingScheduler]:
    """Runs one on a free port."""
    scheduler = GrantingScheduler()  # type: ignore[abstract]  # what a tracker does not call is left out
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name="dynasor_serve.api.scheduler.v1.SchedulerService",
        register=lambda into: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, into),
    )
    await server.start()
    scheduler.lease = GroupLease(redis, GROUP, name, lease_seconds, f"127.0.0.1:{server.port}")
    try:
        yield scheduler
    finally:
        await server.stop(0)
