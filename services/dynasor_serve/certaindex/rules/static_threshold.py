"""`static-threshold`: the paper's default. One check, at a fixed number of samples."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class StaticThreshold(Parameterised):
    """Stops after the first `detect` samples if their H̃ reaches `threshold`, else spends the cap.

    At 5 samples 0.7 asks for unanimity: 4 of 5 is 0.689. The first `detect` arrivals are judged however many have
    finished since, so answers merged late can still stop the program, and samples that arrived late cannot.

    Source: arXiv 2412.20993, section 3.2 (a); settings in its table 3.
    """

    name: ClassVar[str] = "static-threshold"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    threshold: float = parameter(0.7, minimum=0, maximum=1, exclusive=("minimum",), doc="least H̃ that stops")
    detect: int = parameter(5, minimum=2, maximum=1024, doc="samples after which H̃ is judged, once")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge the first `detect` arrivals."""
        if votes.finished < self.detect:
            return going_on(f"{votes.finished} of the {self.detect} samples to judge have finished")
        judged = votes.prefix(self.detect)
        certainty = judged.certaindex
        if judged.leader is None:
            return going_on(f"no answer in the first {self.detect} of {votes.cap} samples")
        if certainty >= self.threshold:
            return certain(f"H̃ {certainty:.2f} ≥ {self.threshold:g} after {self.detect} of {votes.cap} samples")
        return going_on(
            f"H̃ {certainty:.2f} < {self.threshold:g} after {self.detect} samples: spends the cap of {votes.cap}"
        )

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops after {self.detect} samples if their H̃ is at least {self.threshold:g}, else spends the cap."
