"""Errors as they cross a process boundary: one reason, one gRPC status, one sentence that helps.

`Reason` is the stable, machine-readable part (google.rpc.ErrorInfo.reason); docs/errors.md lists all of them and a test
holds the page equal to this module.
"""

from __future__ import annotations

from enum import StrEnum

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DOMAIN = "dynasor.dev"


class Reason(StrEnum):
    """Why a request was refused."""

    INVALID_QUERY = "INVALID_QUERY"
    INVALID_RULE = "INVALID_RULE"
    INVALID_VERIFIER = "INVALID_VERIFIER"
    UNKNOWN_FIELD = "UNKNOWN_FIELD"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_QUERY = "UNKNOWN_QUERY"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    TENANT_FULL = "TENANT_FULL"
    POOL_FULL = "POOL_FULL"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    TENANT_BUDGET_SPENT = "TENANT_BUDGET_SPENT"
    NO_READY_WORKER = "NO_READY_WORKER"
    VERIFIER_UNAVAILABLE = "VERIFIER_UNAVAILABLE"
    NOT_ACTIVE = "NOT_ACTIVE"
    NOT_OWNER = "NOT_OWNER"
    STATE_UNAVAILABLE = "STATE_UNAVAILABLE"
    STATE_FULL = "STATE_FULL"
    SCHEDULER_UNAVAILABLE = "SCHEDULER_UNAVAILABLE"
    INTERNAL = "INTERNAL"


GRPC_CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_QUERY: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_RULE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_VERIFIER: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.MALFORMED_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_QUERY: grpc.StatusCode.NOT_FOUND,
    Reason.IDEMPOTENCY_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Reason.TENANT_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.POOL_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_UNREACHABLE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TENANT_BUDGET_SPENT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_READY_WORKER: grpc.StatusCode.UNAVAILABLE,
    Reason.VERIFIER_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_ACTIVE: grpc.StatusCode.UNAVAILABLE,
    Reason.NOT_OWNER: grpc.StatusCode.NOT_FOUND,
    Reason.STATE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.STATE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.SCHEDULER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


class ServiceError(Exception):
    """A refusal that the caller should see.

    Attributes:
        reason: the stable reason; it decides the gRPC status and whether a retry makes sense.
        field: path of the offending request field, where there is one.
        retry_after_seconds: when a retry may succeed, where that is known.
    """

    def __init__(
        self, reason: Reason, message: str, *, field: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return GRPC_CODES[self.reason] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

    @property
    def is_overload(self) -> bool:
        """Whether there is too much to do already: nothing was accepted, and the same request may be later."""
        return GRPC_CODES[self.reason] is grpc.StatusCode.RESOURCE_EXHAUSTED

    def to_status(self) -> grpc.Status:
        """The error as a rich gRPC status with google.rpc details."""
        details: list[AnyMessage] = [_packed(ErrorInfo(reason=self.reason.value, domain=DOMAIN))]
        if self.field:
            violation = BadRequest.FieldViolation(field=self.field, description=str(self))
            details.append(_packed(BadRequest(field_violations=[violation])))
        if self.retry_after_seconds is not None:
            delay = Duration()
            delay.FromMilliseconds(round(self.retry_after_seconds * 1000))
            details.append(_packed(RetryInfo(retry_delay=delay)))
        code: tuple[int, str] = GRPC_CODES[self.reason].value
        return rpc_status.to_status(Status(code=code[0], message=str(self), details=details))


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a received error; empty where the other side gave none."""
    info = ErrorInfo()
    return str(info.reason) if _unpacked(error, info) else ""


def retry_after_of(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds after which a retry may succeed, as a received error says; None where the other side did not say."""
    info = RetryInfo()
    return float(info.retry_delay.ToNanoseconds() / 1e9) if _unpacked(error, info) else None


def _unpacked(error: grpc.aio.AioRpcError, into: ErrorInfo | RetryInfo) -> bool:
    """Fills in the first of the received error's details that is of this kind. Returns whether there is one."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = Status.FromString(value if isinstance(value, bytes) else value.encode())
            return any(detail.Unpack(into) for detail in status.details)
    return False


def _packed(message: ErrorInfo | BadRequest | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
