"""The evidence of one chain of thought as its rules see it: the answers that it gave when it was asked, in order.

A chain is asked for its answer while it is still thinking (`probe_schedule` says when, `trial_answer` reads the reply);
each such trial adds one line here. The same type serves `iterative-cot`, where the answer of each refinement round is
one trial.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trials:
    """Trial answers of one chain in the order they were asked for. The four tuples are in step.

    A trial *counts* if it has an answer and does not hesitate. One that does not count never agrees with another.

    Attributes:
        labels: the cluster of each trial's answer; None where it gave no usable answer (empty, unreadable).
        positions: tokens of the chain at each trial, increasing.
        confidences: mean probability of the trial answer's tokens, in [0, 1]; None where the engine gave no
            log-probabilities.
        hesitant: whether the trial's text hesitates (`hesitation.hesitates`).
        undecided: labels whose equality with another cluster the evaluator is still deciding; those that no trial
            carries are dropped. Trials with equal labels agree whatever is open.
        limit: the most tokens the chain may have; 0 where that is not known.

    Raises:
        ValueError: the tuples differ in length, positions are negative or do not increase, a confidence is not a
            number in [0, 1], or the limit is negative.
    """

    labels: tuple[int | None, ...]
    positions: tuple[int, ...]
    confidences: tuple[float | None, ...]
    hesitant: tuple[bool, ...]
    undecided: frozenset[int] = frozenset()
    limit: int = 0

    def __post_init__(self) -> None:
        lengths = (len(self.labels), len(self.positions), len(self.confidences), len(self.hesitant))
        if len({*lengths}) > 1:
            raise ValueError(
                "{} labels, {} positions, {} confidences and {} hesitations; each trial has one of each".format(
                    *lengths
                )
            )
        previous = -1
        for position in self.positions:
            if position <= previous:
                raise ValueError(f"a trial at token {position} follows one at {previous}; positions increase from 0")
            previous = position
        for confidence in self.confidences:
            if confidence is not None and not 0 <= confidence <= 1:  # NaN is not
                raise ValueError(f"a trial has confidence {confidence}; it must be in [0, 1], or None")
        if self.limit < 0:
            raise ValueError(f"a chain of at most {self.limit} tokens; it must be 0 (not known) or more")
        if self.undecided:
            object.__setattr__(self, "undecided", self.undecided.intersection(self.labels))

    @property
    def count(self) -> int:
        """Trials so far, those that do not count included."""
        return len(self.labels)

    @property
    def last(self) -> int | None:
        """The label of the last trial that counts; None if there is none. The chain's answer if it stops now."""
        for label, hesitant in zip(reversed(self.labels), reversed(self.hesitant), strict=True):
            if label is not None and not hesitant:
                return label
        return None

    def consensus(self, window: int) -> float:
        """Return C_k = (1/w) Σ_{j=k−w+1..k} 1[y_j = y_k], in [0, 1], for the last of the k trials.

        0 if the last trial does not count, and with fewer than `window` trials.

        Args:
            window: w, in trials.

        Raises:
            ValueError: the window is below 1.

        Source: arXiv 2412.20993v2, section 3 and appendix B.
        """
        if window < 1:
            raise ValueError(f"a window of {window} trials; it must be 1 or more")
        if len(self.labels) < window or not self._counts(-1):
            return 0.0
        last = self.labels[-1]
        return sum(self.labels[at] == last and self._counts(at) for at in range(-window, 0)) / window

    def last_run(self) -> int:
        """Return how many trials in a row, up to the last one, count and have equal answers."""
        if not self.labels or not self._counts(-1):
            return 0
        run = 0
        while run < len(self.labels) and self.labels[-run - 1] == self.labels[-1] and self._counts(-run - 1):
            run += 1
        return run

    def _counts(self, at: int) -> bool:
        return self.labels[at] is not None and not self.hesitant[at]
