"""Which node does a rollout try out next? UCT over the nodes of a tree. A part of `mcts`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Self

from dynasor_serve.programs.rollout import Rollout, Stage
from dynasor_serve.programs.tree import Tree


@dataclass(frozen=True, slots=True)
class Selection:
    """What selection knows of the nodes at one moment; None is the root.

    Attributes:
        tree: the nodes.
        max_depth: a node as deep as that is tried out without a further step.
        exploration: w of UCT.
        visits: node -> rollouts that went through it, those under way included.
        rewards: node -> the sum of their rewards, 0 for those under way.
        expanding: nodes that are being expanded.
        children: node -> the steps that were asked for from it, in order.
    """

    tree: Tree
    max_depth: int
    exploration: float
    visits: Counter[int | None] = field(default_factory=Counter)
    rewards: defaultdict[int | None, float] = field(default_factory=lambda: defaultdict(float))
    expanding: set[int | None] = field(default_factory=set)
    children: defaultdict[int | None, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(
        cls,
        tree: Tree,
        rollouts: Iterable[Rollout],
        expanded: int,
        *,
        expansions: int,
        max_depth: int,
        exploration: float,
    ) -> Self:
        """Counts the rollouts.

        Args:
            tree, rollouts: of the search.
            expanded: expansions so far; each asked for `expansions` nodes, one behind the other.
            expansions, max_depth, exploration: as of `MctsParameters`.
        """
        selection = cls(tree, max_depth, exploration)
        for first in range(0, expanded * expansions, expansions):
            selection.children[tree.nodes[first].parent] += range(first, first + expansions)
        for rollout in rollouts:
            if rollout.stage is Stage.LOST:
                continue
            if rollout.stage is Stage.EXPANDING:
                selection.expanding.add(rollout.node)
            for node in (*tree.steps(rollout.node), None):
                selection.visits[node] += 1
                selection.rewards[node] += rollout.reward
        return selection

    def is_tried_out(self, node: int | None) -> bool:
        """Whether a rollout that comes to a node is completed from it, without a further step."""
        if node is None:
            return False
        chosen = self.tree.nodes[node]
        return chosen.is_complete or chosen.depth >= self.max_depth or not self.visits[node]

    def open_children(self, node: int | None) -> list[int]:
        """The steps from a node that another rollout may take: all but the complete ones that one has taken."""
        steps = ((number, self.tree.nodes[number]) for number in self.children[node])
        return [
            number
            for number, step in steps
            if step.reward is not None and not (step.is_complete and self.visits[number])
        ]

    def is_open(self, node: int | None) -> bool:
        """Whether a rollout can go through a node now: not where the way down ends at one that is being expanded."""
        if node in self.expanding:
            return False
        if self.is_tried_out(node):
            return True
        children = self.open_children(node)
        return not children or any(self.is_open(child) for child in children)

    def best(self, children: Iterable[int], parent: int | None) -> int:
        """The child with the largest UCT value; a tie goes to the one asked for first.

        Rounded, so that owners whose libraries differ in the last bit agree on what ties.
        """
        return max(children, key=lambda child: (round(self._uct(child, parent), 9), -child))

    def _uct(self, child: int, parent: int | None) -> float:
        visits = self.visits[child]
        mean = self.rewards[child] / visits if visits else self.tree.nodes[child].reward or 0.0
        return uct(mean, visits, self.visits[parent], self.exploration)


def uct(mean: float, visits: int, parent_visits: int, exploration: float) -> float:
    """Upper confidence bound of a node: mean + w · sqrt(ln N(parent) / max(1, N(node))).

    As in RAP, a node without a visit is explored like one with one visit: its own judgement stands for that.
    """
    return mean + exploration * sqrt(log(max(1, parent_visits)) / max(1, visits))
