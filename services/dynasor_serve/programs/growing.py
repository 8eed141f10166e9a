"""Immutable collections whose next version costs little, for what grows with every call of a program.

The largest trees have tens of thousands of nodes and calls, and each event makes a new version: a tuple or a frozenset
of that size would be copied whole every time. These are kept in pieces, and a new version copies one of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Self, TypeVar

_PIECE = 128  # items of a list; a list of n costs n / 128 + 128 to change
_PIECES = 128  # of a set; a set of n costs 128 + n / 128 to change

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


@dataclass(frozen=True, slots=True)
class GrowingList(Generic[T]):
    """A sequence that grows at its end and whose items are replaced one by one."""

    _pieces: tuple[tuple[T, ...], ...] = ()  # all but the last are full

    @classmethod
    def of(cls, items: Iterable[T]) -> Self:
        return cls().extended(tuple(items))

    def __len__(self) -> int:
        return (len(self._pieces) - 1) * _PIECE + len(self._pieces[-1]) if self._pieces else 0

    def __getitem__(self, place: int) -> T:
        return self._pieces[place // _PIECE][place % _PIECE]

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._pieces)

    def extended(self, items: Sequence[T]) -> Self:
        """With more items at its end."""
        if not items:
            return self
        full = len(self) // _PIECE
        tail = (*chain.from_iterable(self._pieces[full:]), *items)
        return type(self)(
            (*self._pieces[:full], *(tail[first : first + _PIECE] for first in range(0, len(tail), _PIECE)))
        )

    def replaced(self, place: int, item: T) -> Self:
        """With another item at a place."""
        at, within = divmod(place, _PIECE)
        piece = self._pieces[at]
        changed = (*piece[:within], item, *piece[within + 1 :])
        return type(self)((*self._pieces[:at], changed, *self._pieces[at + 1 :]))


@dataclass(frozen=True, slots=True, eq=False)
class GrowingSet(AbstractSet[H]):
    """A set that items are put into one by one. It equals any other set of the same items."""

    _pieces: tuple[frozenset[H], ...] = (frozenset(),) * _PIECES  # by the items' hashes

    def __contains__(self, item: object) -> bool:
        return item in self._pieces[hash(item) % _PIECES]

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def __bool__(self) -> bool:
        return any(self._pieces)

    def __iter__(self) -> Iterator[H]:
        return chain.from_iterable(self._pieces)

    def __eq__(self, other: object) -> bool:
        return frozenset(self) == (frozenset(other) if isinstance(other, AbstractSet) else other)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def with_item(self, item: H) -> Self:
        """With one more item."""
        at = hash(item) % _PIECES
        return type(self)((*self._pieces[:at], self._pieces[at] | {item}, *self._pieces[at + 1 :]))

    @classmethod
    def _from_iterable(cls, items: Iterable[H]) -> frozenset[H]:  # type: ignore[override]
        """What an intersection or a union is."""
        return frozenset(items)
