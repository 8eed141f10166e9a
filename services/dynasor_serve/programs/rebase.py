"""Reward balanced search: a tree grown step by step, whose better steps get more of its width (Wu et al. 2024).

Source: arXiv 2408.00724, and its authors' code, github thu-wyz/inference_scaling, `rebase.py` and
`hype-parameters/rebase.yaml`. Knob: paths, the width n of the tree. Certaindex: H̃ over the answers of the complete
paths (arXiv 2412.20993, §3.1); a rule sees their rewards, too. Aggregation: majority weighted by reward.

The root has n children. Of the nodes at a depth, those that complete a path leave the tree; the width that is left, B,
is shared among the others: W_i = round(B · exp(R_i / T_b) / Σ_j exp(R_j / T_b)) children for a node with reward R_i.

It waits in one place only. The shares of a depth need the rewards of all its nodes that go on, so its children start
once the last of these is judged. A step is judged as soon as it is said, and neither the judging of a complete path
nor a comparison of answers holds anything up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, floor, fsum
from typing import ClassVar, Self

from dynasor_serve.certaindex.gain import gain_of_vote
from dynasor_serve.certaindex.rules.parameters import parameter
from dynasor_serve.certaindex.rules.rule import Evidence, VoteRule
from dynasor_serve.programs.algorithm import Abandoned, Aggregate, Algorithm, AlgorithmParameters, Assessment
from dynasor_serve.programs.budget import Reserve
from dynasor_serve.programs.calls import CallPlan
from dynasor_serve.programs.events import AnswersCompared, CallFinished, Rewarded
from dynasor_serve.programs.judged_paths import JudgedPaths, parse_rule_over_paths
from dynasor_serve.programs.query import Branch, Query
from dynasor_serve.programs.tree import Tree, TreeShape

_JUDGING, _TO_THE_END = 1, 2  # what calls are for, other than saying a step


@dataclass(frozen=True, slots=True)
class RebaseParameters(AlgorithmParameters):
    """Grows a tree of solutions step by step; better steps get more of its width."""

    name: ClassVar[str] = "rebase"
    knob: ClassVar[str] = "paths"
    watches: ClassVar[Evidence] = Evidence.VOTES
    # arXiv 2412.20993, table 3 (GSM8K). It judges 16 paths, so it can stop trees that are wider than that.
    default_rule: ClassVar[str] = "static-threshold:threshold=0.85,detect=16"
    default_max_tokens: ClassVar[int] = 1024
    needs_reward: ClassVar[bool] = True
    width: int = parameter(16, minimum=1, maximum=256, doc="the cap: paths of the tree, n")
    balance: float = parameter(
        0.2, minimum=0, maximum=100, exclusive=("minimum",), doc="T_b: the higher, the more evenly width is shared"
    )
    step_tokens: int = parameter(256, minimum=1, maximum=100_000, doc="most tokens of one step")
    max_depth: int = parameter(25, minimum=1, maximum=64, doc="most steps of a path; the last runs to its end")

    def start(self, query: Query) -> Rebase:
        """See `AlgorithmParameters.start`."""
        rule = parse_rule_over_paths(query.rule)
        shape = TreeShape.of(query, step_tokens=self.step_tokens, max_depth=self.max_depth)
        return Rebase(
            parameters=self,
            rule=rule,
            judged=JudgedPaths.start(query.answer_type),
            tree=Tree(shape).grown(None, self.width),
            frontier=tuple(range(self.width)),
            unsaid=frozenset(range(self.width)),
            reserve=Reserve.of(query),
        )


@dataclass(frozen=True, slots=True)
class Rebase(Algorithm):
    """The state of one Rebase program.

    With M = `width` · `max_depth`, no fewer than the nodes there can be, call i says node i and call M + i judges it;
    call 2M + i says node i and all that follows it, where a budget leaves no more than one path.
    """

    shares_prefixes: ClassVar[bool] = True

    parameters: RebaseParameters
    rule: VoteRule
    judged: JudgedPaths  # complete paths; a path's number is that of its last node
    tree: Tree
    frontier: tuple[int, ...]  # the nodes of the depth that is being said
    unsaid: frozenset[int]  # those of them that are still to be said
    reserve: Reserve  # its spender is the last node of a path
    unjudged: frozenset[int] = frozenset()  # nodes that a call is to judge
    unverified_paths: Mapping[int, str] = field(default_factory=dict)  # node that the verifier is to judge -> its path
    lost: int = 0  # paths that were given up

    @property
    def cap(self) -> int:
        return self.parameters.width

    # --- what should run ---

    def wanted(self, abandoned: Abandoned) -> tuple[Branch, ...]:
        """Judging first: it is short, and the next depth waits for it."""
        if self.reserve.spender is not None:
            return (self._call_to_the_end(self.reserve.spender),)
        judging = [Branch(self._most_nodes + number) for number in sorted(self.unjudged)]
        return (*judging, *map(Branch, sorted(self.unsaid)))

    def call(self, branch: Branch) -> CallPlan:
        purpose, number = divmod(branch, self._most_nodes)
        if purpose == _JUDGING:
            return self.tree.judging_call(number)
        return self.tree.step_call(number, to_the_end=purpose == _TO_THE_END or self._is_last(number))

    def unverified(self) -> tuple[tuple[Branch, str], ...]:
        return tuple((Branch(number), path) for number, path in self.unverified_paths.items())

    # --- what has happened ---

    def observe(self, evidence: CallFinished) -> Self:
        purpose, number = divmod(evidence.branch, self._most_nodes)
        if purpose == _JUDGING:
            return self.with_reward(number, evidence.reward or 0.0)
        to_the_end = purpose == _TO_THE_END or self._is_last(number)
        if not self.tree.nodes[number].awaits_text:  # too late: the tree has gone on without it
            return self
        if number == self.reserve.spender and not to_the_end:  # too late: there is no going on from a step
            return self
        tree = self.tree.said(number, evidence, to_the_end=to_the_end)
        reserve = self.reserve.settled(number, is_answered=tree.nodes[number].answer is not None)
        return replace(self, tree=tree, reserve=reserve).with_said(number).advanced()

    def rewarded(self, event: Rewarded) -> Self:
        return self.with_reward(event.branch, event.reward) if self.tree.awaits_verifier(event.branch) else self

    def given_up(self, branch: Branch) -> Self:
        purpose, number = divmod(branch, self._most_nodes)
        if purpose == _JUDGING:
            return self.with_reward(number, 0.0)
        if not self.tree.nodes[number].awaits_text:
            return self
        return replace(
            self,
            tree=self.tree.lost(number),
            unsaid=self.unsaid - {number},
            lost=self.lost + 1,
            reserve=self.reserve.settled(number, is_answered=False),
        ).advanced()

    def compared(self, event: AnswersCompared) -> Self:
        return replace(self, judged=self.judged.compared(event))

    def hastened(self, abandoned: Abandoned) -> Self | None:
        """Of the paths that go on, the one of the best reward so far goes on to its end."""
        if not self.reserve.wants_spender:
            return None
        search = self
        if not search.unsaid:  # the next depth waits for rewards; those that are missing count as 0
            for number in self.unjudged:
                if not self.tree.nodes[number].is_complete:
                    search = search.with_reward(number, 0.0)
        rewards = {number: search.tree.reward(search.tree.nodes[number].parent) for number in search.unsaid}
        if not rewards:
            return None
        best = max(rewards, key=lambda number: (rewards[number], -number))
        return replace(search, reserve=self.reserve.spent_by(best))

    # --- how it stands ---

    def open_comparisons(self) -> tuple[tuple[str, str], ...]:
        return self.judged.clusters.questions()

    def assess(self, abandoned: Abandoned) -> Assessment:
        votes = self.judged.votes(self._reachable)
        return Assessment(
            verdict=self.rule.verdict(votes),
            certaindex=votes.certaindex,
            samples=votes.finished,
            exhausted=votes.remaining <= 0 and not self.open_comparisons(),
        )

    def aggregate(self) -> Aggregate:
        votes = self.judged.clusters.ranked()
        chosen = self.judged.heaviest()
        if chosen is None or chosen.answer is None:  # stopped before a path with an answer was judged
            nodes = enumerate(self.tree.nodes)
            unjudged = next((number for number, node in nodes if node.answer is not None), None)
            if unjudged is not None:
                return Aggregate(self.tree.nodes[unjudged].answer, self.tree.path(unjudged), votes, is_judged=False)
        if chosen is None:
            return Aggregate(None, "", votes)
        return Aggregate(chosen.answer, self.tree.path(chosen.path), votes)

    def remaining(self, abandoned: Abandoned) -> int:
        return self._reachable - self.judged.count

    def expected_gain(self, assessment: Assessment, remaining: int) -> float:
        """Paths vote by their rewards; here each counts as one vote."""
        return gain_of_vote(self.judged.clusters.labels, remaining)

    def cost_at_cap(self, tokens: int, abandoned: Abandoned) -> float | None:
        """Every path under way grows to the mean length of the complete ones, and is judged at the rate so far.

        Short paths are complete first, so a tree that is stopped early is taken to save less than it does.
        """
        complete = [node.tokens for node in self.tree.nodes if node.is_complete]
        said = self.tree.step_tokens()
        if not complete or not said:
            return None
        length = fsum(complete) / len(complete)
        ahead = fsum(max(0.0, length - self._path_tokens(number)) for number in self.frontier)
        return tokens * (1 + ahead / said)

    # --- steps ---

    @property
    def _most_nodes(self) -> int:
        return self.parameters.width * self.parameters.max_depth

    @property
    def _reachable(self) -> int:
        """Paths that are complete or may still be."""
        return self.cap - self.lost

    def _call_to_the_end(self, number: int) -> Branch:
        """The call that says all that is left of a path. For a last step that is the call that may run already."""
        return Branch(number if self._is_last(number) else _TO_THE_END * self._most_nodes + number)

    def _is_last(self, number: int) -> bool:
        return self.tree.nodes[number].depth == self.parameters.max_depth

    def _path_tokens(self, number: int) -> float:
        """Tokens of the path that a node of the frontier is part of; endless where it does not go on."""
        node = self.tree.nodes[number]
        if node.is_lost or node.is_complete:
            return float("inf")
        return float(self.tree.tokens(node.parent if node.text is None else number))

    def with_reward(self, number: int, reward: float) -> Self:
        """Takes a node's reward; the first holds."""
        if not self.tree.nodes[number].awaits_reward:
            return self
        judged = replace(
            self,
            tree=self.tree.judged(number, reward),
            unjudged=self.unjudged - {number},
            unverified_paths={other: path for other, path in self.unverified_paths.items() if other != number},
        )
        return judged.with_complete(number).advanced()

    def with_said(self, number: int) -> Self:
        """Has a node judged that was said, where it is not already."""
        said = replace(self, unsaid=self.unsaid - {number})
        if self.tree.awaits_verifier(number):
            return replace(said, unverified_paths={**self.unverified_paths, number: self.tree.path(number)})
        if self.tree.nodes[number].awaits_reward:
            return replace(said, unjudged=self.unjudged | {number})
        return said.with_complete(number)

    def with_complete(self, number: int) -> Self:
        """Counts the path that ends at a node, if it is complete and judged."""
        node = self.tree.nodes[number]
        if not node.is_complete or node.reward is None:
            return self
        return replace(self, judged=self.judged.with_judged(number, node.answer, node.reward, node.tokens))

    def advanced(self) -> Self:
        """Grows the next depth once the shares of this one are known."""
        if self.unsaid or not all(self.tree.nodes[number].is_complete for number in self.unjudged):
            return self
        nodes = [(number, self.tree.nodes[number]) for number in self.frontier]
        live = [number for number, node in nodes if not (node.is_lost or node.is_complete)]
        if not live:
            return self
        tree, first = self.tree, len(self.tree.nodes)
        rewards = [tree.reward(number) for number in live]
        # The width that is left is the number of paths that go on: each depth has handed out all that it had.
        for number, children in zip(live, shares(rewards, len(live), self.parameters.balance), strict=True):
            tree = tree.grown(number, children)
        frontier = range(first, len(tree.nodes))
        return replace(self, tree=tree, frontier=tuple(frontier), unsaid=frozenset(frontier))


def shares(rewards: Sequence[float], width: int, balance: float) -> tuple[int, ...]:
    """How many children each node of a depth gets; they add up to `width`.

    W_i = round(B · exp(R_i / T_b) / Σ_j exp(R_j / T_b)), arXiv 2408.00724, §3. Rounded one by one, the shares may add
    up to more or less than B; then the largest remainders decide, ties by reward and then by place. (The authors' code
    takes the ceiling of what is left from the best node on instead, which favours that one.)

    Args:
        rewards: R, one per node.
        width: B, the children to hand out.
        balance: T_b.
    """
    best = max(rewards)
    weights = [exp((reward - best) / balance) for reward in rewards]
    total = fsum(weights)
    # Rounded, so that owners whose libraries differ in the last bit agree on what ties.
    exact = [round(width * weight / total, 9) for weight in weights]
    children = [floor(share) for share in exact]
    by_remainder = sorted(range(len(rewards)), key=lambda at: (children[at] - exact[at], -rewards[at]))
    for at in by_remainder[: width - sum(children)]:
        children[at] += 1
    return tuple(children)
