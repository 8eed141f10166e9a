"""`default`: the project's own rule. Will the answer still change, as votes and chains like this one went before?"""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.agreement_forecast import overturn_bound
from dynasor_serve.certaindex.probe_schedule import REFLECTION_MARKS, ProbeSchedule
from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.trial_forecast import change_probability
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes

_FEWEST_SAMPLES = 2  # one agrees with nobody: all that is known of it is the prior


@dataclass(frozen=True, slots=True)
class Default(Parameterised):
    """Stops when the answer changes until the end with a probability of at most a risk, by how others went before.

    A vote is judged after each sample from the second on. Rivals in `undecided` clusters may turn out equal, so they
    are taken for one. What `concentration` and `spread` mean, and how they are fitted: `agreement_forecast`. A chain
    is judged at each trial, asked where one thought ends and the next begins: `trial_forecast`.

    Source: this project, docs/default-rules.md.
    """

    name: ClassVar[str] = "default"
    watches: ClassVar[frozenset[Evidence]] = frozenset(Evidence)
    risk: float = parameter(0.05, minimum=0, maximum=0.5, doc="most probability of another winner that stops a vote")
    concentration: float = parameter(
        0.063, minimum=0.001, maximum=50, doc="how much answers scatter, at the median question"
    )
    spread: float = parameter(3.25, minimum=0.1, maximum=10, doc="standard deviation of its logarithm over questions")

    chain_risk: float = parameter(
        0.12, minimum=0, maximum=0.5, doc="most probability of another answer that stops a chain"
    )

    def verdict(self, evidence: Votes | Trials) -> Verdict:
        """Judge all arrivals, or the last trial."""
        return self._of_vote(evidence) if isinstance(evidence, Votes) else self._of_chain(evidence)

    def certaindex(self, trials: Trials) -> float:
        """Return the probability that the last trial is the chain's answer; 0 where it cannot be judged."""
        change = change_probability(trials)
        return 0.0 if change is None else 1 - change

    @property
    def schedule(self) -> ProbeSchedule:
        """A probe at each mark of reflection."""
        return ProbeSchedule(marks=REFLECTION_MARKS)

    def describe(self) -> str:
        """Return the rule in words."""
        return (
            f"Stops when another answer wins at the cap with a probability of at most {self.risk:g}; a chain, when it "
            f"ends with another one with a probability of at most {self.chain_risk:g}."
        )

    def _of_vote(self, votes: Votes) -> Verdict:
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

    def _of_chain(self, trials: Trials) -> Verdict:
        change = change_probability(trials)
        if change is None:
            return going_on("the last trial has no answer, hesitates, or comes without log-probabilities")
        score = f"after {trials.count} trials, {trials.positions[-1]} tokens"
        if change <= self.chain_risk:
            return certain(f"another answer follows with probability {change:.4f} ≤ {self.chain_risk:g} {score}")
        return going_on(f"another answer follows with probability {change:.4f} > {self.chain_risk:g} {score}")


def _merge(sizes: dict[int, int], labels: list[int]) -> None:
    """Count the answers of these labels as one, seen when the first of them was."""
    for label in labels[1:]:
        sizes[labels[0]] += sizes.pop(label)
