"""Programs that compete for a short pool: how right are their answers by the time so many tokens are spent?

All questions of a recorded run are asked at once, and the scheduler's own pool shares its places among them in virtual
time. While it is short, all places are taken, so a share of the tokens is as good as a share of the time: what is right
at half of the tokens is what a deadline at half of the time would have found.

Beside the orderings stands the even split that no pool can beat without looking: the same number of samples for each
question, one wave after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynasor_serve.programs.query import QueryId
from dynasor_serve.simulation.recorded_programs import RecordedProgram, pool_of, recorded_votes
from dynasor_serve.simulation.replay import RunKey
from dynasor_serve.simulation.virtual_pool import VirtualPool
from dynasor_serve.simulation.votes import Ballot

EVEN_SPLIT = "even split"
ORDERINGS = ("expected-gain", "least-attained-service", "gang-shortest", "fcfs")
SHOWN_SHARES = (0.25, 0.5, 0.75)  # of the tokens of all samples
POINTS_LOST = 1.0  # of the full programs' accuracy, for the tokens that are needed

_GRID = np.linspace(0, 1, 201)
_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)  # percentiles
_SECONDS_PER_TOKEN = 0.02

_Rights = NDArray[np.float64]  # programs × points of the grid: whether each is right by then


@dataclass(frozen=True, slots=True)
class ContentionSettings:
    """What is played.

    Attributes:
        places: calls that run at once, in the whole pool.
        workers: that share them.
        widths: of the programs, each played by itself.
        rule: that may stop a program before its cap.
        shuffles: random orders of each vote's samples, and of the questions.
        seed: of the shuffles.
    """

    places: int = 8
    workers: int = 4
    widths: tuple[int, ...] = (1, 4)
    rule: str = "even"
    shuffles: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the ends of its 95 % bootstrap interval over questions."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Contender:
    """How one way to share the tokens did on one dataset, the mean over runs and shuffles.

    Attributes:
        dataset: what was played.
        policy: an ordering, or the even split.
        width: of the programs; None for the even split.
        questions, runs: how many.
        accuracy: in percent, at each of `SHOWN_SHARES`.
        gained: points above the even split at the same tokens, at each of `SHOWN_SHARES`.
        accuracy_full: in percent, once all is spent that the rule lets be spent.
        needed_share: of the tokens of all samples, in percent: from there on the accuracy is at most `POINTS_LOST`
            below that of the even split at its end.
    """

    dataset: str
    policy: str
    width: int | None
    questions: int
    runs: int
    accuracy: tuple[float, ...]
    gained: tuple[Interval, ...]
    accuracy_full: float
    needed_share: Interval


def contention_of(files: Iterable[Path], settings: ContentionSettings) -> list[Contender]:
    """Plays the votes of files under every ordering.

    Raises:
        TraceFormatError: a line is no record or says what another has said, or there is no vote.
        InvalidRule: the rule is unknown or does not watch votes.
    """
    datasets: defaultdict[str, list[tuple[RunKey, Sequence[tuple[str, tuple[Ballot, ...]]]]]] = defaultdict(list)
    for key, votes in recorded_votes(files).items():
        datasets[key.dataset].append((key, votes))
    return [each for dataset, runs in datasets.items() for each in _contenders(dataset, runs, settings)]


def _contenders(
    dataset: str, runs: Sequence[tuple[RunKey, Sequence[tuple[str, tuple[Ballot, ...]]]]], settings: ContentionSettings
) -> Iterator[Contender]:
    questions: list[str] = []  # one per row
    rights: defaultdict[tuple[str, int | None], list[_Rights]] = defaultdict(list)
    for key, votes in runs:
        for programs in _shuffled(key, votes, settings):
            questions.extend(program.question_id for program in programs)
            rights[EVEN_SPLIT, None].append(even_split(programs))
            for width in settings.widths:
                for ordering in ORDERINGS:
                    rights[ordering, width].append(played(programs, ordering, width, settings))
    weights = _weights(questions)
    even = _resampled(np.vstack(rights[EVEN_SPLIT, None]), weights)
    target = even[:, -1] - POINTS_LOST
    for (policy, of_width), of_policy in rights.items():
        curves = _resampled(np.vstack(of_policy), weights)
        shown = [int(np.searchsorted(_GRID, share)) for share in SHOWN_SHARES]
        yield Contender(
            dataset=dataset,
            policy=policy,
            width=of_width,
            questions=len(set(questions)),
            runs=len(runs),
            accuracy=tuple(float(curves[0, at]) for at in shown),
            gained=tuple(_interval(curves[:, at] - even[:, at]) for at in shown),
            accuracy_full=float(curves[0, -1]),
            needed_share=_interval(100 * needed_share(curves, target, _GRID)),
        )


def _shuffled(
    key: RunKey, votes: Sequence[tuple[str, tuple[Ballot, ...]]], settings: ContentionSettings
) -> Iterator[list[RecordedProgram]]:
    """The programs of a run in random orders. What of a question is shuffled is the same whatever else is asked."""
    shufflers = [key.shuffler(settings.seed, question) for question, _ in votes]
    order = key.shuffler(settings.seed, "")
    for _ in range(settings.shuffles):
        programs = []
        for shuffler, (question, ballots) in zip(shufflers, votes, strict=True):
            started = list(ballots)
            shuffler.shuffle(started)
            programs.append(RecordedProgram.of(question, started))
        order.shuffle(programs)
        yield programs


def played(programs: Sequence[RecordedProgram], ordering: str, width: int, settings: ContentionSettings) -> _Rights:
    """Whether each program's answer is right, by share of the tokens of all samples, as a pool shares its places."""
    virtual = VirtualPool(pool_of(ordering, settings.places, settings.workers), seconds_per_token=_SECONDS_PER_TOKEN)
    for number, program in enumerate(programs):
        virtual.submit(0.0, QueryId(str(number)), program.query(width=width, rule=settings.rule), program.reply)
    curve = _Curve(programs)
    for change in virtual.run():
        answer = change.program.algorithm.aggregate().answer
        curve.add(change.tokens, int(change.query_id), answer)
    return curve.rights()


