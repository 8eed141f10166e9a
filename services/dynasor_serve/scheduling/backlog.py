"""The lines that wait, by class and tier, in the order of their keys.

Tier by tier: a speculative line of any class comes after all that are needed. Two implementations: by key alone, and by
turns of the tenants.
"""

from __future__ import annotations

from typing import Protocol

from dynasor_serve.scheduling.demand import CLASSES
from dynasor_serve.scheduling.lazy_heap import LazyHeap
from dynasor_serve.scheduling.tenants import TenantShares
from dynasor_serve.scheduling.waiting_programs import Line

NEEDED = range(CLASSES)  # ranks of lines whose calls are needed, the most urgent class first
SPECULATIVE = range(CLASSES, 2 * CLASSES)  # the same classes of lines that speculate
_RANKS = 2 * CLASSES
_MOST_IDLE_TENANTS = (
    64  # whose virtual times are kept, beside as many as wait; then those that owe nothing are forgotten
)


def rank_of(line: Line) -> int:
    """Where a line belongs: its class, behind all that is needed if it speculates."""
    rank = line.program.want.class_rank
    return rank + CLASSES if line.is_speculative else rank


class Backlog(Protocol):
    """Waiting lines. A line must be taken out before its program's class or tenant changes."""

    @property
    def entries(self) -> int:
        """What the heaps hold, stale entries included."""
        ...

    def put(self, line: Line, key: float) -> None:
        """Adds a line, or changes its key."""
        ...

    def discard(self, line: Line) -> None:
        """Takes a line out, if it is there."""
        ...

    def first(self, rank: int) -> Line | None:
        """The line of a rank that goes next, None where none waits."""
        ...

    def serve(self, tenant: str, tokens: float) -> None:
        """A tenant was granted a call, forecast to take so many completion tokens."""
        ...

    def charge(self, tenant: str, tokens: float) -> None:
        """A tenant's call took so many tokens more than it was charged before; negative where fewer."""
        ...


class KeyedBacklog:
    """Lines by their keys."""

    def __init__(self) -> None:
        self._heaps = [LazyHeap[Line]() for _ in range(_RANKS)]

    @property
    def entries(self) -> int:
        return sum(heap.entries for heap in self._heaps)

    def put(self, line: Line, key: float) -> None:
        self._heaps[rank_of(line)].put(line, key, line.program.arrival)

    def discard(self, line: Line) -> None:
        self._heaps[rank_of(line)].discard(line)

    def first(self, rank: int) -> Line | None:
        return self._heaps[rank].first()

    def serve(self, tenant: str, tokens: float) -> None:
        """Nobody keeps an account."""

    def charge(self, tenant: str, tokens: float) -> None:
        """Nobody keeps an account."""


class TenantBacklog:
    """Tenants by their virtual times, and the lines of each by their keys."""

    def __init__(self, shares: TenantShares) -> None:
        self._shares = shares
        self._lanes: list[dict[str, LazyHeap[Line]]] = [{} for _ in range(_RANKS)]  # rank -> tenant -> its lines
        self._turns = [LazyHeap[str]() for _ in range(_RANKS)]  # rank -> its tenants
        self._most_tenants = _MOST_IDLE_TENANTS

    @property
    def entries(self) -> int:
        lanes = (lane for lanes in self._lanes for lane in lanes.values())
        return sum(turns.entries for turns in self._turns) + sum(lane.entries for lane in lanes)

    def put(self, line: Line, key: float) -> None:
        rank, tenant = rank_of(line), line.program.want.tenant
        lane = self._lanes[rank].get(tenant)
        if lane is None:
            if not self._waits(tenant):
                self._shares.begin(tenant)
            lane = self._lanes[rank][tenant] = LazyHeap()
            self._turns[rank].put(tenant, self._shares.virtual_time(tenant), tenant)
        lane.put(line, key, line.program.arrival)

    def discard(self, line: Line) -> None:
        rank, tenant = rank_of(line), line.program.want.tenant
        lane = self._lanes[rank].get(tenant)
        if lane is not None:
            lane.discard(line)
            if not lane:
                del self._lanes[rank][tenant]
                self._turns[rank].discard(tenant)

    def first(self, rank: int) -> Line | None:
        tenant = self._turns[rank].first()
        return None if tenant is None else self._lanes[rank][tenant].first()

    def serve(self, tenant: str, tokens: float) -> None:
        self._shares.serve(tenant, tokens)
        self._move(tenant)

    def charge(self, tenant: str, tokens: float) -> None:
        self._shares.charge(tenant, tokens)
        self._move(tenant)
        if len(self._shares) > self._most_tenants:
            self._shares.forget_all_but({tenant for lanes in self._lanes for tenant in lanes})
            self._most_tenants = 2 * len(self._shares) + _MOST_IDLE_TENANTS

    def _waits(self, tenant: str) -> bool:
        return any(tenant in lanes for lanes in self._lanes)

    def _move(self, tenant: str) -> None:
        """Its virtual time has changed."""
        virtual_time = self._shares.virtual_time(tenant)
        for lanes, turns in zip(self._lanes, self._turns, strict=True):
            if tenant in lanes:
                turns.put(tenant, virtual_time, tenant)
