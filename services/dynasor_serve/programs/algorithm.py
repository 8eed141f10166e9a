"""What an algorithm answers: which branches should run now, how settled is the program, and what is its answer.

One module per algorithm implements `Algorithm`; `programs.program` holds all that algorithms share (ledger, failures,
cancellation, deadline) and is the only caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.programs.events import AnswersCompared, CallFinished
from dynasor_serve.programs.query import Branch


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a program stands after its latest evidence."""

    verdict: Verdict
    certaindex: float  # in [0, 1]
    samples: int  # branches whose evidence counts
    exhausted: bool  # the cap is reached and no comparison is open


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The answer of a program, with the votes behind it, largest first."""

    answer: str | None
    text: str
    votes: tuple[tuple[str | None, int], ...]


class Algorithm(Protocol):
    """How does a program spend compute? Immutable: every method returns a new value or reads this one.

    `abandoned` are branches that failed for good; they shrink the cap.
    """

    @property
    def name(self) -> str:
        """The type string, such as `self-consistency`."""
        ...

    @property
    def cap(self) -> int:
        """Most units of the knob the program ever spends."""
        ...

    def observe(self, evidence: CallFinished) -> Self:
        """Takes one branch's evidence; the caller has removed duplicates."""
        ...

    def compared(self, event: AnswersCompared) -> Self:
        """Takes the evaluator's decisions."""
        ...

    def wanted(self, abandoned: frozenset[Branch]) -> tuple[Branch, ...]:
        """The branches that should be running now, in the order they are to start."""
        ...

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        """Pairs of canonical answers that only the evaluator can decide."""
        ...

    def assess(self, abandoned: frozenset[Branch]) -> Assessment:
        """How settled the program is, by its rule."""
        ...

    def aggregate(self) -> Aggregate:
        """The answer with what is known now."""
        ...
