"""`default`: the project's own rule. Will another answer still win, as votes like this one went before?"""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.agreement_forecast import overturn_bound
from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes

_FEWEST_SAMPLES = 2  # one agrees with nobody: all that is known of it is the prior


@dataclass(frozen=True, slots=True)
class Default(Parameterised):
    """Stops when another answer wins at the cap with a probability of at most `risk`, by the pool's own history.

    Judged after each sample from the second on. Rivals in `undecided` clusters may turn out equal, so they are taken
    for one. What the other parameters mean, and how they are fitted: `agreement_forecast`.

    Source: this project, docs/default-rules.md.
    """

    name: ClassVar[str] = "default"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    risk: float = parameter(0.05, minimum=0, maximum=0.5, doc="most probability of another winner that stops")
    concentration: float = parameter(
        0.063, minimum=0.001, maximum=50, doc="how much answers scatter, at the median question"
    )
    spread: float = parameter(3.25, minimum=0.1, maximum=10, doc="standard deviation of its logarithm over questions")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        leader = votes.leader
        if leader is None or votes.finished < _FEWEST_SAMPLES:
            return going_on(f"too little to judge in {votes.finished} of {votes.cap} samples")
        sizes = votes.answer_sizes
        if votes.undecided:
            _merge(sizes, [label for label in sizes if label in votes.undecided and label != leader])
        at, lost = [*sizes].index(leader), votes.finished - votes.answered
        bound = overturn_bound((*sizes.values(),), at, lost, votes.remaining, self.concentration, self.spread)
        score = f"{sizes[leader]} votes of {votes.finished} samples, {votes.remaining} to come"
        if bound <= self.risk:
            return certain(f"another answer wins with probability {bound:.4f} ≤ {self.risk:g}: {score}")
        return going_on(f"another answer wins with probability {bound:.4f} > {self.risk:g}: {score}")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops when another answer wins at the cap with a probability of at most {self.risk:g}."


def _merge(sizes: dict[int, int], labels: list[int]) -> None:
    """Count the answers of these labels as one, seen when the first of them was."""
    for label in labels[1:]:
        sizes[labels[0]] += sizes.pop(label)
