"""`m-of-n`: SART. The first answers are enough; the long branches are not waited for."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class MOfN(Parameterised):
    """Stops once `m` samples with a real answer have finished, whatever they say.

    Source: SART, arXiv 2505.13326.
    """

    name: ClassVar[str] = "m-of-n"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    m: int = parameter(4, minimum=1, maximum=1024, doc="samples with an answer that are enough")

    def verdict(self, votes: Votes) -> Verdict:
        """Count the arrivals."""
        if votes.answered >= self.m:
            return certain(f"{votes.answered} of {votes.cap} samples have brought an answer, {self.m} are enough")
        return going_on(f"{votes.answered} of the {self.m} answers that are enough")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops once {self.m} samples with an answer have finished."
