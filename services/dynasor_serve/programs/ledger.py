"""What a program cost, in completion tokens.

The ledger is exact for finished calls. A cancelled call is booked with the engine's last running usage, so it is off
by at most one streaming interval; an attempt that was lost with its tracker, with the usage of its last append or
heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Ledger:
    """Completion tokens unless the name says otherwise. `cancelled`, `lost` and `probes` are parts of `spent`."""

    spent: int = 0
    cancelled: int = 0
    lost: int = 0
    probes: int = 0
    saved_estimate: int | None = 0  # None where nothing is known of what the cap would have cost
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

    def with_probe(self, tokens: int, prompt: int, cached_prompt: int) -> Ledger:
        return replace(self.with_finished(tokens, prompt, cached_prompt), probes=self.probes + tokens)

    def closed(self, cost_at_cap: float | None) -> Ledger:
        """Fills in the estimate: what the program would have spent at its cap, minus everything spent."""
        return replace(self, saved_estimate=None if cost_at_cap is None else round(cost_at_cap) - self.spent)
