"""A recorded vote under a rule: the samples arrive again, in any order and side by side.

Width w: w samples run at once, each at the same speed, so short ones arrive first; the rule is asked at each arrival,
as live, and at a verdict the siblings that run are cancelled and their partial tokens are charged.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import or_
from typing import NamedTuple

from dynasor_serve.certaindex.rules.even import Even
from dynasor_serve.certaindex.rules.rule import VoteRule, reads_tokens
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.replay.records import Sample, SamplesRecord
from dynasor_serve.simulation.outcomes import Ending, Ladder, Replayed


class Ballot(NamedTuple):
    """A recorded sample as a vote counts it."""

    answer: str | int | None  # equal answers are equal; None is no answer
    is_right: bool
    tokens: float
    reward: float | None = None


def ballots_of(record: SamplesRecord) -> tuple[Ballot, ...]:
    """The samples of a record, in recorded order. An empty answer is none."""
    return tuple(ballot_of(sample) for sample in record.samples)


def ballot_of(sample: Sample) -> Ballot:
    """A sample; without an answer it is never right."""
    answer = sample.answer or None
    return Ballot(answer, sample.correct and answer is not None, sample.tokens, sample.reward)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A vote run to its cap: its samples in order of arrival, with what rules see and what it costs to stop there.

    Attributes:
        labels: as in `Votes`.
        rewards: as in `Votes`; empty where a sample has none.
        tokens: of each sample.
        rights: whether each sample is right.
        endings: of the vote after each arrival.
        ladder: of the vote with a cap of 1, 2, … samples that all run to their end.
    """

    labels: tuple[int | None, ...]
    rewards: tuple[float | None, ...]
    tokens: tuple[int, ...]
    rights: tuple[bool, ...]
    endings: tuple[Ending, ...]
    ladder: Ladder


class VoteReplay:
    """Replays votes. It remembers who leads and where a rule stops: among thousands of votes few are unlike."""

    def __init__(self, width: int) -> None:
        """Builds a replay of votes whose samples run `width` at a time."""
        self._width = width
        self._leaders: dict[tuple[int | None, ...], tuple[int | None, ...]] = {}

    def arrivals(self, started: Sequence[Ballot], *, is_verifiable: bool = False) -> Arrivals:
        """Returns how a vote's samples arrive.

        Args:
            started: its samples, no fewer than one, in the order in which they start.
            is_verifiable: its answers are checked as they arrive: the first right one is the vote's answer.
        """
        order, spent = _finishing([ballot.tokens for ballot in started], self._width)
        arrived = [started[at] for at in order]
        labels = _labels(arrived)
        rights = _rights(labels, arrived)
        if is_verifiable:
            endings = ladder = _so_far(rights)
        else:
            endings = ladder = self._endings(labels, rights)
        if arrived != [*started]:  # a smaller budget draws those that start first, and runs them to their end
            first_labels = _labels(started)
            first_rights = _rights(first_labels, started)
            ladder = _so_far(first_rights) if is_verifiable else self._endings(first_labels, first_rights)
        return Arrivals(
            labels=labels,
            rewards=tuple(ballot.reward for ballot in arrived) if all(map(_is_judged, arrived)) else (),
            tokens=tuple(round(ballot.tokens) for ballot in arrived),
            rights=rights,
            endings=tuple(map(Ending, endings, spent)),
            ladder=tuple(map(Ending, ladder, accumulate(ballot.tokens for ballot in started))),
        )

    def _endings(self, labels: tuple[int | None, ...], rights: tuple[bool, ...]) -> list[bool]:
        """Whether the majority is right after each arrival."""
        is_right = {None: False, **dict(zip(labels, rights, strict=True))}
        return [is_right[leader] for leader in self._leaders_of(labels)]

    def _leaders_of(self, labels: tuple[int | None, ...]) -> tuple[int | None, ...]:
        leaders = self._leaders.get(labels)
        if leaders is None:
            whole = Votes(labels, len(labels))
            leaders = self._leaders[labels] = tuple(whole.prefix(count + 1).leader for count in range(len(labels)))
        return leaders


