"""`initial-curve`: the paper's skyline. H̃ at the first look says how many samples a program may take."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, curve_parameter, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.rules.step_curve import StepCurve
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class InitialCurve(Parameterised):
    """Reads the most samples off a falling curve, at the H̃ of the first `detect`, and stops once they have finished.

    H̃ is read once: what arrives later changes neither it nor the limit. The curve belongs to the programs and the cap
    that it was fitted on (`profiler`); the default's are named in docs/rules.md.

    Source: arXiv 2412.20993, section 3.2 (b) and table 4 ("Initial Step Curve Fit").
    """

    name: ClassVar[str] = "initial-curve"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    detect: int = parameter(5, minimum=2, maximum=1024, doc="samples after which H̃ is read, once")
    curve: StepCurve = curve_parameter(  # noqa: RUF009 (a curve is frozen)
        StepCurve(((0.409, 7), (0.689, 5))), doc="the most samples by H̃; the cap below its first level"
    )

    def verdict(self, votes: Votes) -> Verdict:
        """Judge the first `detect` arrivals, then count."""
        if votes.finished < self.detect:
            return going_on(f"{votes.finished} of the {self.detect} samples to judge have finished")
        if votes.leader is None:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples")
        certainty = votes.prefix(self.detect).certaindex
        limit = self.curve.most_samples(certainty)
        read = f"H̃ {certainty:.2f} after {self.detect} samples"
        if limit is None:
            return going_on(f"{read} is below the curve: spends the cap of {votes.cap}")
        score = f"{read} allows {limit} of {votes.cap} samples, {votes.finished} have finished"
        return certain(score) if votes.finished >= limit else going_on(score)

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops after as many samples as a curve allows for the H̃ of the first {self.detect}: {self.curve}."
