"""How probable was each token? Log-probabilities as far as they were recorded, else made up, the same at every play.

What is recorded of a text is its tokens' log-probabilities, their mean probability, or nothing. With a mean every token
gets that probability, so that the mean over any part of the text is the recorded one. With nothing, probabilities are
made up (`MadeUp`): they say nothing about the model. So are the alternatives of a token, always: each is
half as probable as the one before and none more than the token itself, under names that no vocabulary holds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

#: Stands for minus infinity in JSON, as in vLLM.
LOWEST: Final = -9999.0

_YES: Final = " Yes"
_NO: Final = " No"
_SAID: Final = 0.98  # probability that a judge says yes or no at all
_LEAST_PROBABLE: Final = 1e-9  # of a token that is named as an alternative
_GOLDEN: Final = 2_654_435_769  # 2^32 ÷ golden ratio: its multiples are spread evenly

Alternative = tuple[str, float]  # a token's text, its log-probability


class TokenOdds(Protocol):
    """The log-probabilities of one text, token by token from 0."""

    def logprob(self, token: int) -> float:
        """Return the log-probability of a token of the text."""

    def alternatives(self, token: int, count: int) -> Sequence[Alternative]:
        """Return the most probable other tokens that could have stood there, best first."""

    def after(self, tokens: int) -> TokenOdds:
        """Return those of what follows the first `tokens` tokens."""


@dataclass(frozen=True, slots=True)
class MadeUp:
    """Nothing was recorded: probabilities between 0.5 and 1 that follow from the text's name.

    Attributes:
        seed: Tells texts apart.
        first: Number of the first token.
    """

    seed: int = 0
    first: int = 0

    @classmethod
    def of(cls, name: str) -> MadeUp:
        """Return those of the text with this name."""
        return cls(zlib.crc32(name.encode()))

    def logprob(self, token: int) -> float:
        share = (self.seed + (self.first + token) * _GOLDEN) % 2**32 / 2**32
        return math.log(1 - share / 2)

    def alternatives(self, token: int, count: int) -> Sequence[Alternative]:
        return _halving(math.exp(self.logprob(token)), count)

    def after(self, tokens: int) -> TokenOdds:
        return MadeUp(self.seed, self.first + tokens)


#: Of a text that tells nothing of itself.
UNKNOWN: Final = MadeUp()


@dataclass(frozen=True, slots=True)
class Even:
    """The mean probability was recorded: every token has it."""

    probability: float

    def logprob(self, token: int) -> float:
        return log_of(self.probability)

    def alternatives(self, token: int, count: int) -> Sequence[Alternative]:
        return _halving(self.probability, count)

    def after(self, tokens: int) -> TokenOdds:
        return self


@dataclass(frozen=True, slots=True)
class AsRecorded:
    """Each token's log-probability was recorded."""

    logprobs: tuple[float, ...]

    def logprob(self, token: int) -> float:
        return max(self.logprobs[token], LOWEST)

    def alternatives(self, token: int, count: int) -> Sequence[Alternative]:
        return _halving(math.exp(self.logprob(token)), count)

    def after(self, tokens: int) -> TokenOdds:
        return AsRecorded(self.logprobs[tokens:])


@dataclass(frozen=True, slots=True)
class Judgement:
    """One token, " Yes" or " No", where P(yes) ÷ (P(yes) + P(no)) is a reward.

    Attributes:
        reward: In [0, 1]; a fault may ask for what no engine should say.
    """

    reward: float

    @property
    def says_yes(self) -> bool:
        """Whether "Yes" is the likelier of the two."""
        return self.reward >= 0.5

    @property
    def text(self) -> str:
        """The likelier of the two."""
        return _YES if self.says_yes else _NO

    def logprob(self, token: int) -> float:
        return log_of(_SAID * (self.reward if self.says_yes else 1 - self.reward))

    def alternatives(self, token: int, count: int) -> Sequence[Alternative]:
        other = (_NO, 1 - self.reward) if self.says_yes else (_YES, self.reward)
        return ((other[0], log_of(_SAID * other[1])), *_halving(1 - _SAID, count - 1))[:count]

    def after(self, tokens: int) -> TokenOdds:
        return self


def log_of(probability: float) -> float:
    """Return the logarithm of a probability as JSON can carry it; NaN stays NaN, and what is negative has none."""
    return LOWEST if probability <= 0 else math.log(probability)


def _halving(probability: float, count: int) -> Sequence[Alternative]:
    """Return made-up alternatives of a token; the sum of their probabilities is at most what it leaves."""
    left = min(probability, max(0.0, 1 - probability))
    return [(f"<alternative {i}>", math.log(max(left / 2**i, _LEAST_PROBABLE / i))) for i in range(1, count + 1)]
