"""`confidence-prune`: DeepConf online. Branches that are less sure of themselves than the first ones are cut off."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class ConfidencePrune(Parameterised):
    """Cancels running branches whose lowest group confidence falls below a bar that the first samples set.

    The bar is the percentile of the first `warmup` samples' own that `keep` percent of them reach, interpolated between
    neighbours. Samples without a confidence are left out of it. Nothing is cut off as long as no sample has an answer:
    that would end the program without one.

    Source: DeepConf, arXiv 2508.15260, section 3 (online); `keep` is 90 in DeepConf-high and 10 in DeepConf-low.
    """

    name: ClassVar[str] = "confidence-prune"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    warmup: int = parameter(16, minimum=1, maximum=1024, doc="finished samples that set the bar")
    keep: int = parameter(90, minimum=1, maximum=99, doc="percent of them that pass it")
    window: int = parameter(2048, minimum=1, maximum=65_536, doc="tokens per group")

    @property
    def token_window(self) -> int:
        """Tokens per group: branches must be streamed with log-probabilities."""
        return self.window

    def verdict(self, votes: Votes) -> Verdict:
        """Hold the running branches against the bar."""
        if votes.finished < self.warmup:
            return going_on(f"{votes.finished} of the {self.warmup} samples that set the bar have finished")
        known = sorted(each for each in votes.confidences[: self.warmup] if each is not None)
        if not known:
            return going_on("the engine gives no log-probabilities of the samples that set the bar")
        if votes.leader is None:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples: every branch is needed")
        bar = _percentile(known, 100 - self.keep)
        below = tuple(branch for branch, lowest in votes.running if lowest < bar)
        score = f"{len(below)} of {len(votes.running)} running branches are below the bar of {bar:.3f}"
        return Verdict(VerdictKind.PRUNE, score, below) if below else going_on(score)

    def describe(self) -> str:
        """Return the rule in words."""
        return (
            f"Cancels branches that are less sure, over {self.window} tokens, than {self.keep} % of the first "
            f"{self.warmup} samples."
        )


def _percentile(ascending: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values lie, interpolated linearly between neighbours."""
    place = (len(ascending) - 1) * percent / 100
    below = floor(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (place - below)
