"""Self-consistency: sample many answers, take the majority (Wang et al. 2022, arXiv 2203.11171).

Knob: samples. Certaindex: normalised answer entropy H̃ (arXiv 2412.20993, §3.1). Aggregation: majority vote; a tie goes
to the answer seen first. Branches are never waited for in lock-step: `width` of them run until the rule's verdict, and
up to `idle_width` where nobody else wants the places.

With a rule for chains its branches are long chains that are probed themselves: a chain that its rule settles, votes
with the answer it was settled on, and its stream ends there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar, Self

from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.gain import gain_of_vote
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.registry import parse_chain_rule, parse_vote_rule
from dynasor_serve.certaindex.rules.rule import Evidence, VoteRule, token_window
from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.programs.algorithm import Abandoned, Aggregate, Algorithm, AlgorithmParameters, Assessment
from dynasor_serve.programs.budget import Reserve, sample_call, tokens_of_one
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.chain import Chain, ChainShape
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Checkpointed, Probed
from dynasor_serve.programs.query import Branch, InvalidQuery, ProbeParameters, Query


@dataclass(frozen=True, slots=True)
class SelfConsistencyParameters(AlgorithmParameters):
    """Samples many answers and takes the majority."""

    name: ClassVar[str] = "self-consistency"
    knob: ClassVar[str] = "samples"
    watches: ClassVar[Evidence] = Evidence.VOTES
    takes_chain_rule: ClassVar[bool] = True
    max_samples: int = parameter(16, minimum=1, maximum=1024, doc="the cap: most samples drawn")
    width: int = parameter(4, minimum=1, maximum=1024, doc="most samples running at once")
    idle_width: int = parameter(
        0, minimum=0, maximum=1024, doc="most samples running at once where the pool is idle; below `width`: `width`"
    )
    answer_tokens: int = parameter(
        64, minimum=0, maximum=100_000, doc="of a chain: tokens kept for writing its answer down; chains only"
    )

    def start(self, query: Query) -> SelfConsistency:
        """See `AlgorithmParameters.start`."""
        rule = parse_vote_rule(query.rule)
        window = token_window(rule)
        shape, reserve = None, Reserve.of(query)
        if query.chain_rule or window:
            # A rule that prunes branches while they run needs them checkpointed like chains, but not probed.
            shape = ChainShape(
                rule=parse_chain_rule(query.chain_rule or "even"),
                probe=query.probe if query.chain_rule else ProbeParameters(interval=0, marks=False),
                max_tokens=tokens_of_one(query),
                answer_tokens=self.answer_tokens,
                token_window=window,
            )
            if shape.thinking_tokens < 1:
                wrong = f"is {self.answer_tokens}, and a chain has {shape.max_tokens} tokens in all"
                raise InvalidQuery("algorithm.answer_tokens", wrong, "give fewer, or larger bounds (sampling, budget)")
            reserve = Reserve(self.answer_tokens) if query.max_tokens else Reserve()
        return SelfConsistency(
            parameters=self,
            rule=rule,
            clusters=AnswerClusters.empty(query.answer_type),
            # Only its answer counts: the text is shown.
            sample=replace(sample_call(query), text_is_evidence=False),
            token_window=window,
            chain_shape=shape,
            reserve=reserve,
        )


@dataclass(frozen=True, slots=True)
class SelfConsistency(Algorithm):
    """The state of one self-consistency program.

    Calls 0 to `max_samples` - 1 are the samples; call `max_samples` + i writes down the answer of chain i.
    """

    parameters: SelfConsistencyParameters
    rule: VoteRule
    clusters: AnswerClusters
    sample: CallPlan  # of a sample that is no chain
    reserve: Reserve  # of chains: for writing one's answer down
    token_window: int = 0
    chain_shape: ChainShape | None = None
    finished: frozenset[Branch] = frozenset()
    pruned: frozenset[Branch] = frozenset()
    texts: tuple[tuple[str | None, str], ...] = ()  # (answer, text) in order of arrival
    tokens: tuple[int, ...] = ()  # completion tokens, in order of arrival; of a chain those of its thinking
    confidences: tuple[float | None, ...] = ()  # lowest group confidence, in order of arrival
    running_confidences: Mapping[Branch, float] = field(default_factory=dict)
    chains: Mapping[Branch, Chain] = field(default_factory=dict)  # those that have begun

    @property
    def cap(self) -> int:
        return self.parameters.max_samples

    # --- what should run ---

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        if self.reserve.spender is not None:
            return (self._call_of(Branch(self.reserve.spender)),)
        closed = self.finished | self.pruned
        samples = (Branch(i) for i in range(self.cap))
        calls = (self._call_of(sample) for sample in samples if sample not in closed)
        widest = max(self.parameters.width, self.parameters.idle_width)
        return tuple(islice((call for call in calls if call not in abandoned), widest))

    def speculative(self, wanted: tuple[Branch, ...]) -> int:
        return max(0, len(wanted) - self.parameters.width)

    def call(self, branch: Branch) -> CallPlan:
        if self.chain_shape is None:
            return self.sample
        sample = self._sample_of(branch)
        chain = self._chain(sample)
        return chain.thinking_call() if branch == sample else chain.concluding_call()

    # --- what has happened ---

    def observe(self, evidence: CallFinished) -> Self:
        sample = self._sample_of(evidence.branch)
        if sample in self.pruned or sample in self.finished:
            return self
        if self.chain_shape is None:
            return self.voted(sample, evidence.answer, evidence.text, evidence.confidence, evidence.tokens)
        chain = self._chain(sample)
        thought = evidence.branch == sample
        return self.with_chain(sample, chain.finished(evidence) if thought else chain.concluded(evidence))

    def checkpointed(self, event: Checkpointed) -> Self:
        changed = self.with_chain(event.branch, self._chain(event.branch).checkpointed(event))
        if event.confidence is None or event.branch in self.finished:
            return changed
        lowest = min(event.confidence, self.running_confidences.get(event.branch, event.confidence))
        running = {**self.running_confidences, event.branch: lowest}
        return replace(changed, running_confidences=running).with_pruned()

    def probed(self, event: Probed) -> Self:
        if event.branch in self.finished or event.branch in self.pruned:
            return self
        return self.with_chain(event.branch, self._chain(event.branch).probed(event))

    def given_up(self, branch: Branch) -> Self:
        return replace(self, reserve=self.reserve.settled(self._sample_of(branch), is_answered=False))

    def compared(self, event: AnswersCompared) -> Self:
        changed = replace(self, clusters=self.clusters.decided(event.equal, event.unequal))
        for sample, chain in self.chains.items():
            if sample not in self.finished and sample not in self.pruned:
                changed = changed.with_chain(sample, chain.compared(event))
        return changed

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """One sample goes on: the first, which began before the others. The furthest chain writes its answer down."""
        samples = [self._sample_of(call) for call in self.wanted(abandoned)]
        if not self.reserve.wants_spender or not samples:
            return None
        if self.chain_shape is None:
            return replace(self, reserve=self.reserve.spent_by(samples[0]))
        chains = {sample: self._chain(sample) for sample in samples}
        furthest = max(samples, key=lambda sample: (chains[sample].is_concluding, chains[sample].position, -sample))
        cut = chains[furthest] if chains[furthest].is_concluding else chains[furthest].cut()
        return replace(self, chains={**self.chains, furthest: cut}, reserve=self.reserve.spent_by(furthest))

    # --- how it stands ---

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        pairs = dict.fromkeys(self.clusters.questions())
        for sample, chain in self.chains.items():
            if chain.is_thinking and sample not in self.pruned:
                pairs.update(dict.fromkeys(chain.clusters.questions()))
        return tuple(pairs)

    def assess(self, abandoned: Abandoned) -> Assessment:
        votes = self._votes(abandoned)
        return Assessment(
            verdict=self.rule.verdict(votes),
            certaindex=votes.certaindex,
            samples=votes.finished,
            exhausted=votes.remaining <= 0 and not self.clusters.questions(),
        )

    def aggregate(self) -> Aggregate:
        votes = self.clusters.ranked()
        answer = next((answer for answer, _ in votes if answer is not None), None)
        text = next((text for given, text in self.texts if given is not None and self.clusters.same(given, answer)), "")
        if answer is None:  # stopped before any chain had an answer of its own: what their probes say
            answer, text = next(
                ((chain.trial_answer, chain.text) for chain in self.chains.values() if chain.trial_answer), (None, "")
            )
        return Aggregate(answer=answer, text=text, votes=votes)

    def remaining(self, abandoned: Abandoned) -> int:
        return max(0, self._votes(abandoned).remaining)

    def expected_gain(self, assessment: Assessment, remaining: int) -> float:
        return gain_of_vote(self.clusters.labels, remaining)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Of chains only those that voted are counted on: a pruned one says little of how long it would have been.

        A chain that its rule settled is counted as long as it became, so the estimate is a low one.
        """
        if self.chain_shape is None:
            return Algorithm.cost_at_cap(self, tokens, abandoned)
        lengths = [chain.position for sample, chain in self.chains.items() if sample in self.finished]
        lost = {self._sample_of(branch) for branch in abandoned} - self.finished
        return (self.cap - len(lost)) * sum(lengths) / len(lengths) if lengths else None

    # --- steps ---

    def _votes(self, abandoned: Abandoned) -> Votes:
        lost = {self._sample_of(branch) for branch in abandoned} - self.finished
        cap = self.cap - len(lost | self.pruned)
        running = tuple(
            (branch, confidence)
            for branch, confidence in self.running_confidences.items()
            if branch not in self.finished | self.pruned | lost and branch != self.reserve.spender
        )
        confidences = self.confidences if self.token_window else ()
        return self.clusters.votes(cap, confidences=confidences, running=running, tokens=self.tokens)

    def with_pruned(self) -> Self:
        """Without the running samples that the rule prunes now."""
        verdict: Verdict = self.rule.verdict(self._votes(frozenset()))
        if verdict.kind is not VerdictKind.PRUNE:
            return self
        return replace(self, pruned=self.pruned | {Branch(branch) for branch in verdict.pruned_branches})

    def with_chain(self, sample: Branch, chain: Chain) -> Self:
        """With a chain as it is now; a complete one votes."""
        reserve = self.reserve if chain.trial_answer is None else Reserve()
        changed = replace(self, chains={**self.chains, sample: chain}, reserve=reserve)
        if chain.is_complete and sample not in self.finished:
            return changed.voted(sample, chain.answer, chain.text, chain.lowest_confidence, chain.position)
        return changed

    def voted(self, sample: Branch, answer: str | None, text: str, confidence: float | None, tokens: int) -> Self:
        """With one more vote."""
        clusters = self.clusters.add(answer)
        voted = replace(
            self,
            clusters=clusters,
            finished=self.finished | {sample},
            texts=(*self.texts, (answer, text)),
            tokens=(*self.tokens, tokens),
            confidences=(*self.confidences, confidence) if self.token_window else (),
            reserve=self.reserve.settled(sample, is_answered=clusters.labels[-1] is not None),
        )
        return voted.with_pruned() if self.token_window else voted

    def _chain(self, sample: Branch) -> Chain:
        assert self.chain_shape is not None, "only chains are asked for"
        return self.chains.get(sample) or Chain.start(self.chain_shape, self.clusters.answer_type)

    def _sample_of(self, call: Branch) -> Branch:
        return Branch(call % self.cap)

    def _call_of(self, sample: Branch) -> Branch:
        """The call that a sample needs now."""
        chain = self.chains.get(sample)
        return Branch(sample + self.cap) if chain is not None and chain.is_concluding else sample
