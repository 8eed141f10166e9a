"""Programs whose answers are known to be right or wrong: what a policy is fitted to, and what became of them.

`profiler` fits policies to them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dynasor_serve.certaindex.entropy import normalised_entropy
from dynasor_serve.certaindex.votes import Votes

Item = TypeVar("Item")

# H̃ of the same cluster sizes in another order may differ in its last bits.
ROUNDING = 1e-9


class ProfileError(ValueError):
    """Runs that nothing can be fitted to; the message says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class LabelledRun:
    """A program that ran to its cap, with what is known of its answers.

    Attributes:
        votes: all its samples; their number is the cap.
        correct: whether each sample's answer is right, in step with `votes.labels`. Where recorders contradict
            themselves, equal answers are as right as the first of them.
        certainties: H̃ of the first k samples, k from 0 to all.
        right: whether the vote of the first k samples is right, k from 0 to all; without an answer it is not.
        answered: whether the first k samples have an answer at all, k from 0 to all.

    Raises:
        ProfileError: no samples, or a sample without a label.
    """

    votes: Votes
    correct: tuple[bool, ...]
    certainties: tuple[float, ...] = field(init=False, repr=False, compare=False)
    right: tuple[bool, ...] = field(init=False, repr=False, compare=False)
    answered: tuple[bool, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.votes.labels:
            raise ProfileError("a run has no samples; it must have run to its cap")
        if len(self.correct) != self.votes.finished or not all(isinstance(each, bool) for each in self.correct):
            raise ProfileError(
                f"{self.votes.finished} samples are labelled {self.correct!s:.80}; each must be True or False"
            )
        truth: dict[int | None, bool] = {}
        sizes: dict[int | None, int] = {}
        leader: int | None = None
        certainties, right, answered = [0.0], [False], [False]
        for label, correct in zip(self.votes.labels, self.correct, strict=True):
            truth.setdefault(label, correct)
            sizes[label] = sizes.get(label, 0) + 1
            if label is not None and (leader is None or sizes[label] >= sizes[leader]):
                leader = max((each for each in sizes if each is not None), key=sizes.__getitem__)
            certainties.append(normalised_entropy(tuple(sizes.values())))
            right.append(leader is not None and truth[leader])
            answered.append(leader is not None)
        object.__setattr__(self, "certainties", tuple(certainties))
        object.__setattr__(self, "right", tuple(right))
        object.__setattr__(self, "answered", tuple(answered))

    @property
    def cap(self) -> int:
        """Its samples."""
        return self.votes.finished

    @property
    def needed(self) -> int:
        """The least k from which on the vote is right; 0 if it is wrong at the cap."""
        return 1 + max(self.too_early(), default=0) if self.right[-1] else 0

    def too_early(self) -> list[int]:
        """Return the numbers of samples after which a stop would cost a right answer."""
        return [k for k in range(1, self.cap) if not self.right[k]] if self.right[-1] else []


@dataclass(frozen=True, slots=True)
class CertaintyRange:
    """What became of the runs that stood at one H̃ at the detect step: a row of the profile.

    Attributes:
        certainty: H̃.
        runs: how many.
        right_then, right_at_cap: the share of them whose vote was right at the detect step, and is at the cap.
        most_needed: the most samples that one of them needed.
        tokens_then, tokens_at_cap: the mean of their tokens up to the detect step and to the cap; None where they are
            not counted.
    """

    certainty: float
    runs: int
    right_then: float
    right_at_cap: float
    most_needed: int
    tokens_then: float | None
    tokens_at_cap: float | None


def profile(runs: Sequence[LabelledRun], *, detect: int = 5) -> tuple[CertaintyRange, ...]:
    """Return what became of the runs, one row per H̃ of their first `detect` samples, the most certain first.

    Raises:
        ProfileError: no runs, or a detect step that is not below the largest cap.
    """
    largest_cap(runs, detect)
    rows = []
    for certainty, group in by_level((run.certainties[detect], run) for run in runs if run.cap >= detect):
        counted = [run.votes.tokens for run in group if run.votes.tokens]
        rows.append(
            CertaintyRange(
                certainty,
                len(group),
                right_then=_mean([run.right[detect] for run in group]),
                right_at_cap=_mean([run.right[-1] for run in group]),
                most_needed=max(run.needed for run in group),
                tokens_then=_mean([sum(tokens[:detect]) for tokens in counted]) if counted else None,
                tokens_at_cap=_mean([sum(tokens) for tokens in counted]) if counted else None,
            )
        )
    return tuple(rows)


def largest_cap(runs: Sequence[LabelledRun], step: int, name: str = "detect") -> int:
    """Return the most samples of a run.

    Raises:
        ProfileError: no runs, or a step, called `name`, that is not from 1 to below that.
    """
    if not runs:
        raise ProfileError("there are no runs to fit to; give some that ran to their cap, with labels")
    cap = max(run.cap for run in runs)
    if not 1 <= step < cap:
        raise ProfileError(f"{name} is {step} at a cap of {cap}; it must be at least 1 and below the cap")
    return cap


def by_level(levelled: Iterable[tuple[float, Item]]) -> list[tuple[float, list[Item]]]:
    """Return the items by level, highest first, in the order given within one; the same level may be rounded apart."""
    ordered = sorted(levelled, key=lambda pair: -pair[0])  # stable
    groups: list[tuple[float, list[Item]]] = []
    for level, item in ordered:
        if groups and groups[-1][0] - level <= ROUNDING:
            groups[-1][1].append(item)
        else:
            groups.append((level, [item]))
    return groups


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
