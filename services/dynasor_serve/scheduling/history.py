"""How long branches of similar programs were: the cold start of every forecast."""

from __future__ import annotations

UNKNOWN_TOKENS_PER_BRANCH = 256.0
_WEIGHT_OF_NEWEST = 0.05


class BranchHistory:
    """Exponentially weighted mean of completion tokens per finished branch, per algorithm of one pool."""

    def __init__(self) -> None:
        self._mean_tokens: dict[str, float] = {}  # algorithm -> completion tokens

    def observe(self, algorithm: str, tokens: int) -> None:
        mean = self._mean_tokens.get(algorithm)
        self._mean_tokens[algorithm] = tokens if mean is None else mean + _WEIGHT_OF_NEWEST * (tokens - mean)

    def tokens_per_branch(self, algorithm: str, own_mean: float) -> float:
        """The program's own mean where it has one, else that of its algorithm, else a constant."""
        return own_mean or self._mean_tokens.get(algorithm, UNKNOWN_TOKENS_PER_BRANCH)
