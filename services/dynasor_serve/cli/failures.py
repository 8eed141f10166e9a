"""How a command fails: one exception with an exit status, and how gRPC's errors become one.

Commands raise `CommandFailed`; `__main__.main` prints its one sentence on standard error and exits.
"""

from __future__ import annotations

import grpc

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.rpc.errors import reason_of

UNREACHABLE = "UNREACHABLE"
_CALLERS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
_MOST_DETAIL_CHARACTERS = 300


class CommandFailed(Exception):
    """A command cannot do what it was asked.

    Attributes:
        reason: the server's stable reason (docs/errors.md), or UNREACHABLE; empty where only the command line is wrong.
        exit_code: what the process exits with.
    """

    def __init__(self, message: str, exit_code: ExitCode, reason: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason

    @property
    def sentence(self) -> str:
        """The reason and what was wrong, for a person."""
        return f"{self.reason}: {self}" if self.reason else str(self)


def bad_input(message: str, reason: str = "") -> CommandFailed:
    """The command line is wrong."""
    return CommandFailed(message, ExitCode.BAD_INPUT, reason)


def unreachable(address: str, detail: str) -> CommandFailed:
    """No gateway answers at an address."""
    message = (
        f"no Dynasor gateway answers at {address} ({detail}); start one with `dynasor up`, or give --address HOST:PORT "
        "or DYNASOR_ADDRESS"
    )
    return CommandFailed(message, ExitCode.UNREACHABLE, UNREACHABLE)


def refusal(error: grpc.aio.AioRpcError, address: str) -> CommandFailed:
    """What a failed call says: a typed refusal of the server, or that there is none at the address."""
    detail = (error.details() or error.code().name)[:_MOST_DETAIL_CHARACTERS]
    reason = reason_of(error)
    if not reason:
        return unreachable(address, detail)
    exit_code = ExitCode.BAD_INPUT if error.code() in _CALLERS_FAULT else ExitCode.FAILED
    return CommandFailed(error.details() or detail, exit_code, reason)
