"""Composition of the scheduler: one active per group by lease, the others stand by."""

from __future__ import annotations

import asyncio
import logging

from dynasor_serve.api.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from dynasor_serve.rpc.process import StartError
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.scheduler.health import WorkerHealth
from dynasor_serve.scheduler.lease_keeper import LeaseKeeper
from dynasor_serve.scheduler.pools import Pools
from dynasor_serve.scheduler.servicer import SchedulerServicer
from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.scheduling.orderings.registry import UnknownOrdering, parse_ordering
from dynasor_serve.state.group_lease import GroupLease
from dynasor_serve.state.redis_client import StateUnavailable, connect, ping
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class SchedulerApp:
    """The scheduler process."""

    def __init__(self, settings: SchedulerSettings) -> None:
        try:
            parse_ordering(settings.ordering)
        except UnknownOrdering as error:
            raise StartError(f"DYNASOR_SCHEDULER_ORDERING: {error}") from error
        self._settings = settings
        self._metrics = Metrics("scheduler")
        # Asked for the lease alone: a command that hangs leaves time for another before the lease has to be given up.
        self._redis = connect(settings.redis_url, timeout_seconds=settings.lease_seconds / 3)
        self._pools = Pools(
            ordering=settings.ordering,
            fairness=settings.fairness,
            metrics=self._metrics,
        )
        self._health = WorkerHealth(
            self._pools,
            interval_seconds=settings.probe_interval_seconds,
            timeout_seconds=settings.probe_timeout_seconds,
            api_key=settings.engine_api_key.get_secret_value(),
        )
        servicer = SchedulerServicer(self._pools, self._health)
        self._server = GrpcServer(
            address=settings.listen,
            service_name=scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name,
            register=lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server),
        )
        self._keeper: LeaseKeeper  # once it listens: the lease says where
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listens, then competes for the lease."""
        try:
            await ping(self._redis)
        except StateUnavailable as error:
            raise StartError(str(error)) from error
        for worker in self._settings.workers:
            url = worker.url.rstrip("/")
            self._pools.register(worker.pool, worker.model, worker.name, url, worker.engine, worker.max_in_flight)
        metrics_server = self._metrics.start_metrics_server(self._settings.metrics_port, self._settings.metrics_host)
        await self._server.start()
        address = self._settings.advertise or await self._server.reachable_address()
        lease_seconds = self._settings.lease_seconds
        lease = GroupLease(self._redis, self._settings.group, self._settings.name, lease_seconds, address)
        self._keeper = LeaseKeeper(lease, self._pools, lease_seconds)
        self._tasks = [asyncio.create_task(self._keeper.run()), asyncio.create_task(self._health.run())]
        await self._server.set_serving(True)
        logger.info("listening", extra={"port": self._server.port, "metrics_port": metrics_server.port})

    async def failed(self) -> BaseException:
        """Returns the error of the first background task that ends."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).exception() or RuntimeError("a background task ended")

    async def drain(self) -> None:
        """Hands over at once: a standby takes the lease while trackers keep their calls."""
        await self._server.set_serving(False)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keeper.hand_over()
        await self._server.stop(grace_seconds=1.0)
        await self._redis.aclose()
