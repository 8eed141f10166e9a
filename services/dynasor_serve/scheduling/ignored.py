"""What a pool was told and did not act on, and why not: for the process to count and to log."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

_MOST_KEPT = 32  # for the log; all are counted


class IgnoredReason(StrEnum):
    """Kinds of what is ignored."""

    IMPOSSIBLE_NUMBER = "impossible-number"  # out of its range, or no number
    UNKNOWN_CALL = "unknown-call"  # the end of a call that does not run here: told twice, or never granted
    WANTED_TWICE = "wanted-twice"  # a call that another tracker was granted already
    CLOCK = "clock"  # it went back, or says no time


@dataclass(frozen=True, slots=True)
class Ignored:
    """One thing that was ignored: "WHAT: WHY" is a sentence."""

    reason: IgnoredReason
    what: str
    why: str


class IgnoredLog:
    """Counts all that was ignored and keeps the newest."""

    def __init__(self) -> None:
        self._counts: Counter[IgnoredReason] = Counter()
        self._newest: deque[Ignored] = deque(maxlen=_MOST_KEPT)

    def add(self, ignored: Ignored) -> None:
        """Something was ignored."""
        self._counts[ignored.reason] += 1
        self._newest.append(ignored)

    def take(self) -> tuple[Mapping[IgnoredReason, int], Sequence[Ignored]]:
        """How much was ignored since the last call, by reason, and the newest of it; both are forgotten here."""
        counts, newest = self._counts, list(self._newest)
        self._counts = Counter()
        self._newest.clear()
        return counts, newest
