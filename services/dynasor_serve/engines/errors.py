"""What can go wrong with a call to an engine, and whether another attempt may help."""

from __future__ import annotations

from enum import StrEnum

from dynasor_serve.programs.events import ProgramError


class EngineReason(StrEnum):
    """Stable reasons; docs/errors.md lists all of them."""

    ENGINE_UNAVAILABLE = "ENGINE_UNAVAILABLE"  # refused or lost the connection
    ENGINE_FAILED = "ENGINE_FAILED"  # answered with its own error
    ENGINE_OVERLOADED = "ENGINE_OVERLOADED"  # 429 or 503
    ENGINE_HUNG = "ENGINE_HUNG"  # sent nothing for too long
    ENGINE_GARBAGE = "ENGINE_GARBAGE"  # sent what is not the protocol
    ENGINE_BROKE_OFF = "ENGINE_BROKE_OFF"  # ended a stream before its end
    ENGINE_UNAUTHORIZED = "ENGINE_UNAUTHORIZED"  # 401 or 403: asks for another key
    ENGINE_REFUSED = "ENGINE_REFUSED"  # refused the query itself
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    MODEL_NOT_SERVED = "MODEL_NOT_SERVED"  # 404
    PROMPT_NOT_RECORDED = "PROMPT_NOT_RECORDED"  # a replay engine's 404
    PARAMETER_UNSUPPORTED = "PARAMETER_UNSUPPORTED"  # this engine cannot honour a sampling parameter
    CALL_UNSUPPORTED = "CALL_UNSUPPORTED"  # goes on in no turn, tells no stop string, gives no reward or only that
    REWARD_INVALID = "REWARD_INVALID"  # what came for a reward is none


_FAULT_OF_THE_QUERY = frozenset(
    {
        EngineReason.ENGINE_REFUSED,
        EngineReason.PROMPT_TOO_LONG,
        EngineReason.PROMPT_NOT_RECORDED,
        EngineReason.PARAMETER_UNSUPPORTED,
        EngineReason.CALL_UNSUPPORTED,
        EngineReason.REWARD_INVALID,
    }
)


class EngineError(Exception):
    """A call ended without a completion."""

    def __init__(self, reason: EngineReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may succeed on another attempt."""
        return self.reason not in _FAULT_OF_THE_QUERY

    def as_program_error(self) -> ProgramError:
        return ProgramError(self.reason.value, str(self), self.is_retryable)
