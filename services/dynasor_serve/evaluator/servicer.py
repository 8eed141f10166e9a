"""The evaluator's gRPC face."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1 import evaluator_pb2_grpc
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.evaluator.comparisons import Comparison
from dynasor_serve.evaluator.equality_pool import Equality, EqualityPool
from dynasor_serve.evaluator.verification_pool import VerificationPool
from dynasor_serve.evaluator.verifiers.verifier import InvalidTask, Status, VerifierUnavailable
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

MOST_PAIRS = 1024
MOST_CANDIDATES = 256
MAX_CANDIDATE_BYTES = 1 << 20
# Of the caller's time, for the reply to reach it: what has been decided must not be lost to what has not.
_REPLY_SECONDS = 0.5
_MESSAGES = {
    Equality.EQUAL: pb.EQUALITY_EQUAL,
    Equality.DIFFERENT: pb.EQUALITY_UNEQUAL,
    Equality.UNDECIDED: pb.EQUALITY_UNDECIDED,
    Equality.NOT_REACHED: pb.EQUALITY_NOT_REACHED,
}
_STATUSES = {
    Status.VERIFIED: pb.VERIFICATION_STATUS_VERIFIED,
    Status.UNDECIDED: pb.VERIFICATION_STATUS_UNDECIDED,
    Status.NOT_REACHED: pb.VERIFICATION_STATUS_NOT_REACHED,
}


class EvaluatorServicer(evaluator_pb2_grpc.EvaluatorServiceServicer):
    """EvaluatorService.

    Args:
        equality: decides whether mathematical answers are equal.
        verification: judges candidates, by the verifier's name.
        comparisons: decide whether answers of other types are equal.
    """

    def __init__(
        self,
        equality: EqualityPool,
        verification: Mapping[str, VerificationPool],
        metrics: Metrics,
        comparisons: Mapping[AnswerType, Comparison] | None = None,
    ) -> None:
        self._equality = equality
        self._comparisons = comparisons or {}
        self._verification = verification
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
        decided = await self._decided(request, _seconds_to_decide(context.time_remaining()))
        self._metrics.observe(catalogue.DECIDE_SECONDS, time.perf_counter() - began)
        for decision in decided:
            self._metrics.increment(catalogue.PAIRS, result=decision.value)
        return pb.DecideEqualityResponse(decisions=[_MESSAGES[decision] for decision in decided])

    async def _decided(self, request: pb.DecideEqualityRequest, within_seconds: float | None) -> list[Equality]:
        pairs = [(pair.left, pair.right) for pair in request.pairs]
        program, answer_type = request.query_id, request.answer_type or AnswerType.MATH.value
        if answer_type == AnswerType.MATH:
            return await self._equality.decide(pairs, program=program, within_seconds=within_seconds)
        for known, comparison in self._comparisons.items():
            if known == answer_type:
                return await comparison.decide(
                    pairs, request.compared_by, program=program, within_seconds=within_seconds
                )
        known_types = ", ".join([AnswerType.MATH, *self._comparisons])
        message = f"answers of type {answer_type!r:.40} are not compared here; known are {known_types}"
        raise ServiceError(Reason.MALFORMED_REQUEST, message, field="answer_type")

    async def Verify(
        self,
        request: pb.VerifyRequest,
        context: grpc.aio.ServicerContext[pb.VerifyRequest, Awaitable[pb.VerifyResponse]],
    ) -> pb.VerifyResponse:
        pool = self._verification.get(request.verifier)
        if pool is None:
            known = ", ".join(sorted(self._verification))
            message = f"there is no verifier {request.verifier!r}; known are {known}"
            raise ServiceError(Reason.INVALID_VERIFIER, message, field="verifier")
        _check_candidates(request.candidates)
        began = time.perf_counter()
        try:
            verifications = await pool.verify(
                request.task,
                request.candidates,
                program=request.query_id,
                within_seconds=_seconds_to_decide(context.time_remaining()),
            )
        except InvalidTask as error:
            raise ServiceError(Reason.INVALID_VERIFIER, str(error), field="task") from error
        except VerifierUnavailable as error:
            raise ServiceError(Reason.VERIFIER_UNAVAILABLE, f"{request.verifier} is not offered: {error}") from error
        self._metrics.observe(catalogue.VERIFY_SECONDS, time.perf_counter() - began, verifier=request.verifier)
        for each in verifications:
            self._metrics.increment(catalogue.VERIFICATIONS, verifier=request.verifier, status=each.status.value)
        return pb.VerifyResponse(
            verifications=[
                pb.Verification(reward=each.reward, detail=each.detail, status=_STATUSES[each.status])
                for each in verifications
            ]
        )


def _check_candidates(candidates: Sequence[str]) -> None:
    if len(candidates) > MOST_CANDIDATES:
        message = f"{len(candidates)} candidates in one request; send at most {MOST_CANDIDATES}"
        raise ServiceError(Reason.MALFORMED_REQUEST, message, field="candidates")
    for position, candidate in enumerate(candidates):
        size = len(candidate.encode())
        if size > MAX_CANDIDATE_BYTES:
            message = f"candidate {position} has {size} bytes; send at most {MAX_CANDIDATE_BYTES}"
            raise ServiceError(Reason.MALFORMED_REQUEST, message, field=f"candidates[{position}]")


def _seconds_to_decide(remaining_seconds: float | None) -> float | None:
    """What a caller's deadline leaves for the decisions; None where it set none."""
    return None if remaining_seconds is None else max(0.0, remaining_seconds - _REPLY_SECONDS)
