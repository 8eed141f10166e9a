"""Self-consistency: sample many answers, take the majority (Wang et al. 2022, arXiv 2203.11171).

Knob: samples. Certaindex: normalised answer entropy H̃ (arXiv 2412.20993, §3.1). Aggregation: majority vote; a tie goes
to the answer seen first. Branches are never waited for in lock-step: `width` of them run until the rule's verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.rules.rule import Rule
from dynasor_serve.programs.algorithm import Aggregate, Assessment
from dynasor_serve.programs.events import AnswersCompared, CallFinished
from dynasor_serve.programs.query import Branch, SelfConsistencyParameters

NAME = "self-consistency"


@dataclass(frozen=True, slots=True)
class SelfConsistency:
    """The state of one self-consistency program."""

    parameters: SelfConsistencyParameters
    rule: Rule
    clusters: AnswerClusters
    finished: frozenset[Branch] = frozenset()
    texts: tuple[tuple[str | None, str], ...] = ()  # (answer, text) in order of arrival

    @classmethod
    def start(cls, parameters: SelfConsistencyParameters, rule: Rule, answer_type: AnswerType) -> Self:
        return cls(parameters=parameters, rule=rule, clusters=AnswerClusters.empty(answer_type))

    @property
    def name(self) -> str:
        return NAME

    @property
    def cap(self) -> int:
        return self.parameters.max_samples

    def observe(self, evidence: CallFinished) -> Self:
        return replace(
            self,
            clusters=self.clusters.add(evidence.answer),
            finished=self.finished | {evidence.branch},
            texts=(*self.texts, (evidence.answer, evidence.text)),
        )

    def compared(self, event: AnswersCompared) -> Self:
        clusters = self.clusters
        for left, right in event.equal:
            clusters = clusters.merge(left, right)
        for left, right in event.unequal:
            clusters = clusters.separate(left, right)
        return replace(self, clusters=clusters)

    def wanted(self, abandoned: frozenset[Branch]) -> tuple[Branch, ...]:
        open_branches = (Branch(i) for i in range(self.cap) if i not in self.finished and i not in abandoned)
        return tuple(branch for branch, _ in zip(open_branches, range(self.parameters.width), strict=False))

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.clusters.questions()

    def assess(self, abandoned: frozenset[Branch]) -> Assessment:
        cap = self.cap - len(abandoned)
        votes = self.clusters.votes(cap)
        return Assessment(
            verdict=self.rule.verdict(votes),
            certaindex=votes.certaindex,
            samples=votes.finished,
            exhausted=votes.finished >= cap and not self.clusters.questions(),
        )

    def aggregate(self) -> Aggregate:
        votes = self.clusters.ranked()
        answer = next((answer for answer, _ in votes if answer is not None), None)
        text = next((text for given, text in self.texts if given is not None and self.clusters.same(given, answer)), "")
        return Aggregate(answer=answer, text=text, votes=votes)
