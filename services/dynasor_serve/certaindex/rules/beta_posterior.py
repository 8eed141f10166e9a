"""`beta-posterior`: Adaptive-Consistency. How probable is it that the leader really beats the runner-up?"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from dynasor_serve.certaindex.rules.parameters import Parameterised, parameter
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict, certain, going_on
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class BetaPosterior(Parameterised):
    """Stops when P(Beta(v1 + 1, v2 + 1) > 1/2) reaches `confidence`; v1, v2: votes of the two top answers.

    Judged after each sample. At 0.95 it takes 4 equal answers, or 7 against 1.

    Source: Adaptive-Consistency, arXiv 2305.11860, section 3 (the Beta approximation).
    """

    name: ClassVar[str] = "beta-posterior"
    watches: ClassVar[frozenset[Evidence]] = frozenset({Evidence.VOTES})
    confidence: float = parameter(
        0.95, minimum=0.5, maximum=1, exclusive=("minimum", "maximum"), doc="least probability that stops"
    )

    def verdict(self, votes: Votes) -> Verdict:
        """Judge all arrivals."""
        first, second = votes.top_two
        if first == 0:
            return going_on(f"no answer in {votes.finished} of {votes.cap} samples")
        probability = lead_probability(first, second)
        score = f"{first}:{second} votes after {votes.finished} of {votes.cap} samples"
        if probability >= self.confidence:
            return certain(f"leader ahead with probability {probability:.3f} ≥ {self.confidence:g}, {score}")
        return going_on(f"leader ahead with probability {probability:.3f} < {self.confidence:g}, {score}")

    def describe(self) -> str:
        """Return the rule in words."""
        return f"Stops when the leader beats the runner-up with probability {self.confidence:g} (Beta posterior)."


@lru_cache(maxsize=4096)
def lead_probability(first: int, second: int) -> float:
    """Return P(Beta(first + 1, second + 1) > 1/2), correctly rounded, for two vote counts.

    For whole numbers it is a binomial tail: with n = first + second + 1 fair coins, the probability of at most `first`
    heads. The sum runs over the shorter tail in integers.
    """
    coins = first + second + 1
    shorter = min(first, second)
    term = tail = 1
    for heads in range(shorter):
        term = term * (coins - heads) // (heads + 1)
        tail += term
    total: int = 1 << coins
    return (total - tail if first >= second else tail) / total
