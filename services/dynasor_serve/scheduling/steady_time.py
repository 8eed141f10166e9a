"""Time that only goes forwards, made of a clock that may not."""

from __future__ import annotations

import math

from dynasor_serve.scheduling.ignored import Ignored, IgnoredLog, IgnoredReason


class SteadyTime:
    """Counts the seconds by which a clock went forwards.

    Where the clock jumps back no time has passed, and it goes on from there; a jump forwards is taken as time that
    passed. Either way nobody has waited for less than nothing, or for ever.
    """

    def __init__(self, ignored: IgnoredLog) -> None:
        self._ignored = ignored
        self._clock: float | None = None  # its latest reading
        self._seconds = 0.0

    def at(self, clock: float) -> float:
        """The steady time of a reading, in seconds since the first; of one that is no number, the time before."""
        if not math.isfinite(clock):
            self._ignored.add(Ignored(IgnoredReason.CLOCK, f"the time {clock}", "it is no number of seconds"))
            return self._seconds
        passed = clock - self._clock if self._clock is not None else 0.0
        self._clock = clock
        if passed > 0:
            self._seconds += passed
        elif passed < 0:
            what = f"a clock that went back by {-passed:g} s"
            self._ignored.add(Ignored(IgnoredReason.CLOCK, what, "time does not: none has passed"))
        return self._seconds
