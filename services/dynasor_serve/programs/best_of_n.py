"""Best of n: sample many solutions, judge each, take that of the best reward (Cobbe et al. 2021, arXiv 2110.14168).

Knob: samples. Certaindex: the best reward so far (arXiv 2412.20993, §3.1, R = max). Aggregation: the answer of the best
reward, or by `weighted` the answer with the largest sum of rewards. A sample is judged as soon as it is finished, and
waits for no other: `width` of them are under way until the rule's verdict, and up to `idle_width` where nobody else
wants the places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar, Self

from dynasor_serve.certaindex.gain import gain_of_best
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.rule import Evidence, VoteRule
from dynasor_serve.programs.algorithm import Abandoned, Aggregate, Algorithm, AlgorithmParameters, Assessment
from dynasor_serve.programs.budget import Reserve, sample_call
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Rewarded
from dynasor_serve.programs.judged_paths import JudgedPaths, parse_rule_over_paths
from dynasor_serve.programs.query import Branch, Query, RewardParameters, RewardSource
from dynasor_serve.programs.rewards import reward_call


@dataclass(frozen=True, slots=True)
class BestOfNParameters(AlgorithmParameters):
    """Samples many solutions, judges each and takes the best."""

    name: ClassVar[str] = "best-of-n"
    knob: ClassVar[str] = "samples"
    watches: ClassVar[Evidence] = Evidence.VOTES
    # The paper's threshold on the best reward (Rebase, GSM8K), once the first wave of samples is judged.
    default_rule: ClassVar[str] = "reward-threshold:max=0.99,detect=4"
    needs_reward: ClassVar[bool] = True
    max_samples: int = parameter(16, minimum=1, maximum=1024, doc="the cap: most samples drawn")
    width: int = parameter(4, minimum=1, maximum=1024, doc="most samples under way at once, their judging included")
    idle_width: int = parameter(
        0, minimum=0, maximum=1024, doc="most samples under way where the pool is idle; below `width`: `width`"
    )
    weighted: int = parameter(0, minimum=0, maximum=1, doc="1 sums the rewards of equal answers, 0 takes the best one")

    def start(self, query: Query) -> BestOfN:
        """See `AlgorithmParameters.start`."""
        rule = parse_rule_over_paths(query.rule)
        return BestOfN(
            parameters=self,
            rule=rule,
            reward=query.reward or RewardParameters(),
            judged=JudgedPaths.start(query.answer_type),
            sample=sample_call(query),
            reserve=Reserve.of(query),
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A finished sample."""

    answer: str | None
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class BestOfN(Algorithm):
    """The state of one best-of-n program.

    Calls 0 to `max_samples` - 1 are the samples; call `max_samples` + i judges sample i.
    """

    parameters: BestOfNParameters
    rule: VoteRule
    reward: RewardParameters
    judged: JudgedPaths
    sample: CallPlan
    reserve: Reserve
    samples: Mapping[int, Sample] = field(default_factory=dict)  # finished, in order of arrival
    lost: frozenset[int] = frozenset()  # samples that were given up
    sample_tokens: int = 0  # completion tokens of the finished samples
    judging_tokens: int = 0  # completion tokens of the calls that judged

    @property
    def cap(self) -> int:
        return self.parameters.max_samples

    # --- what should run ---

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        """Judging first: it is short, and a sample counts only then."""
        if self.reserve.spender is not None:
            return (Branch(self.reserve.spender),)
        judged = frozenset(self.judged.paths)
        calls = (self._call_of(sample) for sample in range(self.cap) if sample not in judged)
        widest = max(self.parameters.width, self.parameters.idle_width)
        free = max(0, widest - len(self.unverified()))  # those that await the verifier are under way, too
        return tuple(
            sorted(islice((call for call in calls if call is not None), free), key=lambda call: call < self.cap)
        )

    def speculative(self, wanted: tuple[Branch, ...]) -> int:
        return min(len(wanted), max(0, len(wanted) + len(self.unverified()) - self.parameters.width))

    def call(self, branch: Branch) -> CallPlan:
        is_judging, sample = divmod(branch, self.cap)
        return reward_call(self.reward, self.samples[sample].text, is_complete=True) if is_judging else self.sample

    def unverified(self) -> tuple[tuple[Branch, str], ...]:
        if self.reward.source is not RewardSource.VERIFIER:
            return ()
        judged = frozenset(self.judged.paths)
        return tuple((Branch(number), sample.text) for number, sample in self.samples.items() if number not in judged)

    # --- what has happened ---

    def observe(self, evidence: CallFinished) -> Self:
        is_judging, number = divmod(evidence.branch, self.cap)
        if is_judging:
            counted = replace(self, judging_tokens=self.judging_tokens + evidence.tokens)
            return counted.with_reward(number, evidence.reward or 0.0)
        return replace(
            self,
            samples={**self.samples, number: Sample(evidence.answer, evidence.text, evidence.tokens)},
            lost=self.lost - {number},
            sample_tokens=self.sample_tokens + evidence.tokens,
            reserve=self.reserve.settled(number, is_answered=evidence.answer is not None),
        )

    def rewarded(self, event: Rewarded) -> Self:
        return self.with_reward(event.branch, event.reward)

    def given_up(self, branch: Branch) -> Self:
        is_judging, number = divmod(branch, self.cap)
        if is_judging:
            return self.with_reward(number, 0.0)
        reserve = self.reserve.settled(number, is_answered=False)
        return replace(self, lost=self.lost | {number}, reserve=reserve)

    def compared(self, event: AnswersCompared) -> Self:
        return replace(self, judged=self.judged.compared(event))

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """One sample goes on: the first, which began before the others. An answer needs no judging."""
        number = next((number for number in range(self.cap) if number not in self.samples.keys() | self.lost), None)
        if not self.reserve.wants_spender or number is None:
            return None
        return replace(self, reserve=self.reserve.spent_by(number))

    # --- how it stands ---

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.judged.clusters.questions()

    def assess(self, abandoned: Abandoned) -> Assessment:
        votes = self.judged.votes(self.cap - len(self.lost))
        return Assessment(
            verdict=self.rule.verdict(votes),
            certaindex=votes.best_reward or 0.0,
            samples=votes.finished,
            exhausted=votes.remaining <= 0 and not self.open_comparisons(),
        )

    def aggregate(self) -> Aggregate:
        chosen = self.judged.heaviest() if self.parameters.weighted else self.judged.best()
        votes = self.judged.clusters.ranked()
        if chosen is not None and chosen.answer is not None:
            return Aggregate(chosen.answer, self.samples[chosen.path].text, votes)
        answered = next((sample for sample in self.samples.values() if sample.answer is not None), None)
        if answered is not None:  # stopped before it was judged
            return Aggregate(answered.answer, answered.text, votes, is_judged=False)
        return Aggregate(None, self.samples[chosen.path].text if chosen else "", votes)

    def remaining(self, abandoned: Abandoned) -> int:
        return self.cap - len(self.lost) - self.judged.count

    def expected_gain(self, assessment: Assessment, remaining: int) -> float:
        return gain_of_best(assessment.certaindex, assessment.samples, remaining)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Every sample that is left costs what one has cost on average, and so does judging it."""
        if not self.samples:
            return None
        drawn, judged = len(self.samples), self.judged.count
        cap = self.cap - len(self.lost)
        sampling = self.sample_tokens / drawn * (cap - drawn)
        judging = self.judging_tokens / judged * (cap - judged) if judged else 0.0
        return tokens + sampling + judging

    # --- steps ---

    def with_reward(self, number: int, reward: float) -> Self:
        """Takes a sample's reward; the first holds."""
        if number in self.judged.paths or number not in self.samples:
            return self
        sample = self.samples[number]
        return replace(self, judged=self.judged.with_judged(number, sample.answer, reward, sample.tokens))

    def _call_of(self, number: int) -> Branch | None:
        """The call that a sample needs now that is not judged; None where it needs none of an engine."""
        if number in self.samples:
            return None if self.reward.source is RewardSource.VERIFIER else Branch(self.cap + number)
        return None if number in self.lost else Branch(number)