def even_split(programs: Sequence[RecordedProgram]) -> _Rights:
    """The same of one sample for each program after the other, until all are spent: nobody's call is cut off."""
    curve = _Curve(programs)
    spent = 0
    votes: list[defaultdict[str, int]] = [defaultdict(int) for _ in programs]
    for sample in range(max(len(program.replies) for program in programs)):
        for number, program in enumerate(programs):
            if sample < len(program.replies):
                answer, tokens = program.replies[sample]
                spent += tokens
                sizes = votes[number]
                if answer is not None:
                    sizes[answer] += 1
                curve.add(spent, number, max(sizes, key=lambda each: sizes[each], default=None))
    return curve.rights()


class _Curve:
    """Which programs are right by a share of the tokens."""

    def __init__(self, programs: Sequence[RecordedProgram]) -> None:
        self._programs = programs
        self._full = sum(program.tokens for program in programs)
        self._now = np.zeros(len(programs))
        self._rights = np.zeros((len(programs), len(_GRID)))
        self._filled = 0  # points of the grid

    def add(self, tokens: float, number: int, answer: str | None) -> None:
        """A program's answer once so many tokens are spent, no fewer than before."""
        self._fill(int(np.searchsorted(_GRID, tokens / self._full)))
        self._now[number] = answer in self._programs[number].right_answers

    def rights(self) -> _Rights:
        """By the points of the grid."""
        self._fill(len(_GRID))
        return self._rights

    def _fill(self, points: int) -> None:
        if points > self._filled:
            self._rights[:, self._filled : points] = self._now[:, None]
            self._filled = points


def _weights(questions: Sequence[str]) -> NDArray[np.float64]:
    """The weight of each row in each resample, in percent; the first resample is what was drawn.

    All rows of a question are drawn together, and questions weigh alike.
    """
    names, rows = np.unique(questions, return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    counts = np.vstack([np.ones(len(names)), drawn]) / np.bincount(rows)
    weights: NDArray[np.float64] = 100 * counts[:, rows] / len(names)
    return weights


def _resampled(rights: _Rights, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Accuracy in percent: resamples × points of the grid."""
    curves: NDArray[np.float64] = weights @ rights
    return curves


def needed_share(
    curves: NDArray[np.float64], target: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The least share of the tokens from which on each curve is no lower than its target; 1 where it never is.

    Args:
        curves: curves × points of the grid.
        target: one per curve.
        grid: the shares, rising.
    """
    is_below = curves < target[:, None] - 1e-9
    after_last = is_below.shape[1] - np.argmax(is_below[:, ::-1], axis=1)
    first: NDArray[np.int64] = np.where(is_below.any(axis=1), after_last, 0)
    return grid[np.minimum(first, len(grid) - 1)]


def _interval(resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled[1:], _INTERVAL)
    return Interval(float(resampled[0]), float(low), float(high))
