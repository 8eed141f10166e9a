"""`dynamic-curve`: the paper's skyline, read again at each arrival."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, curve_parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.rules.step_curve import StepCurve
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class DynamicCurve(Parameterised):
    """Stops once no more samples are allowed than have finished, by a falling curve read at the H̃ of all of them.

    The limit falls as answers agree and rises as they disagree. The curve belongs to the programs and the cap that it
    was fitted on (`profiler`); the default's are named in docs/rules.md.

    Source: arXiv 2412.20993, section 3.2 (b) and table 4 ("Dynamic Curve Fitting").
    """

    name: ClassVar[str] = "dynamic-curve"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    curve: StepCurve = curve_parameter(  # noqa: RUF009 (a curve is frozen)
        StepCurve(((0.689, 4), (0.692, 3))), doc="the most samples by H̃; the cap below its first level"
    )

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        if votes.leader is None:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples")
        certainty = votes.certaindex
        limit = self.curve.most_samples(certainty)
        if limit is None:
            return going_on(f"H̃ {certainty:.2f} after {votes.finished} of {votes.cap} samples is below the curve")
        score = f"H̃ {certainty:.2f} allows {limit} of {votes.cap} samples, {votes.finished} have finished"
        return certain(score) if votes.finished >= limit else going_on(score)

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops after as many samples as a curve allows for the H̃ so far: {self.curve}."
