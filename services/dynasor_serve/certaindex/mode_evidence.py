"""Evidence that the leader of a vote is the model's most probable answer, valid however often one looks.

`rules.anytime_mode` stops on it. Answers are taken as independent draws from one distribution.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import comb, inf, log


def mode_evidence(labels: Sequence[int | None]) -> tuple[int | None, float]:
    """Return the leader and the natural logarithm of the evidence against its strongest rival.

    If the evidence ever reaches 1/α, the leader is a most probable answer with probability 1 − α at least:

    - Take any answer m, seen or not, and bet before each draw that it is the leader of the draws so far rather than m:
      with a probability of θ, given that it is one of the two, θ uniform above 1/2 before the leader's reign. The
      gains of a reign in which the two counts went from s to e are R(e)/R(s), R as in `lead_ratio`. Those of reigns
      multiply; while m itself leads there is no bet.
    - If m is a most probable answer, the leader has at most its probability, so each bet is fair or worse for every
      θ > 1/2, and the gains are a non-negative supermartingale that starts at 1. By Ville's inequality they ever reach
      1/α with probability α at most.
    - The leader a is named once the gains against all m ≠ a are at 1/α. If a is not a most probable answer, those
      against a most probable one are among them. One such m is fixed by the distribution, not by the data, so no
      correction for choosing a is due: it is paid by the first vote, on which nobody could bet.

    Two answers may share the highest probability. One of them is then named, as the only one, with probability 2α at
    most, since the other has been rejected.

    Args:
        labels: the answers in the order drawn; None, no answer, is left out: the certificate is about real answers.

    Returns:
        (None, −∞) without an answer. A tie is led by the answer seen first.

    Source: e-processes by intersection and union as in CITE, arXiv 2605.05873, which certifies a target named
    beforehand; the leader as a predictable target as in arXiv 2510.17472, section 3.
    """
    sizes: dict[int, int] = {}  # answer -> votes, in the order first seen
    leader: int | None = None
    before: dict[int, int] = {}  # `sizes` when the leader's reign began
    gains: dict[int, float] = {}  # answer seen -> log gains against it in the reigns that are over
    unseen = 0.0  # the same for every answer not seen
    for label in labels:
        if label is None:
            continue
        if label not in sizes:
            sizes[label], gains[label] = 0, unseen
        sizes[label] += 1
        if leader is None:
            leader, before = label, sizes.copy()
        elif label != leader and sizes[label] >= sizes[leader]:
            successor = max(sizes, key=sizes.__getitem__)
            if successor != leader:
                gains = {rival: gains[rival] + _gain(leader, rival, before, sizes) for rival in sizes}
                unseen += _gain(leader, None, before, sizes)
                leader, before = successor, sizes.copy()
    if leader is None:
        return None, -inf
    least = unseen + _gain(leader, None, before, sizes)
    for rival in sizes:
        if rival != leader:
            least = min(least, gains[rival] + _gain(leader, rival, before, sizes))
    return leader, least


@lru_cache(maxsize=65_536)
def lead_ratio(first: int, second: int) -> float:
    """Return ln R, R the likelihood of θ > 1/2 over that of θ = 1/2 for `first` votes against `second`.

    θ, the share of the first, is uniform above 1/2: R = 2ⁿ⁺¹ ∫ θ^first (1 − θ)^second dθ from 1/2 to 1, n = first +
    second. The integral is a binomial tail, so R = Σ_{j ≤ first} C(n + 1, j) / ((n + 1) C(n, first)), in integers.
    """
    count = first + second
    term = tail = 1
    for j in range(first):
        term = term * (count + 1 - j) // (j + 1)
        tail += term
    return log(tail) - log((count + 1) * comb(count, first))


def _gain(leader: int, rival: int | None, before: dict[int, int], now: dict[int, int]) -> float:
    """Return the log gains of a reign against a rival; None is an answer not seen."""
    if rival is None:
        return lead_ratio(now[leader], 0) - lead_ratio(before[leader], 0)
    if rival == leader:
        return 0.0
    return lead_ratio(now[leader], now[rival]) - lead_ratio(before[leader], before.get(rival, 0))
