"""`lead-by`: a race. Stops when the leader is so many votes ahead of the next answer."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class LeadBy(Parameterised):
    """Stops when the leader has `margin` votes more than any other answer.

    The classical sequential test between two answers, where the odds of an error fall by a constant factor with each
    vote of margin. Source: MAKER ("first to ahead by k"), arXiv 2511.09030.
    """

    name: ClassVar[str] = "lead-by"
    margin: int = parameter(3, minimum=1, maximum=1024, doc="votes by which the leader must be ahead")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        first, second = votes.top_two
        score = f"{first}:{second} votes after {votes.finished} of {votes.cap} samples"
        if first - second >= self.margin:
            return certain(f"the leader is {first - second} ≥ {self.margin} votes ahead, {score}")
        return going_on(f"the leader is {first - second} < {self.margin} votes ahead, {score}")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops when the leader is {self.margin} votes ahead."
