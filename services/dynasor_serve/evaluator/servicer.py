"""The evaluator's gRPC face."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1 import evaluator_pb2_grpc
from dynasor_serve.evaluator.equality_pool import EqualityPool
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

MOST_PAIRS = 1024
_DECISIONS = {
    True: (pb.EQUALITY_EQUAL, "equal"),
    False: (pb.EQUALITY_UNEQUAL, "different"),
    None: (pb.EQUALITY_UNDECIDED, "undecided"),
}


class EvaluatorServicer(evaluator_pb2_grpc.EvaluatorServiceServicer):
    """EvaluatorService."""

    def __init__(self, pool: EqualityPool, metrics: Metrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def DecideEquality(
        self,
        request: pb.DecideEqualityRequest,
        context: grpc.aio.ServicerContext[pb.DecideEqualityRequest, Awaitable[pb.DecideEqualityResponse]],
    ) -> pb.DecideEqualityResponse:
        if len(request.pairs) > MOST_PAIRS:
            message = f"{len(request.pairs)} pairs in one request; send at most {MOST_PAIRS}"
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field="pairs")
        began = time.perf_counter()
        decided = await self._pool.decide([(pair.left, pair.right) for pair in request.pairs])
        self._metrics.observe(catalogue.DECIDE_SECONDS, time.perf_counter() - began)
        for decision in decided:
            self._metrics.increment(catalogue.PAIRS, result=_DECISIONS[decision][1])
        return pb.DecideEqualityResponse(decisions=[_DECISIONS[decision][0] for decision in decided])
