"""When is a chain of thought asked for its answer? At fixed numbers of tokens, at marks of reflection, or both.

A chain rule says how (`rules.ChainRule.schedule`); whoever reads the chain's stream keeps a `ProbeClock`.
"""

import re
from dataclasses import dataclass
from typing import Final

# Where one thought ends and another begins (DEER, arXiv 2504.15895).
REFLECTION_MARKS: Final = ("Wait", "Alternatively")

_WORD = re.compile(r"\w(?:.*\w)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ProbeSchedule:
    """When a chain is probed; `ProbeSchedule()` never does.

    Attributes:
        interval: tokens between probes: one is due at each multiple, counted from the chain's start; 0 for none.
        marks: words at which a thought is complete, whole and in this case: "Wait" is neither "wait" nor "Waiting".
        min_gap: fewest tokens between two probes, and before the first, 1 or more. A mark that comes sooner is passed
            over, a multiple that does is probed when the gap is reached.

    Raises:
        ValueError: a number is too small, or a mark does not begin and end like a word.
    """

    interval: int = 0
    marks: tuple[str, ...] = ()
    min_gap: int = 16

    def __post_init__(self) -> None:
        if self.interval < 0:
            raise ValueError(f"probes every {self.interval} tokens; it must be 0 (none) or more")
        if self.min_gap < 1:
            raise ValueError(f"{self.min_gap} tokens between two probes; there must be 1 or more")
        for mark in self.marks:
            if not _WORD.fullmatch(mark):
                raise ValueError(f"{mark!r} is no mark; it must begin and end with a letter or digit")


class ProbeClock:
    """Says, as a chain streams in, when a probe is due and what text it is asked about.

    A probe at a mark is asked about the thought just before it, which is complete, and not about the mark, which opens
    the next one: hence `cut`. A mark is known to be a whole word once the character after it has arrived, so the chain
    is a token or two past it by then.

    A chain that goes on from a checkpoint gets a new clock with the checkpoint's position. It probes at the same
    multiples of the interval as the first would have.

    Args:
        schedule: when to probe.
        position: tokens that the chain has already.
    """

    __slots__ = ("_behind", "_kept", "_last", "_mark", "_next", "_schedule", "_tail")

    def __init__(self, schedule: ProbeSchedule, position: int = 0) -> None:
        self._schedule = schedule
        self._last = position  # of the last probe
        self._next = self._multiple_after(position)
        self._behind = 0  # characters from the mark of the last probe to the end of the text at that time
        words = "|".join(map(re.escape, schedule.marks))
        self._mark = re.compile(rf"(?<!\w)(?:{words})(?=\W)") if words else None
        # The end of the text so far: a mark that may still prove whole, and the character before it.
        self._tail = ""
        self._kept = max(map(len, schedule.marks), default=0) + 1

    def due(self, text_delta: str, position: int) -> bool:
        """Whether a probe is due now. True counts as one: the next is due `min_gap` tokens later at the earliest.

        Args:
            text_delta: the text that arrived since the last call. A mark may be split over several.
            position: tokens of the chain up to the end of it; several may have arrived at once.
        """
        behind = self._behind_mark(text_delta)
        if position - self._last < self._schedule.min_gap:
            return False
        if not behind and not (self._schedule.interval and position >= self._next):
            return False
        self._behind = behind
        self._last = position
        self._next = self._multiple_after(position)
        return True

    def cut(self, text: str) -> str:
        """Return what the probe is asked about: the text before the mark, or all of it where the interval was due.

        Spaces before the mark stay, so that the rest of the text begins with the mark.

        Args:
            text: the chain's text up to the end of the delta for which `due` was true.
        """
        return text[: len(text) - self._behind]

    def _behind_mark(self, text_delta: str) -> int:
        """Return the characters from the last mark that this delta completes to the end of it; 0 without one."""
        if self._mark is None:
            return 0
        text = self._tail + text_delta
        # One that ends inside the tail was complete before, and has been seen.
        starts = [match.start() for match in self._mark.finditer(text) if match.end() >= len(self._tail)]
        self._tail = text[-self._kept :]
        return len(text) - starts[-1] if starts else 0

    def _multiple_after(self, position: int) -> int:
        interval = self._schedule.interval
        return (position // interval + 1) * interval if interval else 0
