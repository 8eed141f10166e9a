"""The normalised entropy of a vote: 1 when all answers agree, 0 when no two do."""

from collections.abc import Sequence
from math import log


def normalised_entropy(counts: Sequence[int]) -> float:
    """Return H̃ = (ln n − H) / ln n for clusters of the given sizes, n = sum of the sizes.

    H = −Σ c/n · ln(c/n) simplifies to ln n − (1/n) Σ c ln c, so H̃ = Σ c ln c / (n ln n): exactly 1.0 for one cluster,
    exactly 0.0 for clusters of one.

    Args:
        counts: cluster sizes in votes, any order; zeros are allowed and change nothing.

    Returns:
        H̃ in [0, 1]; 0 for n ≤ 1, where the paper's formula is undefined and one answer proves nothing.

    Raises:
        ValueError: a size is negative.

    Source: arXiv 2412.20993, section 3.1, equation 1.
    """
    total = 0
    weighted = 0.0
    for count in counts:
        if count > 1:
            weighted += count * log(count)
        elif count < 0:
            raise ValueError(f"a cluster has {count} votes; sizes are 0 or more")
        total += count
    if total <= 1:
        return 0.0
    return min(1.0, max(0.0, weighted / (total * log(total))))
