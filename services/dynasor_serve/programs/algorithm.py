"""What an algorithm answers: which calls should run now, how settled is the program, and what is its answer.

One module per algorithm holds its parameters (`AlgorithmParameters`) and its state (`Algorithm`); `registry` finds them
by type string. `programs.program` holds all that algorithms share (ledger, failures, cancellation, deadline) and is the
only caller.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

from dynasor_serve.certaindex.gain import gain_of_rest
from dynasor_serve.certaindex.rules.parameters import Parameterised
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.programs.budget import Reserve
from dynasor_serve.programs.calls import SAMPLE, CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Checkpointed, Probed, Rewarded
from dynasor_serve.programs.query import Branch, Query

SAMPLE_TOKENS, CHAIN_TOKENS = 512, 4096  # most completion tokens, where nobody says

Abandoned = frozenset[Branch]


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a program stands after its latest evidence."""

    verdict: Verdict
    certaindex: float  # in [0, 1]
    samples: int  # units of the knob whose evidence counts: samples, paths, rollouts, rounds, chains
    exhausted: bool  # the cap is reached and nothing is open


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The answer of a program, with the votes behind it, largest first."""

    answer: str | None
    text: str
    votes: tuple[tuple[str | None, int], ...]
    is_judged: bool = True  # False where paths are judged, and this one's turn did not come


class Algorithm(ABC):
    """How does a program spend compute? Immutable: every method returns a new value or reads this one.

    Calls are numbered: a branch is a call's number in its program, whatever the call is for. `abandoned` are those that
    failed for good; they shrink the cap. Everything follows from the events in their order, so that an owner that folds
    the same log wants the same calls.
    """

    __slots__ = ()

    shares_prefixes: ClassVar[bool] = False
    """Whether its calls go on from one another's text, so that they belong on one worker."""

    @property
    @abstractmethod
    def cap(self) -> int:
        """Most units of the knob the program ever spends."""

    @abstractmethod
    def observe(self, evidence: CallFinished) -> Self:
        """Takes one call's evidence; the caller has removed duplicates."""

    def given_up(self, branch: Branch) -> Self:
        """Takes it that a call failed for good, now; told once, and evidence may still come after all."""
        return self

    @abstractmethod
    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        """The calls that should be running now, in the order they are to start; running ones left out are cancelled."""

    def speculative(self, wanted: tuple[Branch, ...]) -> int:
        """How many of the wanted calls, the last ones, are wanted only where the pool is idle."""
        return 0

    @abstractmethod
    def assess(self, abandoned: Abandoned) -> Assessment:
        """How settled the program is, by its rule."""

    @abstractmethod
    def aggregate(self) -> Aggregate:
        """The answer with what is known now."""

    def call(self, branch: Branch) -> CallPlan:
        """What a wanted call asks."""
        return SAMPLE

    def checkpointed(self, event: Checkpointed) -> Self:
        """Takes a chain's text; the caller has removed repetitions."""
        return self

    def probed(self, event: Probed) -> Self:
        """Takes a probe's reply; the caller has removed repetitions."""
        return self

    def rewarded(self, event: Rewarded) -> Self:
        """Takes a verifier's reward."""
        return self

    def unverified(self) -> tuple[tuple[Branch, str], ...]:
        """Branches with the texts that the query's verifier is to judge."""
        return ()

    def compared(self, event: AnswersCompared) -> Self:
        """Takes the evaluator's decisions."""
        return self

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        """Pairs of canonical answers that only the evaluator can decide."""
        return ()

    @property
    def reserve(self) -> Reserve:
        """Part of the query's token budget that is kept until there is an answer."""
        return Reserve()

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """The budget is spent but for the reserve: who spends that, so that there is an answer; None where nobody can.

        Only the spender's call is wanted then, until it has ended. Asked while the reserve `wants_spender`.
        """
        return None

    def remaining(self, abandoned: Abandoned) -> int:
        """Units of the knob that the program may still spend."""
        return max(0, self.cap - self.assess(abandoned).samples - len(abandoned))

    def expected_gain(self, assessment: Assessment, remaining: int) -> float:
        """What one more unit of the knob is expected to add to the probability that the answer is right, in [0, 1].

        Asked at each arrival, so it must be cheap. It decides who goes next where places are short, and nothing else.

        Args:
            assessment: the program's latest.
            remaining: units of the knob that the program may still spend.
        """
        return gain_of_rest(assessment.certaindex, remaining)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """What the program would have spent at its cap, in completion tokens; None where that cannot be told.

        Args:
            tokens: completion tokens of the evidence that counts.
        """
        samples = self.assess(abandoned).samples
        return (self.cap - len(abandoned)) * tokens / samples if samples else None


class AlgorithmParameters(Parameterised, ABC):
    """What a user may choose of one algorithm: a frozen dataclass of `parameter` fields."""

    __slots__ = ()

    name: ClassVar[str]
    knob: ClassVar[str]
    """Its unit of compute, in the plural: `samples`."""
    watches: ClassVar[Evidence]
    """What its rule watches."""
    default_rule: ClassVar[str] = ""
    """Empty: the server's default."""
    default_max_tokens: ClassVar[int] = SAMPLE_TOKENS
    """Most completion tokens of a sample, path or chain where the query does not say."""
    takes_chain_rule: ClassVar[bool] = False
    """Whether its branches may be chains that a rule of their own stops."""
    probes_chains: ClassVar[bool] = False
    """Whether it probes chains even where the query has no rule for them."""
    needs_reward: ClassVar[bool] = False
    """Whether its paths are judged."""

    def tokens_of(self, query: Query) -> int:
        """Most completion tokens of a sample, path or chain of this query, where it does not say."""
        return CHAIN_TOKENS if query.chain_rule else self.default_max_tokens

    @abstractmethod
    def start(self, query: Query) -> Algorithm:
        """The state before anything has run.

        Raises:
            InvalidRule: the query's rule is unknown or does not watch what this algorithm shows.
            InvalidQuery: the query does not fit the algorithm otherwise.
        """
