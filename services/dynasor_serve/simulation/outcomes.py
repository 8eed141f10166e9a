"""What becomes of a recorded program: the terms in which every kind of it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Ending(NamedTuple):
    """A program that ended: whether its answer is right, and what it had cost, in completion tokens."""

    is_right: bool
    tokens: float


class Replayed(NamedTuple):
    """A program under one rule, and the same program run to its cap."""

    stopped: Ending
    full: Ending


# What a program would have scored at each of its possible ends, the cheapest first.
Ladder = Sequence[Ending]


class TraceUnscorable(ValueError):
    """A record does not say what is needed to score it; the message names what is missing."""
