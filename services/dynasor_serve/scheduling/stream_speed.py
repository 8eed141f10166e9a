"""How fast does a call generate on a worker that runs so many at once?

A decode step takes longer the more sequences are in it, and nearly linearly so: seconds per token = a + b × calls. Both
are fitted to the calls that ended, so what a full worker generates can be told before one is full.
"""

from __future__ import annotations

_CALLS_REMEMBERED = 500
_LEAST_VARIANCE = 1.0  # calls²; less variation than one call says nothing about the slope


class StreamSpeed:
    """Least squares over calls, weighted by their tokens and by how recent they are.

    Where the number of calls side by side hardly varied, the slope is shrunk towards 0: a worker is then taken to
    generate in proportion to its calls, until it has shown otherwise.
    """

    def __init__(self) -> None:
        self._weight = 0.0  # tokens
        self._mean_calls = 0.0
        self._mean_seconds = 0.0  # per token
        self._variance = 0.0  # of the calls side by side
        self._covariance = 0.0  # of these with the seconds per token

    def observe(self, tokens: int, seconds: float, calls: float) -> None:
        """Takes a call that generated `tokens` > 0 in `seconds`, on a worker that ran `calls` at once on average."""
        self._weight = self._weight * (1 - 1 / _CALLS_REMEMBERED) + tokens
        share = tokens / self._weight
        off_calls, off_seconds = calls - self._mean_calls, seconds / tokens - self._mean_seconds
        self._mean_calls += share * off_calls
        self._mean_seconds += share * off_seconds
        # The incremental moments of West (1979), with forgetting.
        self._variance = (1 - share) * (self._variance + share * off_calls * off_calls)
        self._covariance = (1 - share) * (self._covariance + share * off_calls * off_seconds)

    def seconds_per_token(self, calls: float) -> float:
        """Of one call on a worker that runs `calls` at once; 0 where nothing was measured yet."""
        if not self._weight:
            return 0.0
        # A worker that is slower with fewer calls, or takes no time for none, is noise.
        steepest = self._mean_seconds / max(self._mean_calls, 1.0)
        slope = min(max(self._covariance / (self._variance + _LEAST_VARIANCE), 0.0), steepest)
        return max(self._mean_seconds + slope * (calls - self._mean_calls), self._mean_seconds * 0.01)

    def tokens_per_second(self, calls: float) -> float:
        """Of a worker that runs `calls` at once; 0 where nothing was measured yet."""
        seconds = self.seconds_per_token(calls)
        return calls / seconds if seconds else 0.0
