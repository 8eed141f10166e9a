"""A program that waits, as the scheduler sees it: its calls in two lines, those it needs and those it would try."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynasor_serve.scheduling.demand import CLASSES, CallId, Want
from dynasor_serve.scheduling.placement import Worker


@dataclass(slots=True, eq=False)
class WaitingCall:
    """A call that is wanted and not granted."""

    call: CallId
    arrival: int  # number of the call in the order in which calls were first wanted
    wanted_at: float  # seconds of steady time
    line: Line


@dataclass(slots=True, eq=False)
class Line:
    """The calls of one program in one tier. They queue as one, by the key of the first."""

    program: WaitingProgram
    rank: int  # where it queues: its class, behind all that is needed if it speculates
    is_speculative: bool
    calls: list[WaitingCall] = field(default_factory=list)  # by arrival, the first one last: it is taken from there

    @property
    def first(self) -> WaitingCall:
        """The call that goes next; there is one while the line queues."""
        return self.calls[-1]


@dataclass(slots=True, eq=False)
class WaitingProgram:
    """One program of one tracker, from its first want until it is withdrawn; mostly some of its calls wait.

    Its wants change, but their class and tenant do not.
    """

    tracker: str
    want: Want
    arrival: int
    tokens_per_branch: float = 0.0  # forecast completion tokens of each of its calls
    waiting: dict[CallId, WaitingCall] = field(default_factory=dict)
    needed: Line = field(init=False)
    speculative: Line = field(init=False)
    home: Worker | None = None  # the worker that has its prefixes; of programs whose calls share them

    def __post_init__(self) -> None:
        self.needed = Line(self, self.want.class_rank, is_speculative=False)
        self.speculative = Line(self, self.want.class_rank + CLASSES, is_speculative=True)

    def dissolve(self) -> None:
        """Parts it from its lines and calls, which refer to it: so its memory returns without a search for cycles."""
        self.waiting.clear()
        self.needed.calls.clear()
        self.speculative.calls.clear()
        del self.needed, self.speculative
