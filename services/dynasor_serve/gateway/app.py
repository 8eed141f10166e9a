"""Composition of the gateway."""

from __future__ import annotations

import asyncio
import logging

from dynasor_serve.api.reasoning.v1 import reasoning_pb2, reasoning_pb2_grpc
from dynasor_serve.certaindex.rules.registry import parse_rule
from dynasor_serve.certaindex.rules.rule import InvalidRule
from dynasor_serve.gateway.admission import Admission, AdmissionRules
from dynasor_serve.gateway.batches import Batches
from dynasor_serve.gateway.follower import LogFollower
from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.live_text import TrackerChannels
from dynasor_serve.gateway.pool_directory import PoolDirectory
from dynasor_serve.gateway.queries import Queries
from dynasor_serve.gateway.servicer import ReasoningServicer
from dynasor_serve.gateway.settings import GatewaySettings
from dynasor_serve.rpc.process import StartError
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.state.program_log import ProgramLog
from dynasor_serve.state.redis_client import StateUnavailable, connect, ping
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_STALE_REFRESHES = 3  # looks at a pool that failed in a row before its figures say nothing about its future


class GatewayApp:
    """The gateway process."""

    def __init__(self, settings: GatewaySettings) -> None:
        try:
            parse_rule(settings.default_rule)
        except InvalidRule as error:
            raise StartError(f"DYNASOR_GATEWAY_DEFAULT_RULE: {error}") from error
        self._settings = settings
        self._metrics = Metrics("gateway")
        self._redis = connect(settings.redis_url)
        log = ProgramLog(self._redis, final_ttl_seconds=settings.final_ttl_seconds)
        self._follower = LogFollower(self._redis, log)
        self._pools = PoolDirectory(settings.schedulers, settings.pool_refresh_seconds)
        self._trackers = TrackerChannels()
        self._live = LivePrograms(log, settings.pool_refresh_seconds)
        rules = AdmissionRules(
            live_queries_per_tenant=settings.live_queries_per_tenant,
            live_programs_per_pool=settings.live_programs_per_pool,
            queued_programs_per_shard=settings.queued_programs_per_shard,
            idempotency_ttl_seconds=settings.idempotency_ttl_seconds,
            urgent_share=settings.urgent_share,
            tenant_budgets=settings.tenant_token_budgets,
            budget_window_seconds=settings.token_budget_window_seconds,
            by_deadline=settings.admission_by_deadline,
            default_deadline_seconds=settings.default_deadline_seconds,
            stale_seconds=_STALE_REFRESHES * settings.pool_refresh_seconds,
        )
        queries = Queries(log, self._follower, self._pools, self._metrics, Admission(rules, self._live))
        batches = Batches(
            queries,
            most_in_flight=settings.batch_in_flight,
            most_bytes_in_flight=settings.batch_bytes_in_flight,
            patience_seconds=settings.batch_patience_seconds,
        )
        servicer = ReasoningServicer(
            queries,
            batches,
            self._trackers,
            default_rule=settings.default_rule,
            default_deadline_seconds=settings.default_deadline_seconds,
        )
        self._server = GrpcServer(
            address=settings.listen,
            service_name=reasoning_pb2.DESCRIPTOR.services_by_name["ReasoningService"].full_name,
            register=lambda server: reasoning_pb2_grpc.add_ReasoningServiceServicer_to_server(servicer, server),
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listens for clients."""
        try:
            await ping(self._redis)
        except StateUnavailable as error:
            raise StartError(str(error)) from error
        metrics_server = self._metrics.start_metrics_server(self._settings.metrics_port, self._settings.metrics_host)
        await self._server.start()
        self._tasks = [
            asyncio.create_task(self._follower.run()),
            asyncio.create_task(self._pools.run()),
            asyncio.create_task(self._live.run()),
        ]
        await self._server.set_serving(True)
        logger.info("listening", extra={"port": self._server.port, "metrics_port": metrics_server.port})

    async def failed(self) -> BaseException:
        """Returns the error of the first background task that ends."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).exception() or RuntimeError("a background task ended")

    async def drain(self) -> None:
        """Streams go on within the grace; a client whose stream is cut goes on with Watch."""
        await self._server.set_serving(False)
        await self._server.stop(self._settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._trackers.close()
        await self._redis.aclose()
