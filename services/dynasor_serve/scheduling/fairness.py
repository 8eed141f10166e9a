"""What no ordering may override: a trickle for every class, and a bound on how long anybody is passed over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LEAST_TRICKLE_GRANTS = 8  # so that trickles take less than half of the grants

ProgramKey = tuple[str, str]  # tracker, program


@dataclass(frozen=True, slots=True)
class Fairness:
    """The bounds of one pool.

    Attributes:
        longest_wait_seconds: a call that has waited longer goes before all that have not, oldest first.
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

    def __init__(self, grants: int) -> None:
        self._due_after = grants - 2
        self._passed: list[int] = []  # rank -> grants to others while it waited

    def due(self, waits: Sequence[bool]) -> int | None:
        """The class that was passed over longest, if it is due. `waits` says of each class whether any call waits."""
        passed = self._passed or [0] * len(waits)
        self._passed = [count if waiting else 0 for count, waiting in zip(passed, waits, strict=True)]
        rank = max(range(len(waits)), key=lambda rank: self._passed[rank])
        return rank if waits[rank] and self._passed[rank] >= self._due_after else None

    def granted(self, rank: int) -> None:
        """A call of the class was granted."""
        self._passed = [0 if other == rank else count + 1 for other, count in enumerate(self._passed)]


class PassedOver:
    """Counts the fair shares that each waiting program went without since it was last granted a call.

    With M programs waiting, a grant is a fair share of 1/M for each of them. Among equals nobody goes without more than
    one; the bound says how much more an ordering may ask of a program.
    """

    def __init__(self, most_shares: float) -> None:
        self._most_shares = most_shares
        self._shares = 0.0  # of every grant so far, of a program that waited all the time
        # program -> the shares when it began to wait or was last granted a call; smallest first, since shares grow
        self._since: OrderedDict[ProgramKey, float] = OrderedDict()

    def waits(self, program: ProgramKey) -> None:
        """A program waits, or still does."""
        self._since.setdefault(program, self._shares)

    def gone(self, program: ProgramKey) -> None:
        """A program waits for nothing any more."""
        self._since.pop(program, None)
        if not self._since:
            self._shares = 0.0

    def granted(self, program: ProgramKey) -> None:
        """One of the waiting programs was granted a call."""
        self._shares += 1 / len(self._since)
        self._since[program] = self._shares
        self._since.move_to_end(program)

    def due(self) -> ProgramKey | None:
        """The program that was passed over longest, if the bound is reached."""
        for program, since in self._since.items():
            return program if self._shares - since >= self._most_shares else None
        return None
