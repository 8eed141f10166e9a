"""`n-step-threshold`: H̃ is judged again and again, every few samples."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class NStepThreshold(Parameterised):
    """Stops when H̃ of the first k samples reaches `threshold`, k the largest multiple of `every` that has finished.

    Judging whole steps only keeps the verdict independent of how many samples of the next step have arrived.

    Source: arXiv 2412.20993, section 3.2 (c) and table 4 ("5-Step Thres.", "Single-Step Thres.").
    """

    name: ClassVar[str] = "n-step-threshold"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    threshold: float = parameter(0.7, minimum=0, maximum=1, exclusive=("minimum",), doc="least H̃ that stops")
    every: int = parameter(5, minimum=1, maximum=1024, doc="samples between two judgements")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge the arrivals up to the last whole step."""
        count = votes.finished - votes.finished % self.every
        if count == 0:
            return going_on(f"{votes.finished} of the {self.every} samples of the first step have finished")
        judged = votes.prefix(count)
        certainty = judged.certaindex
        if judged.leader is None:
            return going_on(f"no answer in the first {count} of {votes.cap} samples")
        if certainty >= self.threshold:
            return certain(f"H̃ {certainty:.2f} ≥ {self.threshold:g} after {count} of {votes.cap} samples")
        return going_on(f"H̃ {certainty:.2f} < {self.threshold:g} after {count} of {votes.cap} samples")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Judges H̃ every {self.every} samples and stops when it is at least {self.threshold:g}."
