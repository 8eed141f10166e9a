"""What is one more unit of evidence worth? The expected gain in the probability that a program's answer is right.

`programs` asks at each arrival; the scheduler's ordering `expected-gain` gives places to the programs whose next token
gains most. A gain is a forecast that places calls and decides no answer, so it may be rough, but it is cheap: what a
vote's depends on is a few small numbers, and those seen before are remembered. docs/allocation.md has the measurements.
"""

from __future__ import annotations

from functools import lru_cache

from dynasor_serve.certaindex.rules.beta_posterior import lead_probability

# Samples. A leader that is further ahead than this gains less than a millionth by one.
_FURTHEST_LOOK = 16


def gain_of_vote(labels: tuple[int | None, ...], remaining: int) -> float:
    """The gain of one more sample of a majority vote, in [0, 0.25].

    Only the two largest clusters are looked at, as in Adaptive-Consistency (arXiv 2305.11860). Of samples for one of
    them a share p is for the leader, and p has the posterior Beta(v1 + 1, v2 + 1). The vote is right, between those
    two, with probability P(p > 1/2); m more samples raise that, on average over what they may say, because they may
    turn the vote. One alone never turns a lead of two, so the gain of the next sample is that of the best m, per
    sample: the knowledge gradient KG(*) of Frazier and Powell (2010). Opt-KG (Chen, Lin, Zhou, ICML'13) looks one
    sample ahead instead and counts its better outcome. The whole is weighed by (v1 + v2 + 1) / (n + 1): a sample
    that says something else decides nothing, so votes that scatter gain little.

    It is 0 where what may still come can at most draw level with the leader.

    Args:
        labels: of the clusters of the finished samples; None where there is no answer.
        remaining: samples that may still come.
    """
    sizes: dict[int, int] = {}
    for label in labels:
        if label is not None:
            sizes[label] = sizes.get(label, 0) + 1
    first = second = 0
    for size in sizes.values():
        if size > first:
            first, second = size, first
        elif size > second:
            second = size
    look = min(remaining, _FURTHEST_LOOK)
    if look <= first - second:  # what comes can at most draw level
        return 0.0
    return _best_rate(first, second, look) * (first + second + 1) / (len(labels) + 1)


def gain_of_best(best: float, judged: int, remaining: int) -> float:
    """The gain of one more judged path where the best one is the answer, in [0, 0.5].

    Rewards are taken for probabilities of being right. The next of n + 1 alike paths is the best of them with
    probability 1 / (n + 1) (Rényi, 1962: records), and is taken to close half of the gap that is left.

    Args:
        best: the best reward so far, in [0, 1]; 0 where nothing is judged.
        judged: paths.
        remaining: paths that may still come.
    """
    return (1 - best) / 2 / (judged + 1) if remaining > 0 else 0.0


def gain_of_rest(certaindex: float, remaining: int) -> float:
    """The gain of one more unit where nothing more is known than how settled the program is, in [0, 1].

    Certaindex is taken for the probability that more changes nothing, and what is missing is shared among the units.

    Args:
        certaindex: in [0, 1].
        remaining: units of the knob that may still be spent.
    """
    return (1 - certaindex) / remaining if remaining > 0 else 0.0


@lru_cache(maxsize=4096)
def _best_rate(first: int, second: int, look: int) -> float:
    """The gain of the best number of samples m up to `look`, per sample, between two clusters of so many votes."""
    best = 0.0
    shares = [1.0]  # probability that so many of m samples are for the leader: Pólya's urn
    for m in range(1, look + 1):
        drawn = first + second + m + 1
        shares.append(0.0)
        for leading in range(m, -1, -1):
            stays = shares[leading] * (second + m - leading) if leading < m else 0.0
            comes = shares[leading - 1] * (first + leading) if leading else 0.0
            shares[leading] = (stays + comes) / drawn
        # Only samples that turn the vote change whom it chooses, and then by the difference of the two.
        gain = sum(
            shares[leading] * (1 - 2 * lead_probability(first + leading, second + m - leading))
            for leading in range(m + 1)
            if first + leading < second + m - leading
        )
        best = max(best, gain / m)
    return best
