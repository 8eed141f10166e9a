"""A tree of partial solutions: each node one step, stored once, with the calls that say it and judge it.

A part of `rebase` and `mcts`, which decide where it grows. A step ends at a blank line. A path is the steps from the
root down; it is complete where the model ended by itself, where it announced its answer, or where it has no tokens or
no steps left.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Self

from dynasor_serve.certaindex.answers import AnswerType, extract_announced
from dynasor_serve.programs.budget import tokens_of_one
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import CallFinished
from dynasor_serve.programs.growing import GrowingList
from dynasor_serve.programs.query import InvalidQuery, Query, RewardParameters, RewardSource
from dynasor_serve.programs.rewards import reward_call

# Chat models part their steps by blank lines unasked, and process reward models are trained on steps so parted
# (github huggingface/search-and-learn stops there too). The authors of Rebase stop at "Step 2", which only models that
# were tuned to number their steps write.
STEP_END: Final = "\n\n"


@dataclass(frozen=True, slots=True)
class TreeShape:
    """What all nodes of a program share.

    Attributes:
        answer_type: of the answers that steps announce.
        reward: who judges.
        stop: the query's own stop strings, which end a path.
        max_tokens: most completion tokens of a path, no more than the whole budget.
        step_tokens: most completion tokens of a step.
        max_depth: most steps of a path.
    """

    answer_type: AnswerType
    reward: RewardParameters
    stop: tuple[str, ...]
    max_tokens: int
    step_tokens: int
    max_depth: int

    @classmethod
    def of(cls, query: Query, *, step_tokens: int, max_depth: int) -> Self:
        """The shape that a query asks for.

        Raises:
            InvalidQuery: a step may be longer than a path, or a stop string can never be seen.
        """
        max_tokens = query.sampling.max_tokens
        if step_tokens > max_tokens:
            wrong = f"is {step_tokens}, and a path has {max_tokens} tokens in all"
            raise InvalidQuery("algorithm.step_tokens", wrong, "give fewer, or a larger sampling.max_tokens")
        for text in query.sampling.stop:
            if STEP_END in text and text != STEP_END:
                wrong = f"holds {text!r}, and a step ends at a blank line before it is complete"
                raise InvalidQuery("sampling.stop", wrong, "give strings without a blank line inside")
        return cls(
            answer_type=query.answer_type,
            reward=query.reward or RewardParameters(),
            stop=query.sampling.stop,
            max_tokens=tokens_of_one(query),
            step_tokens=step_tokens,
            max_depth=max_depth,
        )


@dataclass(frozen=True, slots=True)
class Node:
    """One step.

    Attributes:
        parent: the number of the step before; None where it begins the solution.
        depth: steps of its path, this one included.
        text: of this step alone; None until it is said.
        tokens: completion tokens of its path, once it is said.
        is_complete: nothing follows it.
        answer: of its path, once that is complete; None where it has none.
        is_lost: it was given up before it was said.
        reward: in [0, 1]; None until it is judged.
    """

    parent: int | None
    depth: int
    text: str | None = None
    tokens: int = 0
    is_complete: bool = False
    answer: str | None = None
    is_lost: bool = False
    reward: float | None = None

    @property
    def awaits_text(self) -> bool:
        """Whether it is still to be said."""
        return self.text is None and not self.is_lost

    @property
    def awaits_reward(self) -> bool:
        """Whether it is said and still to be judged."""
        return self.text is not None and self.reward is None

    @property
    def is_known(self) -> bool:
        """Whether nothing more will be heard of it."""
        return not (self.awaits_text or self.awaits_reward)


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes in the order that they were asked for; a node's place is its number. The root, the query, is None."""

    shape: TreeShape
    nodes: GrowingList[Node] = field(default_factory=GrowingList)

    def path(self, number: int | None) -> str:
        """The text from the root to the end of a node that is said."""
        return "".join(reversed([self.nodes[step].text or "" for step in self.steps(number)]))

    def steps(self, number: int | None) -> list[int]:
        """The nodes from this one up to the first step."""
        steps = []
        while number is not None:
            steps.append(number)
            number = self.nodes[number].parent
        return steps

    def tokens(self, number: int | None) -> int:
        """Completion tokens from the root to the end of a node that is said."""
        return 0 if number is None else self.nodes[number].tokens

    def reward(self, number: int | None) -> float:
        """Of a node; 0 of one that is not judged, and of the root."""
        return 0.0 if number is None else self.nodes[number].reward or 0.0

    def step_tokens(self) -> int:
        """Completion tokens of all steps that are said, each counted once."""
        return sum(node.tokens - self.tokens(node.parent) for node in self.nodes if node.text is not None)

    # --- what is asked ---

    def step_call(self, number: int, *, to_the_end: bool = False) -> CallPlan:
        """The call that says a node.

        Args:
            to_the_end: it says all that is left of the solution, not one step of it.
        """
        parent = self.nodes[number].parent
        left = self.shape.max_tokens - self.tokens(parent)
        if to_the_end:
            return CallPlan(continuation=self.path(parent), max_tokens=left)
        return CallPlan(
            continuation=self.path(parent),
            max_tokens=min(self.shape.step_tokens, left),
            stop=tuple(dict.fromkeys((*self.shape.stop, STEP_END))),
            keeps_stop=True,
        )

    def judging_call(self, number: int) -> CallPlan:
        """The call that judges a node that is said. Verifiers judge complete paths only: others the model judges."""
        reward, is_complete = self.shape.reward, self.nodes[number].is_complete
        if reward.source is RewardSource.VERIFIER:
            reward = replace(reward, source=RewardSource.OWN)
        return reward_call(reward, self.path(number), is_complete=is_complete)

    def awaits_verifier(self, number: int) -> bool:
        """Whether the query's verifier is to judge a node, and has not."""
        node = self.nodes[number]
        return node.awaits_reward and node.is_complete and self.shape.reward.source is RewardSource.VERIFIER

    # --- what has happened ---

    def grown(self, parent: int | None, count: int) -> Self:
        """Adds children that are still to be said."""
        depth = 1 if parent is None else self.nodes[parent].depth + 1
        return replace(self, nodes=self.nodes.extended((Node(parent, depth),) * count))

    def said(self, number: int, evidence: CallFinished, *, to_the_end: bool = False) -> Self:
        """Takes a node's text. A path that was cut off without an answer is no solution: its reward is 0, unasked."""
        node = self.nodes[number]
        text = step_text(evidence)
        answer, ended = solution(self.path(node.parent) + text, evidence, self.shape)
        tokens = self.tokens(node.parent) + evidence.tokens
        is_complete = ended or to_the_end or tokens >= self.shape.max_tokens
        return self._with(
            number,
            replace(
                node,
                text=text,
                tokens=tokens,
                is_complete=is_complete,
                answer=answer,
                reward=0.0 if is_complete and not ended else None,
            ),
        )

    def judged(self, number: int, reward: float) -> Self:
        """Takes a node's reward; the first holds."""
        node = self.nodes[number]
        return self._with(number, replace(node, reward=reward)) if node.awaits_reward else self

    def lost(self, number: int) -> Self:
        """Takes it that a node will never be said."""
        node = self.nodes[number]
        return self._with(number, replace(node, is_lost=True)) if node.awaits_text else self

    def _with(self, number: int, node: Node) -> Self:
        return replace(self, nodes=self.nodes.replaced(number, node))


def step_text(evidence: CallFinished) -> str:
    """What a call said: with the blank line that ends a step, without a stop string of the query."""
    if evidence.stopped_at is None or evidence.stopped_at == STEP_END:
        return evidence.text
    return evidence.text.removesuffix(evidence.stopped_at)


def solution(path: str, evidence: CallFinished, shape: TreeShape) -> tuple[str | None, bool]:
    """The answer of a path after its latest call, and whether the path has come to its end.

    It has where the model ended by itself or at a stop string of the query, or where it announced its answer; a number
    in passing announces nothing. A path that goes on, or was cut off, has no answer.
    """
    is_step = evidence.stopped_at == STEP_END and STEP_END not in shape.stop
    by_itself = evidence.finish_reason != "length" and not is_step
    ended = by_itself or extract_announced(path, shape.answer_type) is not None
    return evidence.answer if ended else None, ended
