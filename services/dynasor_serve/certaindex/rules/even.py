"""`even`: every program gets its cap. The baseline that savings are measured against."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.probe_schedule import ProbeSchedule
from dynasor_serve.certaindex.rules.parameters import Parameterised
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict, going_on
from dynasor_serve.certaindex.votes import Votes

_WINDOW_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Even(Parameterised):
    """Never stops early (baseline-even of arXiv 2412.20993, section 4)."""

    name: ClassVar[str] = "even"
    watches: ClassVar[frozenset[Evidence]] = frozenset(Evidence)

    def verdict(self, evidence: Votes | Trials) -> Verdict:
        """Always `continue`."""
        if isinstance(evidence, Votes):
            return going_on(f"even spends the cap: {evidence.finished} of {evidence.cap} samples")
        return going_on(f"even spends the cap: {evidence.count} trial answers so far")

    def certaindex(self, trials: Trials) -> float:
        """Return the consensus of the last 4 trials, for people to see."""
        return trials.consensus(_WINDOW_TRIALS)

    @property
    def schedule(self) -> ProbeSchedule:
        """No probes: a baseline that paid for trials which cannot stop it would flatter every other rule."""
        return ProbeSchedule()

    def describe(self) -> str:
        """Return the rule in words."""
        return "Never stops early; every program spends its cap."