class RuleAtVotes:
    """One rule over votes, asked again and again; what it said of the same evidence is remembered.

    Attributes:
        rule: as it serves live traffic.
    """

    def __init__(self, rule: VoteRule) -> None:
        """Takes the rule."""
        self.rule = rule
        self._reads_tokens = reads_tokens(rule)
        self._stops: dict[object, int] = {}  # evidence -> arrivals after which it stops

    def replay(self, arrivals: Arrivals, *, is_verifiable: bool = False) -> Replayed:
        """Returns what becomes of a vote. A verifiable one ends at its first verified answer; `even` never stops."""
        if is_verifiable:
            count = len(arrivals.endings) if isinstance(self.rule, Even) else _first_right(arrivals)
        else:
            count = self._stop(arrivals)
        return Replayed(arrivals.endings[count - 1], arrivals.endings[-1])

    def _stop(self, arrivals: Arrivals) -> int:
        # Votes with the same tokens are rare: only a rule that reads them pays for asking each time.
        tokens = arrivals.tokens if self._reads_tokens else ()
        evidence = (arrivals.labels, arrivals.rewards, tokens)
        count = self._stops.get(evidence)
        if count is None:
            whole = Votes(arrivals.labels, len(arrivals.labels), rewards=arrivals.rewards, tokens=tokens)
            counts = range(1, len(arrivals.labels))
            count = next((count for count in counts if self.rule.verdict(whole.prefix(count)).stops), counts.stop)
            if not tokens:
                self._stops[evidence] = count
        return count


def _rights(labels: tuple[int | None, ...], arrived: Sequence[Ballot]) -> tuple[bool, ...]:
    """Whether each sample is right. Equal answers are equally right; where a recording says otherwise, as the first."""
    is_right: dict[int | None, bool] = {None: False}
    for label, ballot in zip(labels, arrived, strict=True):
        is_right.setdefault(label, ballot.is_right)
    return tuple(is_right[label] for label in labels)


def _so_far(rights: tuple[bool, ...]) -> list[bool]:
    """Whether one right answer has been verified after each arrival."""
    return list(accumulate(rights, or_))


def _is_judged(ballot: Ballot) -> bool:
    return ballot.reward is not None


def _first_right(arrivals: Arrivals) -> int:
    count = next((at for at, ending in enumerate(arrivals.endings, start=1) if ending.is_right), None)
    return len(arrivals.endings) if count is None else count


def _labels(arrived: Sequence[Ballot]) -> tuple[int | None, ...]:
    """Clusters by the order in which they are first seen, as live."""
    known: dict[str | int, int] = {}
    return tuple(None if ballot.answer is None else known.setdefault(ballot.answer, len(known)) for ballot in arrived)


def _finishing(tokens: Sequence[float], width: int) -> tuple[list[int], list[float]]:
    """The order in which samples finish, and the tokens that all have generated by then, running ones included."""
    if width == 1:
        return list(range(len(tokens))), list(accumulate(tokens))
    order: list[int] = []
    spent: list[float] = []
    running: list[tuple[float, int]] = []  # (when it finishes, which), time in tokens
    starts: dict[int, float] = {}
    finished = 0.0
    for at, now in _starting(tokens, width, running, starts):
        order.append(at)
        finished += tokens[at]
        spent.append(finished + sum(now - starts[sibling] for _, sibling in running))
    return order, spent


def _starting(
    tokens: Sequence[float], width: int, running: list[tuple[float, int]], starts: dict[int, float]
) -> Iterator[tuple[int, float]]:
    """Yields each sample as it finishes, with the time; the next one starts after that."""
    waiting = iter(range(len(tokens)))
    now = 0.0

    def start(count: int) -> None:
        for _, at in zip(range(count), waiting, strict=False):
            starts[at] = now
            heapq.heappush(running, (now + tokens[at], at))

    start(width)
    while running:
        now, at = heapq.heappop(running)
        yield at, now
        start(1)
