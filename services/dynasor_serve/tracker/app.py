"""Composition of the program tracker."""

from __future__ import annotations

import asyncio
import logging
import os

from dynasor_serve.api.tracker.v1 import tracker_pb2, tracker_pb2_grpc
from dynasor_serve.engines.client import EngineClient, EngineTimeouts
from dynasor_serve.rpc.process import StartError
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.state.program_log import ProgramLog
from dynasor_serve.state.redis_client import StateUnavailable, connect, ping
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.active_scheduler import ActiveScheduler
from dynasor_serve.tracker.clock import unix_ms
from dynasor_serve.tracker.driver import DriverTools
from dynasor_serve.tracker.equality import EqualityLink
from dynasor_serve.tracker.gang import GangTools
from dynasor_serve.tracker.grants import SchedulerLink
from dynasor_serve.tracker.holdings import Holdings
from dynasor_serve.tracker.servicer import TrackerServicer
from dynasor_serve.tracker.settings import TrackerSettings
from dynasor_serve.tracker.verification import VerifierLink

logger = logging.getLogger(__name__)

_LEASE_LOOK_SECONDS = 1.0  # longest wait for an answer


class TrackerApp:
    """The tracker process."""

    def __init__(self, settings: TrackerSettings) -> None:
        self._settings = settings
        self._metrics = Metrics("tracker")
        self._redis = connect(settings.redis_url)
        log = ProgramLog(self._redis, final_ttl_seconds=settings.final_ttl_seconds)
        self._engines = _engine_client(settings)
        # A client of its own: the lease is read on time also while all programs write.
        self._lease_redis = connect(settings.redis_url, timeout_seconds=_LEASE_LOOK_SECONDS)
        self._active_scheduler = ActiveScheduler(self._lease_redis, settings.group)
        self._scheduler = SchedulerLink(settings.name, self._active_scheduler)
        self._equality = EqualityLink(settings.evaluator)
        self._verifier = VerifierLink(settings.evaluator)
        tools = DriverTools(
            tracker=settings.name,
            log=log,
            scheduler=self._scheduler,
            equality=self._equality,
            verifier=self._verifier,
            metrics=self._metrics,
            gang=GangTools(
                engines=self._engines,
                scheduler=self._scheduler,
                metrics=self._metrics,
                retry_base_seconds=settings.retry_base_seconds,
                max_text_characters=settings.max_text_characters,
                max_program_characters=settings.max_program_characters,
            ),
        )
        self._holdings = Holdings(
            self._redis,
            log,
            tools,
            self._metrics,
            process=f"{os.getpid()}-{unix_ms()}",
            address=lambda: self._address,
            max_programs=settings.max_programs,
            lease_seconds=settings.lease_seconds,
            claim_interval_seconds=settings.claim_interval_seconds,
            kept_for_interactive=int(settings.max_programs * settings.interactive_share),
        )
        servicer = TrackerServicer(self._holdings)
        self._server = GrpcServer(
            address=settings.listen,
            service_name=tracker_pb2.DESCRIPTOR.services_by_name["TrackerService"].full_name,
            register=lambda server: tracker_pb2_grpc.add_TrackerServiceServicer_to_server(servicer, server),
        )
        self._address = settings.advertise  # where it is empty: known once the server listens
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Listens, then claims programs."""
        try:
            await ping(self._redis)
        except StateUnavailable as error:
            await self._engines.close()
            raise StartError(str(error)) from error
        metrics_server = self._metrics.start_metrics_server(self._settings.metrics_port, self._settings.metrics_host)
        await self._server.start()
        self._address = self._settings.advertise or await self._server.reachable_address()
        self._tasks = [
            asyncio.create_task(self._active_scheduler.run()),
            asyncio.create_task(self._scheduler.run(self._holdings.take_grant, lambda: self._holdings.running_calls)),
            asyncio.create_task(self._equality.run()),
            asyncio.create_task(self._verifier.run()),
            asyncio.create_task(self._holdings.run()),
        ]
        await self._server.set_serving(True)
        logger.info("listening", extra={"port": self._server.port, "metrics_port": metrics_server.port})

    async def failed(self) -> BaseException:
        """Returns the error of the first background task that ends."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).exception() or RuntimeError("a background task ended")

    async def drain(self) -> None:
        """Programs finish or are handed back; no call is left in an engine."""
        await self._server.set_serving(False)
        await self._holdings.drain(self._settings.drain_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._engines.close()
        await self._server.stop(grace_seconds=1.0)
        await self._redis.aclose()
        await self._lease_redis.aclose()


def _engine_client(settings: TrackerSettings) -> EngineClient:
    timeouts = EngineTimeouts(
        connect=settings.engine_connect_seconds,
        stall=settings.engine_stall_seconds,
        reply=settings.engine_reply_seconds,
    )
    try:
        return EngineClient(timeouts, settings.engine_api_key.get_secret_value())
    except ValueError as error:  # a line break, as a rule
        raise StartError(f"DYNASOR_TRACKER_ENGINE_API_KEY: {error}") from error
