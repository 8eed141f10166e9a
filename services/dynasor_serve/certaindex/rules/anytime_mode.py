"""`anytime-mode`: a certificate that the leader is what the model says most often, valid at any stop."""

from dataclasses import dataclass
from math import exp, inf, log
from typing import ClassVar

from dynasor_serve.certaindex.mode_evidence import mode_evidence
from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class AnytimeMode(Parameterised):
    """Stops when the leader is a most probable answer of the model with probability `confidence`, however often asked.

    Takes 6 equal answers at 0.9, 7 at 0.95, 10 at 0.99. It says nothing of whether the model is right. While answers in
    `undecided` clusters may still turn out equal, it must hold for them as one answer too.

    Source: CITE, arXiv 2605.05873; what differs, and the proof, in `mode_evidence`.
    """

    name: ClassVar[str] = "anytime-mode"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    confidence: float = parameter(
        0.95,
        minimum=0.5,
        maximum=1,
        exclusive=("minimum", "maximum"),
        doc="least probability that no answer is more probable",
    )

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        leader, evidence = mode_evidence(votes.labels)
        if leader is None:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples")
        rivals = votes.undecided - {leader}
        if len(rivals) > 1:
            one = min(rivals)
            merged = mode_evidence([one if label in rivals else label for label in votes.labels])
            evidence = min(evidence, merged[1] if merged[0] == leader else -inf)
        needed = -log(1 - self.confidence)
        score = f"{_odds(evidence)} {'≥' if evidence >= needed else '<'} {_odds(needed)} after {votes.finished} samples"
        if evidence >= needed:
            return certain(f"the leader is the model's most probable answer: evidence {score}")
        return going_on(f"the leader may not be the model's most probable answer: evidence {score}")

    def describe(self) -> str:
        """Return the rule in words."""
        return (
            f"Stops when no answer is more probable than the leader, with probability {self.confidence:g} at any stop."
        )


def _odds(logarithm: float) -> str:
    return f"{exp(min(logarithm, 700)):.3g}"
