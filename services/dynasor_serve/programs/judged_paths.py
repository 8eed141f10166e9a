"""Complete paths with their rewards: the evidence of the programs that judge, and how they choose an answer from it.

A part of `best_of_n`, `rebase` and `mcts`, whose paths are samples, branches of a tree and rollouts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import fsum
from typing import Self

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.rules.rule import InvalidRule, VoteRule, token_window
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.programs.events import AnswersCompared


@dataclass(frozen=True, slots=True)
class Chosen:
    """The path that wins.

    Attributes:
        answer: its cluster's, as first given; None where no path has one.
        path: its number, whose text is shown.
    """

    answer: str | None
    path: int


@dataclass(frozen=True, slots=True)
class JudgedPaths:
    """Paths that are complete and judged, in the order that they were judged. The tuples are in step with the labels.

    Attributes:
        clusters: of the paths' answers.
        paths: the program's own number of each.
        answers: as read from each; None where there is none.
        rewards: in [0, 1].
        tokens: completion tokens of each.
    """

    clusters: AnswerClusters
    paths: tuple[int, ...] = ()
    answers: tuple[str | None, ...] = ()
    rewards: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()

    @classmethod
    def start(cls, answer_type: AnswerType) -> Self:
        return cls(AnswerClusters.empty(answer_type))

    @property
    def count(self) -> int:
        """Paths so far."""
        return len(self.paths)

    def with_judged(self, path: int, answer: str | None, reward: float, tokens: int) -> Self:
        """Takes the next path."""
        return replace(
            self,
            clusters=self.clusters.add(answer),
            paths=(*self.paths, path),
            answers=(*self.answers, answer),
            rewards=(*self.rewards, reward),
            tokens=(*self.tokens, tokens),
        )

    def compared(self, event: AnswersCompared) -> Self:
        """Takes the evaluator's decisions."""
        return replace(self, clusters=self.clusters.decided(event.equal, event.unequal))

    def votes(self, cap: int) -> Votes:
        """What a rule sees, in a program of at most `cap` paths."""
        return self.clusters.votes(cap, rewards=self.rewards, tokens=self.tokens)

    def best(self) -> Chosen | None:
        """The answered path of the highest reward; a tie goes to the larger cluster, then to the earlier path.

        Where no path has an answer, the best of them; None where there is no path.
        """
        labels = self.clusters.labels
        sizes = Counter(labels)
        answered = [at for at, label in enumerate(labels) if label is not None]
        at = max(answered or range(self.count), key=lambda at: (self.rewards[at], sizes[labels[at]], -at), default=None)
        return None if at is None else self._chosen(at)

    def heaviest(self) -> Chosen | None:
        """Weighted majority: the cluster with the largest sum of rewards, shown by its best path.

        A tie goes to the larger cluster, so that rewards of 0 throughout leave a plain majority, then to the one seen
        first. Where no path has an answer, the best of them; None where there is no path.
        """
        members: dict[int, list[int]] = {}  # label -> where its paths are
        for at, label in enumerate(self.clusters.labels):
            if label is not None:
                members.setdefault(label, []).append(at)
        if not members:
            return self.best()
        heaviest = max(
            members.values(), key=lambda places: (fsum(self.rewards[at] for at in places), len(places), -places[0])
        )
        return self._chosen(max(heaviest, key=lambda at: (self.rewards[at], -at)))

    def _chosen(self, at: int) -> Chosen:
        label = self.clusters.labels[at]
        first = at if label is None else self.clusters.labels.index(label)
        return Chosen(self.answers[first] if label is not None else None, self.paths[at])


def parse_rule_over_paths(type_string: str) -> VoteRule:
    """The rule over votes of a type string.

    Raises:
        InvalidRule: as `parse_vote_rule`, and for a rule that cuts running samples off: what runs here is no sample.
    """
    rule = parse_vote_rule(type_string)
    if token_window(rule):
        raise InvalidRule("rule", f"{rule.name} prunes samples while they run", "use it with self-consistency")
    return rule
