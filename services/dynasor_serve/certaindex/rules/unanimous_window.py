"""`unanimous-window`: ESC. A whole window of samples says the same."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class UnanimousWindow(Parameterised):
    """Stops when one of the windows of `window` arrivals, laid end to end, has one answer only.

    ESC draws a window of samples, looks at it, and draws the next: windows do not overlap, so equal answers across the
    border of two count for nothing. All whole windows are judged again each time, so answers merged late can still
    stop the program. A window with a sample that has no answer is not unanimous.

    Source: ESC, arXiv 2401.10480, section 2.
    """

    name: ClassVar[str] = "unanimous-window"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    window: int = parameter(3, minimum=2, maximum=1024, doc="samples that must agree")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge every whole window."""
        labels, size = votes.labels, self.window
        for end in range(size, len(labels) + 1, size):
            first = labels[end - size]
            if first is not None and labels[end - size : end].count(first) == size:
                return certain(f"samples {end - size + 1} to {end} of {votes.cap} have the same answer")
        return going_on(f"none of the {len(labels) // size} windows of {size} samples is unanimous")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops when a window of {self.window} samples, one behind the other, has one answer only."
