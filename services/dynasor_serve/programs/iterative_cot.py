"""Iterative chain of thought: answer, then check and refine the answer, round by round (Self-Refine, arXiv 2303.17651).

Knob: rounds. Certaindex: C_k, the agreement of the latest rounds' answers (arXiv 2412.20993v2, §3), by the rule's
window. Aggregation: the answer of the last round that counts. Rounds follow one another, so nothing runs side by side.

A round sees the query and the solution before it, not the whole history: the prompt stays as long as one solution. One
call does what Self-Refine does in two, feedback and refinement; and it does not say that there is an error, because
models that are asked for one take right answers back (arXiv 2310.01798).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.hesitation import hesitates
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.registry import parse_chain_rule
from dynasor_serve.certaindex.rules.rule import ChainRule, Evidence
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.programs.algorithm import Abandoned, Aggregate, Algorithm, AlgorithmParameters, Assessment
from dynasor_serve.programs.budget import Reserve, sample_call, tokens_of_one
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished
from dynasor_serve.programs.query import Branch, Message, Query

_REFINE: Final = (
    "Go through the solution above part by part and check whether everything in it is right; say what is not. Then "
    "give the refined solution in full, with its final answer at the end in the form that was asked for."
)


@dataclass(frozen=True, slots=True)
class IterativeCotParameters(AlgorithmParameters):
    """Answers, then checks and refines its answer round by round."""

    name: ClassVar[str] = "iterative-cot"
    knob: ClassVar[str] = "rounds"
    watches: ClassVar[Evidence] = Evidence.CHAIN
    # A round is a whole solution, so three that agree say more than three probes of one chain.
    default_rule: ClassVar[str] = "consensus-window:window=3"
    default_max_tokens: ClassVar[int] = 1024
    max_rounds: int = parameter(8, minimum=1, maximum=256, doc="the cap: most rounds, the first answer included")

    def start(self, query: Query) -> IterativeCot:
        """See `AlgorithmParameters.start`."""
        return IterativeCot(
            parameters=self,
            rule=parse_chain_rule(query.rule),
            clusters=AnswerClusters.empty(query.answer_type),
            max_tokens=tokens_of_one(query),
            first=sample_call(query),
            reserve=Reserve.of(query),
        )


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round."""

    text: str
    answer: str | None
    is_hesitant: bool
    position: int  # tokens of all rounds up to its end


@dataclass(frozen=True, slots=True)
class IterativeCot(Algorithm):
    """The state of one iterative-cot program. Call i is round i, counted from 0."""

    shares_prefixes: ClassVar[bool] = True

    parameters: IterativeCotParameters
    rule: ChainRule
    clusters: AnswerClusters  # of the rounds' answers
    max_tokens: int  # of one round
    first: CallPlan  # what the first round asks
    reserve: Reserve
    rounds: tuple[Round, ...] = ()
    is_broken: bool = False  # a round was given up, and there is nothing to go on from

    @property
    def cap(self) -> int:
        return self.parameters.max_rounds

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        return () if self._is_over else (Branch(len(self.rounds)),)

    def call(self, branch: Branch) -> CallPlan:
        shown = _without_reasoning(self.rounds[branch - 1].text) if branch else ""
        if not shown:  # the first round, or one after a round that said nothing
            return self.first
        return replace(self.first, turns=(Message("assistant", shown), Message("user", _REFINE)))

    def observe(self, evidence: CallFinished) -> Self:
        answer = evidence.answer
        latest = self.rounds[-1].position if self.rounds else -1
        ended = Round(
            text=evidence.text,
            answer=answer,
            is_hesitant=answer is not None and _is_doubted(answer, evidence.text),
            position=max(latest + 1, max(0, latest) + evidence.tokens),
        )
        clusters = self.clusters.add(answer)
        reserve = self.reserve.settled(evidence.branch, is_answered=clusters.labels[-1] is not None)
        return replace(self, rounds=(*self.rounds, ended), clusters=clusters, reserve=reserve, is_broken=False)

    def given_up(self, branch: Branch) -> Self:
        return replace(self, reserve=self.reserve.settled(branch, is_answered=False), is_broken=True)

    def compared(self, event: AnswersCompared) -> Self:
        return replace(self, clusters=self.clusters.decided(event.equal, event.unequal))

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """The round that runs goes on to its end."""
        if not self.reserve.wants_spender or self._is_over:
            return None
        return replace(self, reserve=self.reserve.spent_by(len(self.rounds)))

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.clusters.questions()

    def assess(self, abandoned: Abandoned) -> Assessment:
        trials = self._trials
        return Assessment(
            verdict=self.rule.verdict(trials),
            certaindex=self.rule.certaindex(trials),
            samples=len(self.rounds),
            exhausted=self._is_over and not self.open_comparisons(),
        )

    def aggregate(self) -> Aggregate:
        """The last round that counts; where none does, the last with an answer: doubted, but better than none."""
        votes = self.clusters.ranked()
        latest = [
            each for each, label in zip(reversed(self.rounds), reversed(self.clusters.labels), strict=True)
            if label is not None
        ]  # fmt: skip
        chosen = next((each for each in latest if not each.is_hesitant), latest[0] if latest else None)
        if chosen is not None:
            return Aggregate(chosen.answer, chosen.text, votes)
        return Aggregate(None, self.rounds[-1].text if self.rounds else "", votes)

    def remaining(self, abandoned: Abandoned) -> int:
        return 0 if self._is_over else self.cap - len(self.rounds)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Every round that is left costs what one has cost on average."""
        return tokens + self.remaining(abandoned) * tokens / len(self.rounds) if self.rounds else None

    @property
    def _is_over(self) -> bool:
        return self.is_broken or len(self.rounds) >= self.cap

    @property
    def _trials(self) -> Trials:
        """The evidence of the rule: one trial per round. Their confidences are not known."""
        return Trials(
            labels=self.clusters.labels,
            positions=tuple(each.position for each in self.rounds),
            confidences=(None,) * len(self.rounds),
            hesitant=tuple(each.is_hesitant for each in self.rounds),
            undecided=self.clusters.undecided,
            limit=self.cap * self.max_tokens,
        )


def _without_reasoning(text: str) -> str:
    """What a round said, as chat templates show earlier turns: without its reasoning, unless there is nothing else."""
    said = text.rpartition("</think>")[2].strip()
    return (said or text.strip()).removeprefix("<think>").removesuffix("</think>").strip()


def _is_doubted(answer: str, text: str) -> bool:
    """Whether a round takes its answer back in what it says behind it; the way there may hesitate as it likes."""
    places = list(re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", text))
    return hesitates(text[places[-1].end() :] if places else text.strip().rpartition("\n")[2])
