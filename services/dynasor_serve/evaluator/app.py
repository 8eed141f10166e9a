"""Composition of the Certaindex evaluator."""

from __future__ import annotations

import asyncio
import logging

from dynasor_serve.api.evaluator.v1 import evaluator_pb2, evaluator_pb2_grpc
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.evaluator.behaviour import Behaviour
from dynasor_serve.evaluator.comparisons import CodeComparison, Comparison, TextComparison
from dynasor_serve.evaluator.equality_pool import EqualityPool
from dynasor_serve.evaluator.sandbox.isolation import Limits, Sandbox
from dynasor_serve.evaluator.servicer import EvaluatorServicer
from dynasor_serve.evaluator.settings import EvaluatorSettings
from dynasor_serve.evaluator.verification_pool import VerificationPool
from dynasor_serve.evaluator.verifiers.registry import verifiers
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class EvaluatorApp:
    """The evaluator process. It keeps no state and needs no Redis."""

    def __init__(self, settings: EvaluatorSettings) -> None:
        self._settings = settings
        self._metrics = Metrics("evaluator")
        self._equality = EqualityPool(
            workers=settings.workers,
            timeout_seconds=settings.pair_seconds,
            memory_bytes=settings.worker_memory_bytes,
            on_restart=lambda: self._metrics.increment(catalogue.WORKER_RESTARTS),
        )
        sandbox = Sandbox(Limits(seconds=settings.candidate_seconds, memory_bytes=settings.candidate_memory_bytes))
        # A pool for each, so that candidates that are run do not keep those waiting that are only read.
        self._verification = {
            name: VerificationPool(verifier, workers=settings.candidates)
            for name, verifier in verifiers(sandbox).items()
        }
        self._behaviour = VerificationPool(Behaviour(sandbox), workers=settings.candidates)
        comparisons: dict[AnswerType, Comparison] = {
            AnswerType.FREE_TEXT: TextComparison(),
            AnswerType.CODE: CodeComparison(self._behaviour),
        }
        servicer = EvaluatorServicer(self._equality, self._verification, self._metrics, comparisons)
        self._server = GrpcServer(
            address=settings.listen,
            service_name=evaluator_pb2.DESCRIPTOR.services_by_name["EvaluatorService"].full_name,
            register=lambda server: evaluator_pb2_grpc.add_EvaluatorServiceServicer_to_server(servicer, server),
        )

    async def start(self) -> None:
        """Sees which verifiers can work here, then listens; workers warm up meanwhile."""
        metrics_server = self._metrics.start_metrics_server(self._settings.metrics_port, self._settings.metrics_host)
        await self._equality.start()
        for pool in (*self._verification.values(), self._behaviour):
            await pool.start()
        await self._server.start()
        await self._server.set_serving(True)
        logger.info("listening", extra={"port": self._server.port, "metrics_port": metrics_server.port})

    async def failed(self) -> BaseException:
        """Never returns: a worker that dies is replaced."""
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def drain(self) -> None:
        """What runs ends within the grace."""
        await self._server.set_serving(False)
        await self._server.stop(self._settings.drain_seconds)
        await self._equality.close()
        for pool in (*self._verification.values(), self._behaviour):
            await pool.close()
