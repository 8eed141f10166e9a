"""Will the vote's leader still lead at the cap? A forecast whose prior is learnt from how answers agreed before.

Answers of one question arrive as from Ewens' urn (the Chinese restaurant process): after n samples the next one repeats
an answer that has v votes with probability v / (n + c), and is a new one with probability c / (n + c). The
concentration c is small where a model agrees with itself and large where its answers scatter. Which c a question has is
not known: its logarithm is normal over questions, with a median and a spread that are fitted to recorded votes. That
needs nobody to know which answers are right.

`rules.default` asks at each arrival. Votes that look alike are many, so what was forecast once is remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import exp, fsum, lgamma, log

# Each question is taken to have one of these concentrations, two to a factor of ten.
_GRID = tuple(10 ** (step / 2) for step in range(-6, 4))
# Samples. Who leads after so many more is taken to lead at any larger cap.
_FURTHEST_LOOK = 32
_NEGLIGIBLE = 1e-9  # concentrations so much less probable than the most probable one are left out


@lru_cache(maxsize=65_536)
def overturn_bound(
    sizes: tuple[int, ...], leader: int, lost: int, remaining: int, median: float, spread: float
) -> float:
    """Return an upper bound on the probability that another answer leads at the cap, in [0, 1].

    It adds up the probabilities that each rival alone overtakes the leader, and that all answers not seen so far
    together do. It is 0 where nobody can overtake any more, and 1 where a rival is ahead, as answers that are counted
    together may be.

    Args:
        sizes: votes of each answer in the order first seen, each 1 or more.
        leader: the position of the one that leads. Rivals before it win a tie.
        lost: finished samples without an answer; where there are some, more are expected.
        remaining: samples that may still come; of more than 32 the first 32 are looked at.
        median: of the concentration over questions.
        spread: standard deviation of its natural logarithm.
    """
    lead, finished, look = sizes[leader], sum(sizes) + lost, min(remaining, _FURTHEST_LOOK)
    # (votes, wins a tie) -> rivals of this kind
    rivals = Counter((size, at < leader) for at, size in enumerate(sizes) if at != leader)
    prior = _prior(median, spread)
    posterior = [weight * _probability(finished, len(sizes) + (lost > 0), at) for at, weight in enumerate(prior)]
    least = _NEGLIGIBLE * max(posterior)
    bound = total = 0.0
    for concentration, weight in zip(_GRID, posterior, strict=True):
        if weight < least:
            continue
        total += weight
        whole = finished + concentration
        overtaken = _overtakes(lead, concentration, lead + 1, look, whole)
        for (size, wins_tie), count in rivals.items():
            overtaken += count * _overtakes(lead, size, lead - size + (not wins_tie), look, whole)
        bound += weight * min(1.0, overtaken)
    return min(1.0, bound / total)


def fitted_concentration(votes: Iterable[Sequence[int]]) -> tuple[float, float]:
    """Return the (median, spread) under which recorded votes are most probable, of a grid of candidates.

    Args:
        votes: of each vote the sizes of its clusters, the one without answers included.

    Raises:
        ValueError: no vote has two samples or more; they say nothing of agreement.
    """
    # (samples, clusters) -> votes; of the sizes, Ewens' formula needs no more
    shapes = Counter((sum(sizes), len(sizes)) for sizes in votes if sum(sizes) > 1)
    if not shapes:
        raise ValueError("no vote has two samples; agreement is fitted to votes of two samples or more")
    medians = [float(f"{10 ** (step / 10):.2g}") for step in range(-25, 11)]
    candidates = [(median, quarters / 4) for median in medians for quarters in range(1, 25)]
    return max(candidates, key=lambda candidate: _log_likelihood(shapes, *candidate))


def _log_likelihood(shapes: Counter[tuple[int, int]], median: float, spread: float) -> float:
    prior = _prior(median, spread)
    return fsum(
        count * log(fsum(weight * _probability(*shape, at) for at, weight in enumerate(prior)))
        for shape, count in shapes.items()
    )


def _overtakes(lead: int, mass: float, margin: int, look: int, whole: float) -> float:
    """The probability that a rival wins against the leader alone.

    Args:
        lead: votes of the leader: its mass in the urn.
        mass: the rival's.
        margin: how many more of the samples to come than the leader it must get; it is ahead with 0 or less.
        look: samples to come.
        whole: all mass in the urn.
    """
    if margin <= 0 or look < margin:
        return float(margin <= 0)
    shared = _shares(look, lead + mass, whole)  # of the samples to come, those for one of the two
    return sum(shared[drawn] * _gains(lead, mass, margin, drawn) for drawn in range(margin, look + 1))


@lru_cache(maxsize=65_536)
def _gains(lead: int, mass: float, margin: int, drawn: int) -> float:
    """The probability that of `drawn` samples for the two the rival gets `margin` more than the leader, or beyond."""
    return sum(_shares(drawn, mass, lead + mass)[(drawn + margin + 1) // 2 :])


@lru_cache(maxsize=16_384)
def _shares(draws: int, mass: float, whole: float) -> tuple[float, ...]:
    """Pólya's urn: the probabilities that 0, 1, … of the draws fall to what has `mass` of the `whole`."""
    rest = whole - mass
    if rest <= 0:
        return (0.0,) * draws + (1.0,)
    share = exp(lgamma(rest + draws) - lgamma(rest) - lgamma(whole + draws) + lgamma(whole))
    shares = [share]
    for count in range(draws):
        share *= (draws - count) * (mass + count) / ((count + 1) * (rest + draws - count - 1))
        shares.append(share)
    return tuple(shares)


@lru_cache(maxsize=65_536)
def _probability(finished: int, clusters: int, at: int) -> float:
    """Ewens' sampling formula under one concentration, without the factor that all concentrations share."""
    concentration = _GRID[at]
    return exp(clusters * log(concentration) + lgamma(concentration) - lgamma(finished + concentration))


@lru_cache(maxsize=256)
def _prior(median: float, spread: float) -> tuple[float, ...]:
    weights = [exp(-((log(each / median) / spread) ** 2) / 2) for each in _GRID]
    total = fsum(weights)
    return tuple(weight / total for weight in weights)
