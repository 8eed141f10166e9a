"""How much of what it may still spend will a program spend? Learned from programs that ended, by their certainty.

A program that is certain stops soon, and one of which nothing is known may run to its cap. Programs are alike where
they have the same algorithm, have spent a like share of their cap, and are about as certain. Of each kind is remembered
what those that ended went on to spend, in tokens, against what they would have at their caps.
"""

from __future__ import annotations

from typing import NamedTuple

_CERTAINTIES = 10  # bins over [0, 1)
_PROGRESSES = 8
_PRIOR_PROGRAMS = 4.0  # what a kind's parent is worth beside its own programs
_PROGRAMS_REMEMBERED = 500.0  # per kind; older ones fade
_MOST_TOKENS = 1e15  # of one program; what claims more counts wrongly, and sums would overflow
_MOST_RATIO = 100.0  # of tokens spent to tokens at the cap; beyond it somebody counts wrongly


class Kind(NamedTuple):
    """What makes programs alike."""

    algorithm: str
    progress: int  # bin of samples / cap; −1 for all
    certainty: int  # bin of Certaindex, a bin of its own for 1; −1 for all


def kind_of(algorithm: str, certaindex: float, samples: int, remaining_knob: int) -> Kind:
    """The kind of a program. Certainty that cannot be (NaN, outside [0, 1]) is none, and so is that of no samples."""
    if samples <= 0 or remaining_knob < 0:
        return Kind(algorithm, 0, 0)
    certainty = int(certaindex * _CERTAINTIES) if 0 <= certaindex <= 1 else 0
    cap = samples + remaining_knob
    return Kind(algorithm, 1 + min(_PROGRESSES - 1, samples * _PROGRESSES // cap), certainty)


class _Seen:
    """Programs of one kind: what they went on to spend, and how many they are."""

    __slots__ = ("at_cap", "programs", "spent")

    def __init__(self) -> None:
        self.programs = 0.0  # fading
        self.spent = 0.0  # tokens
        self.at_cap = 0.0  # tokens

    def add(self, spent: float, at_cap: float) -> None:
        fading = 1 - 1 / _PROGRAMS_REMEMBERED
        self.programs = self.programs * fading + 1
        self.spent = self.spent * fading + spent
        self.at_cap = self.at_cap * fading + at_cap

    def ratio(self, prior: float) -> float:
        """Sums, not a mean of ratios: large programs weigh more, since it is their tokens that are predicted."""
        if not self.programs:
            return prior
        of_prior = _PRIOR_PROGRAMS * self.at_cap / self.programs
        return (self.spent + prior * of_prior) / (self.at_cap + of_prior)


class SpendHistory:
    """Ratio of tokens spent to tokens at the cap, per kind.

    A kind with few programs is drawn towards all programs of its progress, these towards all of the algorithm, and
    these towards 1, the cap: the forecast of a cold start. The ratio exceeds 1 where a unit of the knob takes several
    calls.
    """

    def __init__(self) -> None:
        self._seen: dict[Kind, _Seen] = {}  # kind -> its programs

    def observe(self, kind: Kind, spent: float, at_cap: float) -> None:
        """Takes a program that ended.

        Args:
            kind: what it was at some time of its life, each kind told once per program.
            spent: completion tokens that it spent after that.
            at_cap: completion tokens that it was forecast to spend after that, had it run to its cap. What cannot be
                (not positive, beyond any program, or a hundredth of what was spent) is ignored.
        """
        if not (0 < at_cap <= _MOST_TOKENS and 0 <= spent <= _MOST_RATIO * at_cap):
            return
        for seen in dict.fromkeys(self._line(kind)):
            self._seen.setdefault(seen, _Seen()).add(spent, at_cap)

    def ratio(self, kind: Kind) -> float:
        """What programs of a kind go on to spend, as a multiple of the forecast at their caps."""
        ratio = 1.0
        for each in reversed(self._line(kind)):
            seen = self._seen.get(each)
            if seen is not None:
                ratio = seen.ratio(ratio)
        return ratio

    @staticmethod
    def _line(kind: Kind) -> tuple[Kind, Kind, Kind]:
        """A kind, its parent and its grandparent."""
        return kind, kind._replace(certainty=-1), Kind(kind.algorithm, -1, -1)
