"""Orderings by their type strings."""

from __future__ import annotations

from typing import Protocol

from dynasor_serve.scheduling.demand import Want
from dynasor_serve.scheduling.orderings.fcfs import Fcfs
from dynasor_serve.scheduling.orderings.gang_shortest import GangShortest


class Ordering(Protocol):
    """Whose call goes next?"""

    @property
    def name(self) -> str:
        """The type string."""
        ...

    def key(self, want: Want, arrival: int, tokens_per_branch: float) -> float:
        """Smaller goes first; equal keys go by the program's arrival, then the call's.

        Args:
            arrival: number of the call in the order in which calls were first wanted.
            tokens_per_branch: forecast completion tokens of one branch of this program.
        """
        ...

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        """The same order for what waits inside an engine, as 0 to 999,999; smaller goes first."""
        ...


class UnknownOrdering(ValueError):
    """No ordering of that name."""


_ORDERINGS: dict[str, type[Ordering]] = {Fcfs.name: Fcfs, GangShortest.name: GangShortest}


def parse_ordering(type_string: str) -> Ordering:
    """Raises `UnknownOrdering` naming the known ones."""
    try:
        return _ORDERINGS[type_string]()
    except KeyError:
        known = ", ".join(_ORDERINGS)
        raise UnknownOrdering(f"no ordering is called {type_string!r}; known are {known}") from None
