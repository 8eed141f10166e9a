"""Collections that are kept in pieces say what a tuple and a frozenset would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.growing import GrowingList, GrowingSet

counts = st.lists(st.integers(0, 300), max_size=6)


@given(counts, st.data())
def test_a_list_grows_and_changes_like_a_tuple(counts: list[int], data: st.DataObject) -> None:
    grown: GrowingList[int] = GrowingList()
    model: tuple[int, ...] = ()
    for number, count in enumerate(counts):
        items = range(1000 * number, 1000 * number + count)
        grown, model = grown.extended(items), (*model, *items)
        if model:
            place = data.draw(st.integers(0, len(model) - 1))
            grown, model = grown.replaced(place, -number), (*model[:place], -number, *model[place + 1 :])
        assert tuple(grown) == model
        assert len(grown) == len(model)
        assert tuple(grown[place] for place in range(len(model))) == model
    assert grown == GrowingList.of(model), "equal items are equal lists, however they came"


def test_a_list_ends() -> None:
    for count in (0, 1, 127, 128, 129):
        with pytest.raises(IndexError):
            GrowingList.of(range(count))[count]


def test_an_older_version_stays_what_it_was() -> None:
    older = GrowingList.of(range(200))
    older.replaced(150, -1)
    older.extended(range(5))
    assert tuple(older) == tuple(range(200))


@given(st.lists(st.integers(0, 500)), st.frozensets(st.integers(0, 500)))
def test_a_set_takes_items_like_a_frozenset(items: list[int], other: frozenset[int]) -> None:
    grown: GrowingSet[int] = GrowingSet()
    for item in items:
        grown = grown.with_item(item)
    model = frozenset(items)

    assert grown == model
    assert len(grown) == len(model)
    assert bool(grown) == bool(model)
    assert frozenset(grown) == model
    assert all((item in grown) == (item in model) for item in other)
    assert grown & other == model & other
    assert other | grown == model | other
