"""How often does something happen, and how much of it? Measured over the recent past, in constant time per event.

Pure: time is a parameter, in seconds of a clock that never goes back; what is told late counts as told now.
"""

from __future__ import annotations

import math
from collections import deque

_LEAST_OBSERVED = 1 / 6  # of the time constant: a first event is no rate of a thousand per second
_SLICES = 30  # of a sliding window, which is longer by up to one


class EventRate:
    """Exponentially weighted rate: an event of `age` seconds weighs exp(−age / time constant).

    Unbiased from the start: the weights that a meter cannot have seen yet are divided out. Before a sixth of the time
    constant has passed it is taken to have passed.
    """

    def __init__(self, time_constant_seconds: float) -> None:
        self._time_constant = time_constant_seconds
        self._sum = 0.0
        self._at = 0.0  # seconds; up to when the sum is decayed
        self._since: float | None = None  # seconds; when it began to observe

    @property
    def since(self) -> float | None:
        """When it began to observe, in seconds; None before it was first told or asked anything."""
        return self._since

    def add(self, now: float, amount: float = 1.0, age: float = 0.0) -> None:
        """Counts an amount of something, which happened `age` seconds before `now`."""
        self._since = now - age if self._since is None else min(self._since, now - age)
        self._decay(now)
        self._sum += amount * math.exp(-age / self._time_constant) if age else amount

    def per_second(self, now: float, since: float | None = None) -> float:
        """The amount per second; 0 where nothing happened.

        `since` says from when on an event would have been told, where that is before the first.
        """
        if self._since is None:
            self._since = now
        self._decay(now)
        began = self._since if since is None else min(self._since, since)
        observed = max((now - began) / self._time_constant, _LEAST_OBSERVED)
        return self._sum / (self._time_constant * -math.expm1(-observed))

    def _decay(self, now: float) -> None:
        if now > self._at:
            self._sum *= math.exp((self._at - now) / self._time_constant)
            self._at = now


class SlidingShare:
    """Of what happened within a window, how much was a hit? Kept in slices, so its memory does not grow."""

    def __init__(self, window_seconds: float) -> None:
        self._slice_seconds = window_seconds / _SLICES
        self._slices: deque[list[int]] = deque()  # [number of the slice, hits, all], oldest first

    def add(self, now: float, *, is_hit: bool) -> None:
        """Counts one."""
        number = int(now // self._slice_seconds)
        if not self._slices or self._slices[-1][0] < number:
            self._slices.append([number, 0, 0])
            self._forget(number)
        self._slices[-1][1] += is_hit
        self._slices[-1][2] += 1

    def counts(self, now: float) -> tuple[int, int]:
        """(hits, all) within the window."""
        self._forget(int(now // self._slice_seconds))
        return sum(each[1] for each in self._slices), sum(each[2] for each in self._slices)

    def _forget(self, number: int) -> None:
        while self._slices and self._slices[0][0] < number - _SLICES:
            self._slices.popleft()
