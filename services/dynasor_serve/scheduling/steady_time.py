"""Time that only goes forwards, made of a clock that may not."""

from __future__ import annotations

import math

from dynasor_serve.scheduling.ignored import Ignored, IgnoredLog, IgnoredReason

LONGEST_STEP_SECONDS = 1e9  # 30 years; what claims to have gone further is no clock


class SteadyTime:
    """Counts the seconds by which a clock went forwards.

    Where the clock jumps back or further than any clock goes no time has passed, and it goes on from there. A jump
    forwards within reason is time that passed. So nobody has waited for less than nothing, or for ever.
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
        if 0 <= passed <= LONGEST_STEP_SECONDS:
            self._seconds += passed
        else:
            what = f"a clock that jumped by {passed:g} s"
            self._ignored.add(Ignored(IgnoredReason.CLOCK, what, "time does not; none has passed"))
        return self._seconds
