"""Orderings by their type strings."""

from __future__ import annotations

from typing import Protocol

from dynasor_serve.scheduling.demand import Want
from dynasor_serve.scheduling.orderings.deadline_slack import DeadlineSlack
from dynasor_serve.scheduling.orderings.expected_gain import ExpectedGain
from dynasor_serve.scheduling.orderings.fair_virtual_time import FairVirtualTime
from dynasor_serve.scheduling.orderings.fcfs import Fcfs
from dynasor_serve.scheduling.orderings.gang_fcfs import GangFcfs
from dynasor_serve.scheduling.orderings.gang_shortest import GangShortest
from dynasor_serve.scheduling.orderings.least_attained_service import LeastAttainedService
from dynasor_serve.scheduling.orderings.shortest_call import ShortestCall


class Ordering(Protocol):
    """Whose call goes next?"""

    @property
    def name(self) -> str:
        """The type string."""
        ...

    @property
    def tenants_share(self) -> bool:
        """Whether tenants take turns by their weighted shares, and the key orders only within a tenant."""
        ...

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        """Smaller goes first; equal keys go by the program's arrival, then the call's.

        Args:
            arrival: number of the call in the order in which calls were first wanted.
            tokens_per_branch: forecast completion tokens of one branch of this program; finite and not negative.
            position: of the call among those that the want names, counted from 0: so many go before it.

        Returns:
            A number or an infinity, never NaN. It is asked again whenever the program's want or its next call changes,
            and at no other time, so it may depend on nothing else.
        """
        ...

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        """The same order for what waits inside an engine, as 0 to 999,999; smaller goes first."""
        ...


class UnknownOrdering(ValueError):
    """No ordering of that name."""


_ORDERINGS: dict[str, type[Ordering]] = {
    Fcfs.name: Fcfs,
    GangShortest.name: GangShortest,
    GangFcfs.name: GangFcfs,
    ShortestCall.name: ShortestCall,
    LeastAttainedService.name: LeastAttainedService,
    DeadlineSlack.name: DeadlineSlack,
    FairVirtualTime.name: FairVirtualTime,
    ExpectedGain.name: ExpectedGain,
}


def ordering_names() -> tuple[str, ...]:
    """The type strings of all orderings."""
    return tuple(_ORDERINGS)


def parse_ordering(type_string: str) -> Ordering:
    """Raises `UnknownOrdering` naming the known ones."""
    try:
        return _ORDERINGS[type_string]()
    except KeyError:
        known = ", ".join(_ORDERINGS)
        raise UnknownOrdering(f"no ordering is called {type_string!r}; known are {known}") from None
