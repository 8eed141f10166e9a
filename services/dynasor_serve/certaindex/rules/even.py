"""`even`: every program gets its cap. The baseline that savings are measured against."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised
from dynasor_serve.certaindex.verdict import Verdict, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class Even(Parameterised):
    """Never stops early (baseline-even of arXiv 2412.20993, section 4)."""

    name: ClassVar[str] = "even"

    def verdict(self, votes: Votes) -> Verdict:
        """Always `continue`."""
        return going_on(f"even spends the cap: {votes.finished} of {votes.cap} samples")

    def describe(self) -> str:
        """Return the rule in words."""
        return "Never stops early; every program spends its cap."
