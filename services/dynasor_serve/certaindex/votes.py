"""The evidence of a voting program as its rules see it: which finished sample belongs to which cluster of answers.

`clusters.AnswerClusters.votes` builds one at each arrival, with what the program knows of rewards and confidences, and
hands it to `rules.VoteRule.verdict`.
"""

from dataclasses import dataclass, field
from math import fsum, isfinite

from dynasor_serve.certaindex.entropy import normalised_entropy


@dataclass(frozen=True, slots=True)
class Votes:
    """Finished samples in order of arrival, each with the label of its cluster of equal answers.

    Attributes:
        labels: one label per finished sample, in order of arrival; None where no answer could be extracted.
        cap: the most samples the program may take, no fewer than have finished.
        undecided: labels whose equality with another cluster the evaluator is still deciding; those that no finished
            sample carries are dropped.
        rewards: the reward of each finished sample in [0, 1], in step with `labels`; None where it has none. Empty in
            a program that judges nothing.
        confidences: the lowest group confidence of each finished sample (`token_confidence.GroupConfidence.at_end`),
            in step with `labels`; None where the engine gave no log-probabilities. Empty where nobody asked for them.
        running: (branch, lowest group confidence so far) of the running branches that have one.
        tokens: the completion tokens of each finished sample, in step with `labels`. Empty where they are not counted.

    Raises:
        ValueError: more samples have finished than the cap allows, rewards, confidences or tokens are out of step, a
            reward is not in [0, 1], a confidence is not finite, or tokens are negative.
    """

    labels: tuple[int | None, ...]
    cap: int
    undecided: frozenset[int] = frozenset()
    rewards: tuple[float | None, ...] = ()
    confidences: tuple[float | None, ...] = ()
    running: tuple[tuple[int, float], ...] = ()
    tokens: tuple[int, ...] = ()
    # label -> votes, in the order first seen
    _sizes: dict[int | None, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.cap < len(self.labels):
            raise ValueError(f"{len(self.labels)} samples have finished under a cap of {self.cap}; it must be no less")
        sizes = self._sizes
        for label in self.labels:
            sizes[label] = sizes.get(label, 0) + 1
        if self.undecided:
            object.__setattr__(self, "undecided", self.undecided & sizes.keys())
        if self.rewards:
            self._check_rewards()
        if self.confidences or self.running:
            self._check_confidences()
        if self.tokens:
            self._check_tokens()

    @property
    def finished(self) -> int:
        """Samples that have arrived."""
        return len(self.labels)

    @property
    def remaining(self) -> int:
        """Samples that may still arrive."""
        return self.cap - len(self.labels)

    @property
    def answered(self) -> int:
        """Samples that brought a real answer."""
        return len(self.labels) - self._sizes.get(None, 0)

    def prefix(self, count: int) -> "Votes":
        """Return the votes as they stood after the first `count` arrivals (all of them if fewer have arrived).

        What was running then is not known, so nothing is, unless the prefix is the whole.

        Raises:
            ValueError: `count` is negative.
        """
        if count < 0:
            raise ValueError(f"a prefix of {count} arrivals; it must be 0 or more")
        if count >= len(self.labels):
            return self
        return Votes(
            self.labels[:count],
            self.cap,
            self.undecided,
            self.rewards[:count],
            self.confidences[:count],
            tokens=self.tokens[:count],
        )

    @property
    def cluster_sizes(self) -> tuple[int, ...]:
        """Votes per cluster in the order first seen; samples without an answer are one cluster of their own."""
        return tuple(self._sizes.values())

    @property
    def answer_sizes(self) -> dict[int, int]:
        """Label -> votes, in the order first seen, without the samples that have no answer."""
        return {label: size for label, size in self._sizes.items() if label is not None}

    @property
    def leader(self) -> int | None:
        """The label with the most votes; a tie goes to the answer seen first; None if there is no real answer."""
        leader: int | None = None
        most = 0
        for label, size in self._sizes.items():
            if size > most and label is not None:
                leader, most = label, size
        return leader

    @property
    def top_two(self) -> tuple[int, int]:
        """Votes of the two largest clusters of real answers, larger first; 0 where there is none."""
        first = second = 0
        for label, size in self._sizes.items():
            if label is None:
                continue
            if size > first:
                first, second = size, first
            elif size > second:
                second = size
        return first, second

    @property
    def certaindex(self) -> float:
        """H̃ in [0, 1] over all clusters, the one without answers included."""
        return normalised_entropy(self.cluster_sizes)

    @property
    def best_reward(self) -> float | None:
        """The highest reward so far; None if there is none."""
        return max((reward for reward in self.rewards if reward is not None), default=None)

    @property
    def mean_reward(self) -> float | None:
        """The mean of the rewards so far; None if there is none."""
        known = [reward for reward in self.rewards if reward is not None]
        return fsum(known) / len(known) if known else None

    def _check_rewards(self) -> None:
        if len(self.rewards) != len(self.labels):
            raise ValueError(f"{len(self.rewards)} rewards of {len(self.labels)} samples; each has one, or None")
        for reward in self.rewards:
            if reward is not None and not 0 <= reward <= 1:  # NaN is not
                raise ValueError(f"a sample has reward {reward}; it must be in [0, 1], or None")

    def _check_confidences(self) -> None:
        if self.confidences and len(self.confidences) != len(self.labels):
            raise ValueError(
                f"{len(self.confidences)} confidences of {len(self.labels)} samples; each has one, or None"
            )
        for confidence in self.confidences:
            if confidence is not None and not isfinite(confidence):
                raise ValueError(f"a sample has confidence {confidence}; it must be a finite number, or None")
        for branch, confidence in self.running:
            if not isfinite(confidence):
                raise ValueError(f"running branch {branch} has confidence {confidence}; it must be a finite number")

    def _check_tokens(self) -> None:
        if len(self.tokens) != len(self.labels):
            raise ValueError(f"tokens of {len(self.tokens)} of {len(self.labels)} samples; count all of them or none")
        if min(self.tokens) < 0:
            raise ValueError(f"a sample has {min(self.tokens)} tokens; it must be 0 or more")
