"""What a program cost, in completion tokens.

The ledger is exact for finished calls. A cancelled call is booked with the engine's last running usage, so it is off
by at most one streaming interval; an attempt that was lost with its tracker, with the usage of its last append or
heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Ledger:
    """Completion tokens unless the name says otherwise. `cancelled` and `lost` are parts of `spent`."""

    spent: int = 0
    cancelled: int = 0
    lost: int = 0
    saved_estimate: int = 0
    prompt: int = 0  # prompt tokens read, cached ones included
    cached_prompt: int = 0

    def with_finished(self, tokens: int, prompt: int, cached_prompt: int) -> Ledger:
        return replace(
            self,
            spent=self.spent + tokens,
            prompt=self.prompt + prompt,
            cached_prompt=self.cached_prompt + cached_prompt,
        )

    def with_cancelled(self, tokens: int, prompt: int = 0) -> Ledger:
        return replace(self, spent=self.spent + tokens, cancelled=self.cancelled + tokens, prompt=self.prompt + prompt)

    def with_lost(self, tokens: int, prompt: int = 0) -> Ledger:
        return replace(self, spent=self.spent + tokens, lost=self.lost + tokens, prompt=self.prompt + prompt)

    def closed(self, *, cap: int, finished: int, finished_tokens: int) -> Ledger:
        """Fills in the estimate: the cap at the program's own mean per finished branch, minus everything spent.

        Zero when no branch finished: nothing is known of what the program would have cost.
        """
        saved = round(cap * finished_tokens / finished) - self.spent if finished else 0
        return replace(self, saved_estimate=saved)
