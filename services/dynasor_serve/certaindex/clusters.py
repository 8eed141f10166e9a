"""Answers grouped as they arrive: equal ones share a label, and some pairs wait for the evaluator.

A voting program (`programs.self_consistency`) adds each sample's answer, asks `votes` for its rule and `questions` for
the evaluator, and feeds what the evaluator proves back through `merge` and `separate`. A chain does the same with its
trial answers: `labels` and `undecided` go into its `Trials`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from dynasor_serve.certaindex.answers.answer_type import AnswerType
from dynasor_serve.certaindex.answers.canonical import canonical, equal_by_keys
from dynasor_serve.certaindex.votes import Votes


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The first answer of a cluster: as given, and its key."""

    answer: str
    key: str
    decided: bool


@dataclass(frozen=True, slots=True)
class AnswerClusters:
    """Clusters of equal answers, immutable: `add`, `merge` and `separate` return the next state.

    A pair of clusters is equal, unequal, or an open question. Keys decide most pairs when an answer arrives; a pair
    that only algebra can decide is a question until `merge` or `separate` answers it. Only open questions can be
    answered, and the first answer holds: whatever is repeated, late or contradictory changes nothing. So a rule that
    allows for the questions that are open now is right for ever, and evaluator decisions that agree with one another
    lead to the same clusters in any order.

    `add` of an answer seen before copies one tuple; of a new one, the tables of clusters too. A question is asked once
    per new cluster and undecided partner, so n samples ask at most n(n − 1)/2.

    Attributes:
        answer_type: decides which answers are equal.
        labels: the cluster of each answer, in order of arrival; None where a sample had no answer. A cluster's label
            is the number of clusters that were seen before its first answer.
    """

    answer_type: AnswerType
    labels: tuple[int | None, ...] = ()
    _clusters: tuple[_Cluster, ...] = ()  # by label; merged ones stay, under the label that they had
    _label_of: Mapping[str, int] = field(default_factory=dict, repr=False)  # key -> label of its cluster now
    _open: frozenset[tuple[int, int]] = frozenset()  # pairs of labels, smaller first, that may still prove equal

    @classmethod
    def empty(cls, answer_type: AnswerType) -> Self:
        """Return the state before the first sample."""
        return cls(answer_type)

    def add(self, answer: str | None) -> Self:
        """Take the answer of the next sample to finish; None, or one without content, counts as no answer."""
        if answer is None:
            return self._with_label(None)
        form = canonical(answer, self.answer_type)
        if not form.key:
            return self._with_label(None)
        label = self._label_of.get(form.key)
        if label is not None:
            return self._with_label(label)
        partners: set[int] = set()
        for partner in sorted(self._undecided_clusters() if form.decided else {*self._label_of.values()}):
            match equal_by_keys(self._clusters[partner].key, form.key, self.answer_type):
                case True:
                    label_of = {**self._label_of, form.key: partner}
                    return type(self)(self.answer_type, (*self.labels, partner), self._clusters, label_of, self._open)
                case None:
                    partners.add(partner)
        new = len(self._clusters)
        # Not `replace`, which costs more than all the rest of an arrival.
        return type(self)(
            self.answer_type,
            (*self.labels, new),
            (*self._clusters, _Cluster(answer, form.key, form.decided)),
            {**self._label_of, form.key: new},
            self._open.union((partner, new) for partner in partners) if partners else self._open,
        )

    def merge(self, left: str, right: str) -> Self:
        """Take it that two answers, given by their keys, are equal. The cluster seen first keeps its label."""
        pair = self._open_pair(left, right)
        if pair is None:
            return self
        kept, gone = pair
        still_open = (self._partners(kept) & self._partners(gone)) - {kept, gone}
        untouched = (other for other in self._open if kept not in other and gone not in other)
        return replace(
            self,
            labels=tuple(kept if label == gone else label for label in self.labels),
            _label_of={key: kept if label == gone else label for key, label in self._label_of.items()},
            _open=frozenset(untouched).union(_pair(kept, partner) for partner in still_open),
        )

    def separate(self, left: str, right: str) -> Self:
        """Take it that two answers, given by their keys, are unequal, or that nobody could tell."""
        pair = self._open_pair(left, right)
        return self if pair is None else replace(self, _open=self._open - {pair})

    def decided(self, equal: Iterable[tuple[str, str]], unequal: Iterable[tuple[str, str]]) -> Self:
        """Take the evaluator's decisions on pairs of keys, its proofs of equality first."""
        clusters = self
        for left, right in equal:
            clusters = clusters.merge(left, right)
        for left, right in unequal:
            clusters = clusters.separate(left, right)
        return clusters

    def questions(self) -> tuple[tuple[str, str], ...]:
        """Return the pairs of keys that only the evaluator can decide, in the order they came up.

        Each cluster is represented by the key of its first answer.
        """
        pairs = sorted(self._open, key=lambda pair: (pair[1], pair[0]))
        return tuple((self._clusters[first].key, self._clusters[second].key) for first, second in pairs)

    @property
    def undecided(self) -> frozenset[int]:
        """Labels whose equality with another cluster is an open question."""
        return frozenset(label for pair in self._open for label in pair) if self._open else frozenset()

    def votes(
        self,
        cap: int,
        *,
        rewards: tuple[float | None, ...] = (),
        confidences: tuple[float | None, ...] = (),
        running: tuple[tuple[int, float], ...] = (),
        tokens: tuple[int, ...] = (),
    ) -> Votes:
        """Return what a rule sees, for a program of at most `cap` samples. See `Votes` for the rest.

        Raises:
            ValueError: more than `cap` samples have finished, or the rest does not fit them.
        """
        return Votes(self.labels, cap, self.undecided, rewards, confidences, running, tokens)

    def ranked(self) -> tuple[tuple[str | None, int], ...]:
        """Return (answer, votes) per cluster, most votes first, then in the order seen first; None for no answer.

        The answer is the cluster's first, as it was given. The first that is not None wins the vote.
        """
        counts = Counter(self.labels).most_common()  # stable: equal counts stay in the order seen first
        return tuple((None if label is None else self._clusters[label].answer, count) for label, count in counts)

    def same(self, left: str, right: str | None) -> bool:
        """Whether two answers, as given by samples, are in one cluster."""
        if right is None:
            return False
        labels = [self._label_of.get(canonical(answer, self.answer_type).key) for answer in (left, right)]
        return labels[0] is not None and labels[0] == labels[1]

    def _with_label(self, label: int | None) -> Self:
        return type(self)(self.answer_type, (*self.labels, label), self._clusters, self._label_of, self._open)

    def _undecided_clusters(self) -> set[int]:
        """Labels of the clusters that hold no decided key, so that a new decided key may still be theirs."""
        decided = {self._label_of[cluster.key] for cluster in self._clusters if cluster.decided}
        return set(self._label_of.values()) - decided

    def _open_pair(self, left: str, right: str) -> tuple[int, int] | None:
        first, second = self._label_of.get(left), self._label_of.get(right)
        if first is None or second is None or first == second:
            return None
        pair = _pair(first, second)
        return pair if pair in self._open else None

    def _partners(self, label: int) -> set[int]:
        return _others(label, self._open)


def _pair(first: int, second: int) -> tuple[int, int]:
    return (first, second) if first < second else (second, first)


def _others(label: int, pairs: Iterable[tuple[int, int]]) -> set[int]:
    return {first + second - label for first, second in pairs if label in (first, second)}
