"""A heap whose items may change their rank or leave: what waiting lines, tenants and workers are kept in.

An entry is not taken out when its item changes or leaves: it goes stale, is dropped at the top, and is swept once most
are stale. So each change costs O(log n) comparisons, amortised, in C.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

_MOST_STALE_ENTRIES = 16  # beside as many as are current; then they are swept

Item = TypeVar("Item", bound=Hashable)


class LazyHeap(Generic[Item]):
    """Items by rank, the smallest first."""

    __slots__ = ("_current", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int | str, Item]] = []
        self._current: dict[Item, tuple[float, int | str, Item]] = {}  # item -> its entry that is not stale

    def __len__(self) -> int:
        return len(self._current)

    @property
    def entries(self) -> int:
        """What the heap holds, stale entries included."""
        return len(self._heap)

    def put(self, item: Item, rank: float, tie: int | str) -> None:
        """Adds an item or changes its rank. Equal ranks go by `tie`, which each item has of its own and keeps."""
        known = self._current.get(item)
        if known is not None and known[0] == rank:
            return
        entry = self._current[item] = (rank, tie, item)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._current) + _MOST_STALE_ENTRIES:
            self._sweep()

    def discard(self, item: Item) -> None:
        """Takes an item out, if it is there."""
        if self._current.pop(item, None) is not None and not self._current:
            self._heap.clear()

    def first(self) -> Item | None:
        """The item of the smallest rank, None where there is none."""
        heap, current = self._heap, self._current
        while heap:
            entry = heap[0]
            if current.get(entry[2]) is entry:
                return entry[2]
            heapq.heappop(heap)
        return None

    def _sweep(self) -> None:
        self._heap = list(self._current.values())
        heapq.heapify(self._heap)
