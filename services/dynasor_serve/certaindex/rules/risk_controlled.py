"""`risk-controlled`: thresholds that a calibration promises something about (`accuracy_policy`), spelled out."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.beta_posterior import lead_probability
from dynasor_serve.certaindex.rules.majority_locked import MajorityLocked
from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind, certain, going_on
from dynasor_serve.certaindex.votes import Votes

_LOCKED = MajorityLocked()


@dataclass(frozen=True, slots=True)
class RiskControlled(Parameterised):
    """Stops by thresholds whose mean loss was tested, and anywhere when the leader cannot be outvoted.

    At another cap than the calibrated one nothing but `majority-locked` stops. Rivals count as one while it is
    undecided which are equal, and no program is unpromising until it is.

    Source: this project's; docs/calibration.md. The pair of thresholds is that of Conformal Thinking, arXiv 2602.03814.
    """

    name: ClassVar[str] = "risk-controlled"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    certain: float = parameter(1.0, minimum=0.5, maximum=1, doc="least probability of the lead that stops")
    unpromising: float = parameter(
        0.0, minimum=0, maximum=1, doc="largest share of the leader that stops from half of the cap on; 0 for never"
    )
    cap: int = parameter(0, minimum=0, maximum=1024, doc="samples that it was calibrated for; 0 for none")
    width: int = parameter(1, minimum=1, maximum=1024, doc="samples side by side that it was calibrated for")
    target: float = parameter(0.02, minimum=0, maximum=1, doc="promised: most mean net loss of accuracy")
    confidence: float = parameter(0.95, minimum=0, maximum=1, doc="promised: with this confidence")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        locked = _LOCKED.verdict(votes)
        if locked.stops or votes.leader is None:
            return locked
        if votes.cap != self.cap:
            return going_on(f"calibrated for a cap of {self.cap} samples, not {votes.cap}: {locked.reason}")
        first, second = votes.top_two
        probability = lead_probability(first, votes.answered - first if votes.undecided else second)
        score = f"leader ahead with probability {probability:.3f} after {votes.finished} of {votes.cap} samples"
        if probability >= self.certain:
            return certain(f"{score}, which is ≥ {self.certain:g}")
        share = first / votes.finished
        if share <= self.unpromising and 2 * votes.finished >= votes.cap and not votes.undecided:
            reason = f"the leader has {first} of {votes.finished} samples, {share:.3f} ≤ {self.unpromising:g}"
            return Verdict(VerdictKind.STOP_UNPROMISING, reason)
        return going_on(f"{score}, which is < {self.certain:g}")

    def describe(self) -> str:
        """Return the rule in words."""
        promise = f"at most {self.target:g} of mean accuracy is lost, with confidence {self.confidence:g}"
        return f"Stops by calibrated thresholds at cap {self.cap} and width {self.width}: {promise}."
