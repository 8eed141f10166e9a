"""From a server's refusal to one sentence and an exit status."""

from __future__ import annotations

import grpc
import pytest

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import bad_input, refusal
from dynasor_serve.rpc.errors import GRPC_CODES, Reason, ServiceError


def received(reason: Reason, message: str) -> grpc.aio.AioRpcError:
    status = ServiceError(reason, message).to_status()
    metadata = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), metadata, details=status.details)


@pytest.mark.parametrize("reason", Reason)
def test_every_typed_refusal_is_a_sentence_and_blames_the_right_side(reason: Reason) -> None:
    failure = refusal(received(reason, "what was wrong; what would be right"), "h:1")
    assert failure.sentence == f"{reason}: what was wrong; what would be right"
    is_callers = GRPC_CODES[reason] in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
    )
    assert failure.exit_code is (ExitCode.BAD_INPUT if is_callers else ExitCode.FAILED)


def test_an_error_without_a_reason_means_that_no_gateway_answers() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="connection refused"
    )
    failure = refusal(error, "127.0.0.1:7001")
    assert failure.exit_code is ExitCode.UNREACHABLE
    assert "127.0.0.1:7001" in failure.sentence
    assert "dynasor up" in failure.sentence


def test_a_wrong_command_line_has_no_reason_to_quote() -> None:
    assert bad_input("the label 'x' is not KEY=VALUE").sentence == "the label 'x' is not KEY=VALUE"
