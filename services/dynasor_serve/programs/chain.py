"""One long chain of thought, as far as it is known: its text, the answers that probes read from it, and its end.

A part of the algorithms that think in chains (`chain_of_thought`, `self_consistency`). A chain is thought in one call,
whose text is checkpointed. It ends by itself, or its rule settles it; where it ran out of tokens, or where the user
wants prose, a second call closes the thinking and writes the answer down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.rules.rule import ChainRule
from dynasor_serve.certaindex.trials import Trials
from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.programs.calls import CHECKPOINT_TOKENS, CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Checkpointed, Probed
from dynasor_serve.programs.probe_prompts import watch
from dynasor_serve.programs.query import ProbeParameters

_SHORTEST_CHECKPOINT = 16  # tokens
_ASK_FOR_ANSWER = "\n\n**Final Answer**\n\\boxed{"


@dataclass(frozen=True, slots=True)
class ChainShape:
    """What all chains of a program share.

    Attributes:
        rule: settles a chain.
        probe: how it is probed.
        max_tokens: of the chain and its conclusion together.
        answer_tokens: kept of those for the conclusion.
        writes_prose: a chain that its rule settled gets a conclusion too.
        token_window: see `CallPlan`.
    """

    rule: ChainRule
    probe: ProbeParameters
    max_tokens: int
    answer_tokens: int
    writes_prose: bool = False
    token_window: int = 0

    @property
    def thinking_tokens(self) -> int:
        """Most tokens that the thinking may have."""
        return self.max_tokens - self.answer_tokens


@dataclass(frozen=True, slots=True)
class Chain:
    """The state of one chain."""

    shape: ChainShape
    clusters: AnswerClusters  # of the probes' answers
    trials: Trials  # the evidence of its rule: one per probe
    answers: tuple[str | None, ...] = ()  # of each probe, as read
    parts: tuple[str, ...] = ()  # of its text, see `_joined`
    position: int = 0  # tokens of the text
    settled: Verdict | None = None  # the rule's, once it stops the chain
    is_cut: bool = False  # the thinking ended for want of tokens
    is_complete: bool = False  # nothing more is asked of the engine
    answer: str | None = None  # once complete
    lowest_confidence: float | None = None  # of a group of tokens so far

    @classmethod
    def start(cls, shape: ChainShape, answer_type: AnswerType) -> Self:
        trials = Trials(labels=(), positions=(), confidences=(), hesitant=(), limit=shape.max_tokens)
        return cls(shape=shape, clusters=AnswerClusters.empty(answer_type), trials=trials)

    @property
    def text(self) -> str:
        """What it has said."""
        return "".join(self.parts)

    @property
    def is_thinking(self) -> bool:
        """Whether its first call should run."""
        return not (self.is_complete or self.is_cut or self.settled)

    @property
    def is_concluding(self) -> bool:
        """Whether its second call should run."""
        return not self.is_complete and not self.is_thinking

    @property
    def ending(self) -> str:
        """How the thinking ended, where no rule ended it."""
        return f"{self.position} tokens of thinking{', cut off' if self.is_cut else ''}"

    @property
    def trial_answer(self) -> str | None:
        """The answer of the last probe that counts; None where none does."""
        pairs = zip(reversed(self.answers), reversed(self.trials.hesitant), reversed(self.clusters.labels), strict=True)
        return next((answer for answer, hesitates, label in pairs if label is not None and not hesitates), None)

    @property
    def certaindex(self) -> float:
        """How settled the chain is, in [0, 1], by its rule's measure."""
        return self.shape.rule.certaindex(self.trials)

    def thinking_call(self) -> CallPlan:
        """The call that thinks; after a crash from where the text is durable."""
        shape = self.shape
        watched = watch(shape.probe, shape.rule.schedule, self.position)
        if shape.token_window:  # whoever prunes by the confidence of such groups must hear of each
            tokens = min(CHECKPOINT_TOKENS, max(_SHORTEST_CHECKPOINT, shape.token_window))
            watched = replace(watched, checkpoint_tokens=tokens)
        return CallPlan(
            continuation=self.text,
            max_tokens=max(1, shape.thinking_tokens - self.position),
            watch=watched,
            token_window=shape.token_window,
        )

    def concluding_call(self) -> CallPlan:
        """The call that closes the thinking and writes the answer down."""
        answer = self.trial_answer if self.settled else None
        if answer is None:
            suffix, opened_box = _ASK_FOR_ANSWER, True
        else:
            suffix, opened_box = f"The final answer is \\boxed{{{answer}}}.\n\n", False
        return CallPlan(
            continuation=self.text,
            closes_thinking=True,
            suffix=suffix,
            opened_box=opened_box,
            max_tokens=self.shape.answer_tokens,
            text_is_evidence=False,
        )

    def checkpointed(self, event: Checkpointed) -> Self:
        """Takes more of its text."""
        lowest = _lower(self.lowest_confidence, event.confidence)
        return replace(self, parts=_joined(self.parts, event.text), position=event.position, lowest_confidence=lowest)

    def probed(self, event: Probed) -> Self:
        """Takes a probe's reply; one that comes after the end of the thinking changes nothing."""
        if not self.is_thinking:
            return self
        clusters, trials = self.clusters.add(event.answer), self.trials
        trials = replace(
            trials,
            labels=clusters.labels,
            positions=(*trials.positions, event.position),
            confidences=(*trials.confidences, event.confidence),
            hesitant=(*trials.hesitant, event.is_hesitant),
            undecided=clusters.undecided,
        )
        return replace(self, clusters=clusters, trials=trials, answers=(*self.answers, event.answer)).judged()

    def compared(self, event: AnswersCompared) -> Self:
        """Takes the evaluator's decisions."""
        clusters = self.clusters.decided(event.equal, event.unequal)
        if clusters is self.clusters:
            return self
        trials = replace(self.trials, labels=clusters.labels, undecided=clusters.undecided)
        return replace(self, clusters=clusters, trials=trials).judged()

    def finished(self, event: CallFinished) -> Self:
        """Takes the end of its thinking."""
        thought = replace(
            self,
            parts=_joined(self.parts, event.text),
            position=self.position + event.tokens,
            lowest_confidence=_lower(self.lowest_confidence, event.confidence),
        )
        if event.finish_reason == "length" and self.shape.answer_tokens:
            return replace(thought, is_cut=True)
        return replace(thought, is_complete=True, answer=event.answer)

    def concluded(self, event: CallFinished) -> Self:
        """Takes the end of its conclusion. What the rule settled stands, whatever the prose says."""
        turn = self.concluding_call().turn()
        answer = self.trial_answer if self.settled else event.answer or self.trial_answer
        return replace(self, parts=(turn, event.text), is_complete=True, answer=answer)

    def cut(self) -> Self:
        """Ends the thinking where it is, for want of tokens."""
        return replace(self, is_cut=True)

    def given_up(self) -> Self:
        """Ends it without another call: with the last probe's answer, if any."""
        return replace(self, is_complete=True, answer=self.trial_answer)

    def judged(self) -> Self:
        """Asks the rule."""
        if not self.is_thinking:
            return self
        verdict = self.shape.rule.verdict(self.trials)
        if not verdict.stops:
            return self
        settled = replace(self, settled=verdict)
        if self.shape.writes_prose and self.shape.answer_tokens:
            return settled
        return replace(settled, is_complete=True, answer=self.trial_answer)


def _joined(parts: tuple[str, ...], text: str) -> tuple[str, ...]:
    """A text with more behind it, in parts that are each more than twice as long as the next.

    So a character is copied once for each doubling of what follows it, not once for each checkpoint.
    """
    while parts and len(parts[-1]) <= 2 * len(text):
        parts, text = parts[:-1], parts[-1] + text
    return (*parts, text)


def _lower(first: float | None, second: float | None) -> float | None:
    """The lower of two confidences, as far as they are known: an attempt does not make up for an earlier one."""
    known = [confidence for confidence in (first, second) if confidence is not None]
    return min(known, default=None)
