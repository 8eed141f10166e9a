"""A call that a tracker holds open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dynasor_serve.engines.client import EngineCall
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.query import Branch
from dynasor_serve.tracker.chain_watcher import ChainWatcher
from dynasor_serve.tracker.granted_call import GrantedCall


@dataclass(slots=True)
class RunningCall:
    """An open connection to an engine."""

    granted: GrantedCall
    plan: CallPlan
    engine_call: EngineCall
    watcher: ChainWatcher | None = None  # of a chain
    task: asyncio.Task[None] | None = None
    is_cancelled: bool = False
    characters: int = 0  # of text passed to listeners
    said_characters: int = 0  # of what the engine has said

    @property
    def branch(self) -> Branch:
        return self.granted.branch

    @property
    def unbooked_tokens(self) -> int:
        """Completion tokens that no event has told of yet, those of a running probe included."""
        if self.watcher is None:
            return self.engine_call.tokens
        return self.engine_call.tokens - self.watcher.booked_tokens + self.watcher.probe_tokens

    @property
    def untold_characters(self) -> int:
        """Characters that no event has told of yet."""
        return self.said_characters - (self.watcher.told_characters if self.watcher is not None else 0)

    @property
    def text(self) -> str:
        """The assistant's turn so far, what the call went on from included."""
        return "".join((self.plan.turn(), *self.engine_call.parts))

    def cancel(self) -> None:
        """Closes the connection at once. Nothing of the call is heard any more."""
        self.is_cancelled = True
        self.engine_call.close()
        if self.task is not None:
            self.task.cancel()
