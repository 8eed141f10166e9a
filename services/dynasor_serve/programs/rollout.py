"""One rollout of a Monte Carlo tree search: how far it has come, and what it waits for. A part of `mcts`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from dynasor_serve.programs.query import Branch


class Stage(Enum):
    """How far a rollout has come."""

    EXPANDING = auto()  # its candidates are being said and judged
    COMPLETING = auto()  # its solution is being completed
    JUDGING = auto()  # its solution is being judged
    JUDGED = auto()
    LOST = auto()  # a call of its own was given up

    @property
    def is_under_way(self) -> bool:
        return self in (Stage.EXPANDING, Stage.COMPLETING, Stage.JUDGING)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One solution that is tried out.

    Attributes:
        node: the node that it expands, then the one that its completion goes on from; None for the root.
        stage: how far it has come.
        candidates: the nodes that its expansion asked for.
        text: of its completion.
        answer: of its solution.
        tokens: completion tokens of its calls so far.
        reward: of its solution, in [0, 1]; 0 until it is judged.
        calls: those that it waits for now.
        unverified: calls with the paths that the verifier is to judge.
    """

    node: int | None
    stage: Stage
    candidates: tuple[int, ...] = ()
    text: str = ""
    answer: str | None = None
    tokens: int = 0
    reward: float = 0.0
    calls: tuple[Branch, ...] = ()
    unverified: tuple[tuple[Branch, str], ...] = ()
