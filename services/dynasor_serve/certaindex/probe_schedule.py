"""When is a chain of thought asked for its answer? At fixed numbers of tokens, at marks of reflection, or both."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProbeSchedule:
    """When a chain is probed.

    Attributes:
        interval: tokens between two probes; 0 for none.
        marks: words at which a thought ends and a new one begins ("Wait"), whole and in this case; the probe is asked
            about the text before them.
        min_gap: fewest tokens between two probes, and before the first.
    """

    interval: int = 0
    marks: tuple[str, ...] = ()
    min_gap: int = 16


class ProbeClock:
    """Says, as a chain streams in, when a probe is due.

    Args:
        schedule: when to probe.
        position: tokens the chain has already: more than 0 where it goes on from a checkpoint.
    """

    def __init__(self, schedule: ProbeSchedule, position: int = 0) -> None:
        self._schedule = schedule
        self._last = position
        self._next = _next_multiple(schedule.interval, position)
        self._tail = ""
        self._behind = 0  # characters from the start of the mark to the end of the text
        words = "|".join(map(re.escape, schedule.marks))
        self._mark = re.compile(rf"(?<!\w)(?:{words})(?=\W)") if schedule.marks else None
        self._kept = max(map(len, schedule.marks), default=0) + 1

    def due(self, text_delta: str, position: int) -> bool:
        """Whether a probe is due now. True counts as one.

        Args:
            text_delta: the text that arrived since the last call; a mark may be split over several.
            position: tokens of the chain up to the end of it.
        """
        behind = self._behind_mark(text_delta)
        if position - self._last < self._schedule.min_gap:
            return False
        at_interval = bool(self._schedule.interval) and position >= self._next
        if not behind and not at_interval:
            return False
        self._behind = behind
        self._last = position
        self._next = _next_multiple(self._schedule.interval, position)
        return True

    def cut(self, text: str) -> str:
        """Return what the probe is asked about: the text before the mark, or all of it where the interval was due.

        Args:
            text: the chain's text up to the end of the delta for which `due` was true.
        """
        return text[: len(text) - self._behind]

    def _behind_mark(self, text_delta: str) -> int:
        """Return the characters from the start of the last mark that this delta completes, or 0."""
        if self._mark is None:
            return 0
        text = self._tail + text_delta
        starts = [match.start() for match in self._mark.finditer(text) if match.end() >= len(self._tail)]
        self._tail = text[-self._kept :]
        return len(text) - starts[-1] if starts else 0


def _next_multiple(interval: int, position: int) -> int:
    return (position // interval + 1) * interval if interval else 0
