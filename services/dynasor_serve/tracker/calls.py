"""Calls that a tracker may start, and calls that it holds open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dynasor_serve.engines.client import Endpoint, EngineCall
from dynasor_serve.programs.query import Branch, QueryId


@dataclass(frozen=True, slots=True)
class GrantedCall:
    """A grant as its driver gets it."""

    query_id: QueryId
    branch: Branch
    attempt: str
    pool: str
    worker: str
    endpoint: Endpoint
    priority: int


@dataclass(slots=True)
class RunningCall:
    """An open connection to an engine."""

    granted: GrantedCall
    engine_call: EngineCall
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    characters: int = 0  # of text passed to listeners

    @property
    def branch(self) -> Branch:
        return self.granted.branch

    def cancel(self) -> None:
        """Closes the connection at once. Nothing of the call is heard any more."""
        self.is_cancelled = True
        self.engine_call.close()
        if self.task is not None:
            self.task.cancel()
