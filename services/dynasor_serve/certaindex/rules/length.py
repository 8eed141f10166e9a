"""`length`: the paper's other baseline. Short answers pass for easy questions."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class Length(Parameterised):
    """Stops after the first `detect` samples if they took at most `tokens` tokens together, else spends the cap.

    Length stands in for difficulty: long answers go with questions that need more samples, though less than
    disagreement does. The direction follows from that; the paper names the signal and the step only.

    Source: arXiv 2412.20993, section 4 (baseline-length).
    """

    name: ClassVar[str] = "length"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    reads_tokens: ClassVar[bool] = True
    tokens: int = parameter(
        16_384, minimum=1, maximum=100_000_000, doc="most completion tokens, of these samples together, that stop"
    )
    detect: int = parameter(5, minimum=1, maximum=1024, doc="samples after which the tokens are counted, once")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge the first `detect` arrivals."""
        if votes.finished < self.detect:
            return going_on(f"{votes.finished} of the {self.detect} samples to judge have finished")
        if not votes.tokens:
            return going_on(f"nobody counts the tokens of the first {self.detect} of {votes.cap} samples")
        if votes.prefix(self.detect).leader is None:
            return going_on(f"no answer in the first {self.detect} of {votes.cap} samples")
        spent = sum(votes.tokens[: self.detect])
        if spent <= self.tokens:
            return certain(f"{spent} tokens ≤ {self.tokens} after {self.detect} of {votes.cap} samples")
        return going_on(f"{spent} tokens > {self.tokens} after {self.detect} samples: spends the cap of {votes.cap}")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops after {self.detect} samples if they took at most {self.tokens} tokens, else spends the cap."
