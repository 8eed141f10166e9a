"""Chain of thought: one long chain, probed while it grows (arXiv 2412.20993v2, §2 and App. B).

Knob: decoded tokens. Certaindex: what its rule measures, the agreement or the confidence of the latest probes.
Aggregation: the chain's own answer, or that of the last probe that counts where it was stopped. The probes run beside
the one stream, so nothing is read again chunk by chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.registry import parse_chain_rule
from dynasor_serve.certaindex.rules.rule import Evidence
from dynasor_serve.certaindex.verdict import going_on
from dynasor_serve.programs.algorithm import (
    CHAIN_TOKENS,
    Abandoned,
    Aggregate,
    Algorithm,
    AlgorithmParameters,
    Assessment,
)
from dynasor_serve.programs.budget import Reserve, tokens_of_one
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.chain import Chain, ChainShape
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Checkpointed, Probed
from dynasor_serve.programs.query import Branch, InvalidQuery, Query

_THINKING, _CONCLUDING = Branch(0), Branch(1)


@dataclass(frozen=True, slots=True)
class ChainOfThoughtParameters(AlgorithmParameters):
    """Thinks in one long chain; probes ask it for its answer on the way."""

    name: ClassVar[str] = "chain-of-thought"
    knob: ClassVar[str] = "tokens"
    watches: ClassVar[Evidence] = Evidence.CHAIN
    default_rule: ClassVar[str] = "trial-confidence:threshold=0.99,repeats=3"
    default_max_tokens: ClassVar[int] = CHAIN_TOKENS
    probes_chains: ClassVar[bool] = True
    answer_tokens: int = parameter(
        64, minimum=0, maximum=100_000, doc="tokens kept for writing an answer down when the thinking runs out of them"
    )
    prose: int = parameter(0, minimum=0, maximum=1, doc="1 writes a final answer out after an early stop")

    def start(self, query: Query) -> ChainOfThought:
        """See `AlgorithmParameters.start`."""
        max_tokens = tokens_of_one(query)
        shape = ChainShape(
            rule=parse_chain_rule(query.rule),
            probe=query.probe,
            max_tokens=max_tokens,
            answer_tokens=self.answer_tokens,
            writes_prose=bool(self.prose),
        )
        if shape.thinking_tokens < 1:
            wrong = f"is {self.answer_tokens}, and the chain has {max_tokens} tokens in all"
            raise InvalidQuery("algorithm.answer_tokens", wrong, "give fewer, or larger bounds (sampling, budget)")
        return ChainOfThought(Chain.start(shape, query.answer_type))


@dataclass(frozen=True, slots=True)
class ChainOfThought(Algorithm):
    """The state of one chain-of-thought program."""

    chain: Chain

    @property
    def cap(self) -> int:
        return self.chain.shape.max_tokens

    @property
    def reserve(self) -> Reserve:
        return Reserve(self.chain.shape.answer_tokens) if self.chain.is_thinking else Reserve(spender=_CONCLUDING)

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        wanted = {_THINKING: self.chain.is_thinking, _CONCLUDING: self.chain.is_concluding}
        return tuple(branch for branch, is_wanted in wanted.items() if is_wanted and branch not in abandoned)

    def call(self, branch: Branch) -> CallPlan:
        return self.chain.thinking_call() if branch == _THINKING else self.chain.concluding_call()

    def observe(self, evidence: CallFinished) -> Self:
        thought = evidence.branch == _THINKING
        return replace(self, chain=self.chain.finished(evidence) if thought else self.chain.concluded(evidence))

    def checkpointed(self, event: Checkpointed) -> Self:
        return replace(self, chain=self.chain.checkpointed(event))

    def probed(self, event: Probed) -> Self:
        return replace(self, chain=self.chain.probed(event))

    def compared(self, event: AnswersCompared) -> Self:
        return replace(self, chain=self.chain.compared(event))

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.chain.clusters.questions() if self.chain.is_thinking else ()

    def hastened(self, abandoned: Abandoned) -> Self | None:
        return replace(self, chain=self.chain.cut()) if self.reserve.tokens else None

    def assess(self, abandoned: Abandoned) -> Assessment:
        chain = self.chain
        is_lost = (_THINKING if chain.is_thinking else _CONCLUDING) in abandoned and not chain.is_complete
        if is_lost and chain.trial_answer is not None:
            chain = chain.given_up()  # with what the probes say
        if chain.settled is not None and chain.is_complete:
            verdict = chain.settled
        elif chain.settled is not None:
            verdict = going_on(f"{chain.settled.reason}; the answer is being written down")
        else:
            verdict = chain.shape.rule.verdict(chain.trials) if chain.is_thinking else going_on(chain.ending)
        return Assessment(
            verdict=verdict,
            certaindex=chain.certaindex,
            samples=int(chain.is_complete),
            exhausted=(chain.is_complete and chain.settled is None) or is_lost,
        )

    def aggregate(self) -> Aggregate:
        chain = self.chain if self.chain.is_complete else self.chain.given_up()
        return Aggregate(answer=chain.answer, text=chain.text, votes=chain.clusters.ranked())

    def remaining(self, abandoned: Abandoned) -> int:
        """One chain, which may be as long as the cap."""
        return int(not self.chain.is_complete)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Known only of a chain that ran to its end: how long another would have been, nobody can tell."""
        return float(self.chain.position) if self.chain.is_complete and self.chain.settled is None else None
