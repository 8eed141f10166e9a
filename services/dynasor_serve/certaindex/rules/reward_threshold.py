"""`reward-threshold`: the paper's test for searches that judge their paths. One check, on the rewards."""

from dataclasses import dataclass
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence, InvalidRule
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes

# The mean of 0.2, 0.4 and 0.6 is a rounding error below 0.4.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class RewardThreshold(Parameterised):
    """Stops after the first `detect` samples if their best reward reaches `max` and their mean reward `mean`.

    0 leaves a test out. The paper takes the best of Rebase and the mean of MCTS.

    Source: arXiv 2412.20993, section 3.1; settings in its table 3.
    """

    name: ClassVar[str] = "reward-threshold"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    example: ClassVar[str] = "reward-threshold:max=0.0,mean=0.4,detect=3"
    max: float = parameter(0.0, minimum=0, maximum=1, doc="least best reward that stops; 0 for any")
    mean: float = parameter(0.0, minimum=0, maximum=1, doc="least mean reward that stops; 0 for any")
    detect: int = parameter(3, minimum=1, maximum=1024, doc="samples after which the rewards are judged, once")

    def __post_init__(self) -> None:
        Parameterised.__post_init__(self)
        if not self.max and not self.mean:
            raise InvalidRule("rule.max", "neither max nor mean is given", "give one above 0, such as mean=0.4")

    def verdict(self, votes: Votes) -> Verdict:
        """Judge the first `detect` arrivals."""
        if votes.finished < self.detect:
            return going_on(f"{votes.finished} of the {self.detect} samples to judge have finished")
        judged = votes.prefix(self.detect)
        best, mean = judged.best_reward, judged.mean_reward
        if best is None or mean is None:
            return going_on(f"no rewards of the first {self.detect} of {votes.cap} samples")
        if judged.leader is None:
            return going_on(f"no answer in the first {self.detect} of {votes.cap} samples")
        tests = [
            (name, value, least)
            for name, value, least in (("best", best, self.max), ("mean", mean, self.mean))
            if least
        ]
        failed = [f"{name} reward {value:.3f} < {least:g}" for name, value, least in tests if value < least - _ROUNDING]
        if failed:
            return going_on(f"{', '.join(failed)} after {self.detect} samples: spends the cap of {votes.cap}")
        passed = ", ".join(f"{name} reward {value:.3f} ≥ {least:g}" for name, value, least in tests)
        return certain(f"{passed} after {self.detect} of {votes.cap} samples")

    def describe(self) -> str:
        """Return the rule in words."""
        wanted = [
            f"{name} reward is at least {least:g}" for name, least in (("best", self.max), ("mean", self.mean)) if least
        ]
        return f"Stops after {self.detect} samples if their {' and their '.join(wanted)}, else spends the cap."
