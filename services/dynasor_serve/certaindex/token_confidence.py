"""How sure is a model of its tokens? Confidence from the log-probabilities that an engine returns.

All logarithms are natural. A log-probability a hair above 0 is an engine's rounding and counts as 0.
"""

from collections import deque
from collections.abc import Sequence
from math import exp, fsum, isfinite

_ROUNDING = 1e-3
# What vLLM writes for −∞, which JSON lacks: a token that sampling ruled out.
_RULED_OUT = -9999.0


def token_confidence(top_logprobs: Sequence[float]) -> float:
    """Return the confidence of one token: −mean of the log-probabilities of the k likeliest tokens at its place.

    At least 0; the more peaked the distribution, the higher. Tokens that sampling ruled out (−∞, or vLLM's −9999) are
    left out: they say nothing of the model.

    Raises:
        ValueError: there is no log-probability but of tokens ruled out, or one is NaN or above 0.

    Source: DeepConf, arXiv 2508.15260, section 2.
    """
    known = [logprob for logprob in _checked(top_logprobs) if logprob > _RULED_OUT]
    if not known:
        raise ValueError(f"{len(top_logprobs)} log-probabilities, of tokens ruled out; there must be one that is not")
    return -fsum(known) / len(known)


def mean_probability(logprobs: Sequence[float]) -> float:
    """Return the arithmetic mean of the tokens' probabilities, in [0, 1] (`avg1`).

    Args:
        logprobs: of the answer's own tokens, without the braces around it; −∞ is probability 0.

    Raises:
        ValueError: there is no token, or a log-probability is NaN or above 0.

    Source: DEER, arXiv 2504.15895, section 3.
    """
    checked = _checked(logprobs)
    return fsum(map(exp, checked)) / len(checked)


def geometric_mean_probability(logprobs: Sequence[float]) -> float:
    """Return the geometric mean of the tokens' probabilities, in [0, 1] (`avg2`, for Qwen3).

    One improbable token lowers it more than the arithmetic mean. Arguments, errors and source as `mean_probability`.
    """
    checked = _checked(logprobs)
    return exp(fsum(checked) / len(checked))


class GroupConfidence:
    """The mean token confidence over the last `window` tokens of a branch, and the lowest it has been.

    `add` takes constant time, averaged over `window` tokens.

    Attributes:
        window: tokens per group; DeepConf takes 2048.
        tokens: tokens seen.
        lowest: the lowest mean over any `window` tokens in a row. None until so many were seen: a branch is not cut off
            for its first words.

    Raises:
        ValueError: the window is below 1.

    Source: DeepConf, arXiv 2508.15260, section 2 (group confidence, lowest group confidence).
    """

    __slots__ = ("_group", "_sum", "lowest", "tokens", "window")

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ValueError(f"groups of {window} tokens; they must have 1 or more")
        self.window = window
        self.tokens = 0
        self.lowest: float | None = None
        self._group: deque[float] = deque()
        self._sum = 0.0

    def add(self, confidence: float) -> None:
        """Take the confidence of the next token (`token_confidence`).

        Raises:
            ValueError: it is not finite; nothing has changed.
        """
        if not isfinite(confidence):
            raise ValueError(f"a token has confidence {confidence}; it must be a finite number")
        self.tokens += 1
        self._group.append(confidence)
        self._sum += confidence
        if len(self._group) > self.window:
            self._sum -= self._group.popleft()
        if self.tokens % self.window == 0:  # the group is new: sum it afresh, or rounding errors would pile up
            self._sum = fsum(self._group)
        if self.tokens >= self.window:
            mean = self._sum / self.window
            self.lowest = mean if self.lowest is None else min(self.lowest, mean)

    @property
    def at_end(self) -> float | None:
        """What a branch has once it has finished: `lowest`, or the mean of all its tokens if they are fewer than that.

        None for a branch without tokens.
        """
        if self.lowest is None and self._group:
            return self._sum / len(self._group)
        return self.lowest


def _checked(logprobs: Sequence[float]) -> list[float]:
    if not logprobs:
        raise ValueError("no log-probabilities; there must be 1 or more")
    for logprob in logprobs:
        if not logprob <= _ROUNDING:  # NaN is not
            raise ValueError(f"a log-probability is {logprob}; it must be 0 or less")
    return [min(logprob, 0.0) for logprob in logprobs]
