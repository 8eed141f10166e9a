"""The evaluator's gRPC face."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1 import evaluator_pb2_grpc
from dynasor_serve.evaluator.equality_pool import Equality, EqualityPool
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

MOST_PAIRS = 1024
# Of the caller's time, for the reply to reach it: what has been decided must not be lost to what has not.
_REPLY_SECONDS = 0.5
_MESSAGES = {
    Equality.EQUAL: pb.EQUALITY_EQUAL,
    Equality.DIFFERENT: pb.EQUALITY_UNEQUAL,
    Equality.UNDECIDED: pb.EQUALITY_UNDECIDED,
    Equality.NOT_REACHED: pb.EQUALITY_NOT_REACHED,
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
        pairs = [(pair.left, pair.right) for pair in request.pairs]
        decided = await self._pool.decide(pairs, within_seconds=_seconds_to_decide(context.time_remaining()))
        self._metrics.observe(catalogue.DECIDE_SECONDS, time.perf_counter() - began)
        for decision in decided:
            self._metrics.increment(catalogue.PAIRS, result=decision.value)
        return pb.DecideEqualityResponse(decisions=[_MESSAGES[decision] for decision in decided])


def _seconds_to_decide(remaining_seconds: float | None) -> float | None:
    """What a caller's deadline leaves for the decisions; None where it set none."""
    return None if remaining_seconds is None else max(0.0, remaining_seconds - _REPLY_SECONDS)
