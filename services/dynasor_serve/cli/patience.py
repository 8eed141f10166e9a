"""Coming back where a gateway has too much to do and says when: what `run` and `submit` do for a while."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Annotated

import grpc
import typer

from dynasor_serve.rpc.errors import reason_of, retry_after_of

DEFAULT_SECONDS = 30.0

PatienceOption = Annotated[
    float,
    typer.Option(
        "--patience",
        metavar="SECONDS",
        min=0.0,
        help="How long to come back while the server has too much to do; 0 fails at its first refusal.",
    ),
]

_MOST_LATER = 0.25  # of what the server asked for: not all that it sent away come back at once


class Patience:
    """How long one command comes back.

    Attributes:
        is_waiting: nothing is asked at this moment.
    """

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        """`tell` gets a sentence for each wait."""
        self._until = time.monotonic() + seconds
        self._tell = tell
        self.is_waiting = False

    async def outlasts(self, error: grpc.aio.AioRpcError) -> bool:
        """Waits as long as a refusal asks for. Returns whether to ask again.

        Not where the server does not say when, or says a time that there is no patience for; nor for any refusal but
        RESOURCE_EXHAUSTED: those that this brings back are known not to have been accepted.
        """
        seconds = retry_after_of(error)
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or seconds is None:
            return False
        if time.monotonic() + seconds > self._until:
            return False
        self._tell(f"refused for now ({reason_of(error)}); asking again in {seconds:.0f} s")
        self.is_waiting = True
        try:
            await asyncio.sleep(seconds * random.uniform(1.0, 1.0 + _MOST_LATER))
        finally:
            self.is_waiting = False
        return True
