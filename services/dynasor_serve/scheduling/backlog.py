"""The calls that wait, by class and in the order of their keys.

Each class is a heap of calls; where tenants share, one such heap per tenant and a heap of tenants by virtual time.
Entries are not taken out when a call or its key changes: they go stale, are dropped at the top, and are swept once most
are stale. So a decision costs O(log n) in the calls that wait, amortised.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from dynasor_serve.scheduling.demand import CallId
from dynasor_serve.scheduling.tenants import TenantShares

CLASSES = 3  # interactive, standard, batch
_MOST_STALE_ENTRIES = 64  # beside as many as may be current; then they are swept


class Entry(NamedTuple):
    """A waiting call; smaller goes first."""

    key: float
    program_arrival: int
    arrival: int  # of the call
    version: int  # of the want that gave the key
    call: CallId


@dataclass(slots=True)
class _Class:
    lanes: dict[str, list[Entry]] = field(default_factory=dict)  # tenant -> heap of its calls
    turns: list[tuple[float, str]] = field(default_factory=list)  # heap of (virtual time, tenant)


class Backlog:
    """Waiting calls of all classes.

    `is_current` says whether an entry still stands for its call. Where tenants do not share, all are one tenant to it.
    """

    def __init__(self, shares: TenantShares, is_current: Callable[[Entry], bool]) -> None:
        self._shares = shares
        self._is_current = is_current
        self._classes = [_Class() for _ in range(CLASSES)]
        self._entries = 0
        self._most_tenants = _MOST_STALE_ENTRIES

    @property
    def entries(self) -> int:
        """What the heaps hold, stale entries included."""
        return self._entries

    def push(self, rank: int, tenant: str, entry: Entry) -> None:
        """Adds a call of a class, or one of its keys: all but the current one must be stale."""
        lanes = self._classes[rank].lanes
        if tenant not in lanes:
            if not any(tenant in each.lanes for each in self._classes):
                self._shares.begin(tenant)
            lanes[tenant] = []
            self._push_turn(self._classes[rank], tenant)
        heapq.heappush(lanes[tenant], entry)
        self._entries += 1

    def first(self, rank: int) -> CallId | None:
        """The call of a class that goes next, None where none waits."""
        lanes, turns = self._classes[rank].lanes, self._classes[rank].turns
        while turns:
            virtual_time, tenant = turns[0]
            if tenant in lanes and virtual_time == self._shares.virtual_time(tenant):
                lane = lanes[tenant]
                while lane and not self._is_current(lane[0]):
                    heapq.heappop(lane)
                    self._entries -= 1
                if lane:
                    return lane[0].call
                del lanes[tenant]
            heapq.heappop(turns)
            self._entries -= 1
        return None

    def serve(self, tenant: str, tokens: float) -> None:
        """A tenant was granted a call, forecast to take so many tokens."""
        self._shares.serve(tenant, tokens)
        self._push_turns(tenant)

    def settle(self, tenant: str, tokens: float) -> None:
        """A tenant's call took so many tokens more than it was forecast to; negative where fewer."""
        self._shares.charge(tenant, tokens)
        self._push_turns(tenant)

    def sweep(self, waiting: int) -> None:
        """Drops stale entries once they are most.

        `waiting` calls wait; each has a current entry, and its tenant has at most another.
        """
        if self._entries > (4 * waiting + _MOST_STALE_ENTRIES if waiting else 0):
            self._drop_stale()
        if len(self._shares) > self._most_tenants:
            self._shares.forget_all_but({tenant for each in self._classes for tenant in each.lanes})
            self._most_tenants = 2 * len(self._shares) + _MOST_STALE_ENTRIES

    def _push_turns(self, tenant: str) -> None:
        for each in self._classes:
            if tenant in each.lanes:
                self._push_turn(each, tenant)

    def _push_turn(self, each: _Class, tenant: str) -> None:
        heapq.heappush(each.turns, (self._shares.virtual_time(tenant), tenant))
        self._entries += 1

    def _drop_stale(self) -> None:
        self._entries = 0
        for each in self._classes:
            current = {tenant: list(filter(self._is_current, lane)) for tenant, lane in each.lanes.items()}
            each.lanes = {tenant: lane for tenant, lane in current.items() if lane}
            each.turns = [(self._shares.virtual_time(tenant), tenant) for tenant in each.lanes]
            heapq.heapify(each.turns)
            for lane in each.lanes.values():
                heapq.heapify(lane)
            self._entries += len(each.turns) + sum(map(len, each.lanes.values()))
