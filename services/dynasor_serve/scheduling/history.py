"""How long branches of similar programs were: the cold start of every forecast."""

from __future__ import annotations

UNKNOWN_TOKENS_PER_BRANCH = 256.0
MOST_TOKENS_PER_BRANCH = 10_000_000  # beyond any context; what claims to be longer is no length
_WEIGHT_OF_NEWEST = 0.05


class BranchHistory:
    """Exponentially weighted mean of completion tokens per finished branch, per algorithm of one pool."""

    def __init__(self) -> None:
        self._mean_tokens: dict[str, float] = {}  # algorithm -> completion tokens

    def observe(self, algorithm: str, tokens: int) -> None:
        """Takes the length of a finished branch; one that cannot be is ignored."""
        if not 0 <= tokens <= MOST_TOKENS_PER_BRANCH:
            return
        mean = self._mean_tokens.get(algorithm)
        self._mean_tokens[algorithm] = tokens if mean is None else mean + _WEIGHT_OF_NEWEST * (tokens - mean)

    def tokens_per_branch(self, algorithm: str, own_mean: float) -> float:
        """The program's own mean where it has one, else that of its algorithm, else a constant; always finite.

        A mean that cannot be (negative, not a number, beyond any context) is none.
        """
        if 0 < own_mean <= MOST_TOKENS_PER_BRANCH:
            return own_mean
        return self._mean_tokens.get(algorithm, UNKNOWN_TOKENS_PER_BRANCH)
