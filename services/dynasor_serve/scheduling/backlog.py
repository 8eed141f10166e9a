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

NEEDED = slice(0, CLASSES)  # ranks of lines whose calls are needed, the most urgent class first
SPECULATIVE = slice(CLASSES, 2 * CLASSES)  # the same classes of lines that speculate
_RANKS = 2 * CLASSES
_MOST_IDLE_TENANTS = (
    64  # whose virtual times are kept, beside as many as wait; then those that owe nothing are forgotten
)


class Backlog(Protocol):
    """Waiting lines."""

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

    def firsts(self, tier: slice) -> list[Line | None]:
        """For each class of a tier the line that goes next, None where none waits."""
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
        self._heaps[line.rank].put(line, key, line.program.arrival)

    def discard(self, line: Line) -> None:
        self._heaps[line.rank].discard(line)

    def firsts(self, tier: slice) -> list[Line | None]:
        return [heap.first() for heap in self._heaps[tier]]

    def serve(self, tenant: str, tokens: float) -> None:
        """Nobody keeps an account."""

    def charge(self, tenant: str, tokens: float) -> None:
        """Nobody keeps an account."""


class TenantBacklog:
    """Tenants by their virtual times, and the lines of each by their keys."""

    def __init__(self, shares: TenantShares) -> None:
        self._shares = shares
        self._lanes: dict[str, dict[int, LazyHeap[Line]]] = {}  # tenant -> rank -> its lines; none of them is empty
        self._turns = [LazyHeap[str]() for _ in range(_RANKS)]  # rank -> the tenants that have lines there
        self._most_tenants = _MOST_IDLE_TENANTS

    @property
    def entries(self) -> int:
        lanes = (lane for lanes in self._lanes.values() for lane in lanes.values())
        return sum(turns.entries for turns in self._turns) + sum(lane.entries for lane in lanes)

    def put(self, line: Line, key: float) -> None:
        tenant = line.program.want.tenant
        lanes = self._lanes.get(tenant)
        if lanes is None:
            self._shares.begin(tenant, beside=self._turns[line.rank].first())
            lanes = self._lanes[tenant] = {}
        lane = lanes.get(line.rank)
        if lane is None:
            lane = lanes[line.rank] = LazyHeap()
            self._turns[line.rank].put(tenant, self._shares.virtual_time(tenant), tenant)
        lane.put(line, key, line.program.arrival)

    def discard(self, line: Line) -> None:
        tenant = line.program.want.tenant
        lanes = self._lanes.get(tenant, {})
        lane = lanes.get(line.rank)
        if lane is None:
            return
        lane.discard(line)
        if not lane:
            del lanes[line.rank]
            self._turns[line.rank].discard(tenant)
            if not lanes:
                del self._lanes[tenant]

    def firsts(self, tier: slice) -> list[Line | None]:
        ranks = range(_RANKS)[tier]
        tenants = ((rank, self._turns[rank].first()) for rank in ranks)
        return [None if tenant is None else self._lanes[tenant][rank].first() for rank, tenant in tenants]

    def serve(self, tenant: str, tokens: float) -> None:
        self._shares.serve(tenant, tokens)
        self._move(tenant)

    def charge(self, tenant: str, tokens: float) -> None:
        self._shares.charge(tenant, tokens)
        self._move(tenant)
        if len(self._shares) > self._most_tenants:
            self._shares.forget_all_but(self._lanes)
            self._most_tenants = 2 * len(self._shares) + _MOST_IDLE_TENANTS

    def _move(self, tenant: str) -> None:
        """Its virtual time has changed."""
        virtual_time = self._shares.virtual_time(tenant)
        for rank in self._lanes.get(tenant, ()):
            self._turns[rank].put(tenant, virtual_time, tenant)
