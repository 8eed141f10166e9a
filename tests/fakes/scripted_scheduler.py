"""A scheduler that lists the pools it is told to, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2_grpc
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.rpc.server import GrpcServer


class ScriptedScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Lists pools.

    Attributes:
        address: where it listens.
        pools: what it lists; None: it is not active.
        delay_seconds: how long it takes.
        asked: how often it was.
    """

    def __init__(self) -> None:
        self.address = ""
        self.pools: list[pb.Pool] | None = []
        self.delay_seconds = 0.0
        self.asked = 0

    async def ListPools(  # noqa: N802 gRPC names it
        self, request: pb.ListPoolsRequest, context: object
    ) -> pb.ListPoolsResponse:
        self.asked += 1
        await asyncio.sleep(self.delay_seconds)
        if self.pools is None:
            raise ServiceError(Reason.NOT_ACTIVE, "another scheduler of the group is active")
        return pb.ListPoolsResponse(pools=self.pools)


def pool_message(name: str, model: str = "model", *, ready: int = 1) -> pb.Pool:
    """A pool with so many ready workers, and one that starts."""
    states = [pb.WORKER_STATE_READY] * ready + [pb.WORKER_STATE_STARTING]
    workers = [pb.Worker(name=f"w{i}", state=state) for i, state in enumerate(states)]
    return pb.Pool(name=name, model=model, workers=workers)


@asynccontextmanager
async def scripted_scheduler() -> AsyncIterator[ScriptedScheduler]:
    """Runs one on a free port."""
    scheduler = ScriptedScheduler()  # type: ignore[abstract]  # what a gateway does not call is left out
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name="dynasor_serve.api.scheduler.v1.SchedulerService",
        register=lambda into: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, into),
    )
    await server.start()
    scheduler.address = f"127.0.0.1:{server.port}"
    try:
        yield scheduler
    finally:
        await server.stop(0)
