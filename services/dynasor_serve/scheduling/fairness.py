"""What no ordering may override: a trickle for every class, and bounds on how long anybody is passed over.

All of it concerns calls that are needed; speculation is promised nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

LEAST_TRICKLE_GRANTS = 8  # so that trickles take less than half of the grants

Waiting = TypeVar("Waiting", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fairness:
    """The bounds of one pool.

    Attributes:
        longest_wait_seconds: a call that has waited longer goes before all of its class that have not, oldest first.
        longest_wait_shares: a program that has been passed over for so many of its fair shares goes first. Its fair
            share of a grant is 1 / programs that wait.
        trickle_grants: of so many grants in a row at least one goes to each class that waits.
        tenant_weights: tenant -> its weight, of orderings by which tenants share; 1 where not named.
    """

    longest_wait_seconds: float = 60.0
    longest_wait_shares: float = 16.0
    trickle_grants: int = 16
    tenant_weights: Mapping[str, float] = field(default_factory=dict)


class Trickle:
    """Counts the grants that pass each class over.

    Of any `grants` (at least `LEAST_TRICKLE_GRANTS`) in a row during which a class waits, one at least goes to it: it
    is due after `grants` - 2, and of three classes at most two are due at once.
    """

    def __init__(self, grants: int, classes: int) -> None:
        self._due_after = grants - 2
        self._passed = [0] * classes  # rank -> grants to others while it waited

    def due(self, waits: Sequence[object | None]) -> int | None:
        """The class that was passed over longest, if it is due. `waits` has something for each class that waits."""
        passed, due = self._passed, None
        for rank, waiting in enumerate(waits):
            if waiting is None:
                passed[rank] = 0
            elif passed[rank] >= self._due_after and (due is None or passed[rank] > passed[due]):
                due = rank
        return due

    def granted(self, rank: int) -> None:
        """A call of the class was granted."""
        passed = self._passed
        for other in range(len(passed)):
            passed[other] += 1
        passed[rank] = 0


class PassedOver(Generic[Waiting]):
    """Counts the fair shares that each waiting program went without since it was last granted a call.

    With M programs waiting, a grant is a fair share of 1/M for each of them. Among equals nobody goes without more than
    one; the bound says how much more an ordering may ask of a program.
    """

    def __init__(self, most_shares: float) -> None:
        self._most_shares = most_shares
        self._shares = 0.0  # of every grant so far, of a program that waited all the time
        # program -> the shares when it began to wait or was last granted a call; smallest first, since shares grow
        self._since: OrderedDict[Waiting, float] = OrderedDict()

    def __len__(self) -> int:
        """How many programs wait."""
        return len(self._since)

    def waits(self, program: Waiting) -> None:
        """A program waits, or still does."""
        self._since.setdefault(program, self._shares)

    def gone(self, program: Waiting) -> None:
        """A program waits for nothing any more."""
        self._since.pop(program, None)
        if not self._since:
            self._shares = 0.0

    def granted(self, program: Waiting) -> None:
        """One of the waiting programs was granted a call."""
        self._shares += 1 / len(self._since)
        self._since[program] = self._shares
        self._since.move_to_end(program)

    def due(self) -> Waiting | None:
        """The program that was passed over longest, if the bound is reached."""
        for program, since in self._since.items():
            return program if self._shares - since >= self._most_shares else None
        return None


class Ageing(Generic[Waiting]):
    """The waiting calls of one class, oldest first."""

    def __init__(self, longest_wait_seconds: float) -> None:
        self._longest_wait_seconds = longest_wait_seconds
        self._since: OrderedDict[Waiting, float] = OrderedDict()  # call -> seconds of steady time; smallest first

    def waits(self, call: Waiting, now: float) -> None:
        """A call begins to wait."""
        self._since[call] = now

    def gone(self, call: Waiting) -> None:
        """A call no longer waits."""
        del self._since[call]

    def due(self, now: float) -> Waiting | None:
        """The call that has waited longest, if that is too long."""
        for call, since in self._since.items():
            return call if now - since > self._longest_wait_seconds else None
        return None

    def longest_wait(self, now: float) -> float:
        """For how many seconds that call has waited; 0 where none waits."""
        return now - next(iter(self._since.values()), now)
