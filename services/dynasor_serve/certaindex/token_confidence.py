"""How sure is a model of its tokens? Confidence from the log-probabilities that an engine returns."""

from collections import deque
from collections.abc import Sequence
from math import exp, fsum, isfinite


def token_confidence(top_logprobs: Sequence[float]) -> float:
    """Return the DeepConf confidence of one token: −mean of its top-k log-probabilities.

    Source: arXiv 2508.15260, section 2.
    """
    return -fsum(top_logprobs) / len(top_logprobs)


def mean_probability(logprobs: Sequence[float]) -> float:
    """Return the arithmetic mean of the tokens' probabilities (DEER `avg1`, arXiv 2504.15895)."""
    return fsum(map(exp, logprobs)) / len(logprobs)


def geometric_mean_probability(logprobs: Sequence[float]) -> float:
    """Return the geometric mean of the tokens' probabilities (DEER `avg2`, arXiv 2504.15895)."""
    return exp(fsum(logprobs) / len(logprobs))


class GroupConfidence:
    """The mean token confidence of the last `window` tokens, and the lowest it has been.

    Attributes:
        window: tokens per group.
        tokens: tokens seen.
        lowest: the lowest mean over any `window` tokens in a row; None until so many were seen.
    """

    __slots__ = ("_group", "_sum", "lowest", "tokens", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.tokens = 0
        self.lowest: float | None = None
        self._group: deque[float] = deque()
        self._sum = 0.0

    def add(self, confidence: float) -> None:
        """Take the confidence of the next token."""
        if not isfinite(confidence):
            raise ValueError(f"a token has confidence {confidence}; it must be a finite number")
        self.tokens += 1
        self._group.append(confidence)
        self._sum += confidence
        if len(self._group) > self.window:
            self._sum -= self._group.popleft()
        if len(self._group) == self.window:
            mean = self._sum / self.window
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)

    @property
    def at_end(self) -> float | None:
        """What a finished chain has: `lowest`, or the mean of all tokens where they are fewer than the window."""
        if self.lowest is None and self._group:
            return self._sum / len(self._group)
        return self.lowest
