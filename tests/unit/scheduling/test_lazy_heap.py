"""A heap whose items change their rank: always the smallest first, and never much larger than what is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.lazy_heap import LazyHeap

# (item, its new rank); None takes it out.
CHANGES = st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.sampled_from([0, 1, 1.5, 7, -3]))))


@given(CHANGES)
def test_the_first_is_the_one_of_the_smallest_rank_whatever_changed(changes: list[tuple[int, float | None]]) -> None:
    heap = LazyHeap[str]()
    ranks = dict[str, float]()
    for number, rank in changes:
        item = f"item {number}"
        if rank is None:
            heap.discard(item)
            ranks.pop(item, None)
        else:
            heap.put(item, rank, number)
            ranks[item] = rank
        assert heap.first() == min(ranks, key=lambda item: (ranks[item], int(item.split()[1])), default=None)
        assert len(heap) == len(ranks)


def test_stale_entries_are_swept() -> None:
    heap = LazyHeap[str]()
    for number in range(100_000):
        heap.put("restless", -number, 0)
        heap.put("resting", 1.0, 1)

    assert heap.entries < 50
    heap.discard("restless")
    assert heap.first() == "resting"
    heap.discard("resting")
    assert (heap.first(), heap.entries) == (None, 0)
