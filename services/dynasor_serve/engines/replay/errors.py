"""Refusals of the replay engine, each with the HTTP status and error type that vLLM gives the same refusal.

`responses.error_body` writes them; `app` is where they are caught.
"""

from __future__ import annotations

from typing import ClassVar


class RequestRefused(Exception):
    """A request that gets an error body instead of a completion.

    Args:
        message: What was wrong and what would be right.
        param: The request field at fault, where there is one.
    """

    status: ClassVar[int] = 400
    type: ClassVar[str] = "BadRequestError"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class BadRequest(RequestRefused):
    """The request is well-formed and asks for what cannot be done."""


class InvalidBody(RequestRefused):
    """The body is not JSON or does not fit the schema; vLLM spells the type of this one in two words."""

    type = "Bad Request"


class UnknownModel(RequestRefused):
    """No loaded trace was recorded from the model that the request names."""

    status = 404
    type = "NotFoundError"


class UnknownPrompt(RequestRefused):
    """The prompt holds no marker of a loaded record and equals no recorded prompt."""

    status = 404
    type = "NotFoundError"


class EngineDraining(RequestRefused):
    """The process was asked to end: running calls finish, new ones are refused."""

    status = 500
    type = "InternalServerError"


class InjectedFault(RequestRefused):
    """The error that `--fault error-500:RATE` asked for."""

    status = 500
    type = "InternalServerError"


class UnexpectedFailure(RequestRefused):
    """A defect of the replay engine itself."""

    status = 500
    type = "InternalServerError"
