"""Speculation on a pool that is not full: how much sooner are answers there, and what is wasted on it?

The questions of a recorded run are asked one after the other at random moments (Poisson). Each program runs `width`
samples at once, and as many as its cap while places are left over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from dynasor_serve.programs.query import QueryId
from dynasor_serve.simulation.recorded_programs import RecordedProgram, pool_of, recorded_votes
from dynasor_serve.simulation.virtual_pool import VirtualPool

_ORDERING = "expected-gain"


@dataclass(frozen=True, slots=True)
class SpeculationSettings:
    """What is played.

    Attributes:
        places: calls that run at once, in the whole pool.
        workers: that share them.
        width: of the programs.
        loads: shares of the pool that would be taken without speculation.
        rule: that stops a program before its cap.
        seconds_per_token: of each call; what is told of time is in proportion to it.
        seed: of the arrivals and of the order of samples.
    """

    places: int = 64
    workers: int = 4
    width: int = 4
    loads: tuple[float, ...] = (0.1, 0.5, 0.9)
    rule: str = "beta-posterior:confidence=0.95"
    seconds_per_token: float = 0.02
    seed: int = 0


class Served(NamedTuple):
    """How the programs of one play were served.

    Attributes:
        mean_seconds, p95_seconds: from the query to its answer.
        tokens: completion tokens of a program, in the mean.
        accuracy: in percent.
    """

    mean_seconds: float
    p95_seconds: float
    tokens: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same arrivals without speculation and with it, the mean over runs."""

    dataset: str
    load: float
    programs: int  # of all runs
    narrow: Served
    wide: Served

    @property
    def seconds_saved_percent(self) -> float:
        """Of the mean time to an answer."""
        return 100 * (1 - self.wide.mean_seconds / self.narrow.mean_seconds) if self.narrow.mean_seconds else 0.0

    @property
    def tokens_added_percent(self) -> float:
        """More completion tokens, in percent."""
        return 100 * (self.wide.tokens / self.narrow.tokens - 1) if self.narrow.tokens else 0.0


def speculation_of(files: Iterable[Path], settings: SpeculationSettings) -> list[Comparison]:
    """Plays the votes of files at each load, without speculation and with it.

    Raises:
        TraceFormatError: a line is no record or says what another has said, or there is no vote.
        InvalidRule: the rule is unknown or does not watch votes.
    """
    runs: defaultdict[str, list[list[RecordedProgram]]] = defaultdict(list)
    for key, votes in recorded_votes(files).items():
        programs = []
        for question, ballots in votes:
            started = list(ballots)
            key.shuffler(settings.seed, question).shuffle(started)
            programs.append(RecordedProgram.of(question, started))
        runs[key.dataset].append(programs)
    return [each for dataset, of_dataset in runs.items() for each in _comparisons(dataset, of_dataset, settings)]


def _comparisons(
    dataset: str, runs: Sequence[Sequence[RecordedProgram]], settings: SpeculationSettings
) -> Iterator[Comparison]:
    # What a program takes by itself tells how many of them fill the pool.
    alone = [served(programs, [1e9 * at for at in range(len(programs))], settings).tokens for programs in runs]
    for load in settings.loads:
        pairs = []
        for programs, tokens in zip(runs, alone, strict=True):
            gap = tokens * settings.seconds_per_token / (settings.places * load)
            arrivals = np.random.default_rng(settings.seed).exponential(gap, len(programs)).cumsum().tolist()
            pairs.append([served(programs, arrivals, settings, is_wide=is_wide) for is_wide in (False, True)])
        narrow, wide = (Served(*map(fmean, zip(*each, strict=True))) for each in zip(*pairs, strict=True))
        yield Comparison(dataset, load, sum(map(len, runs)), narrow, wide)


def served(
    programs: Sequence[RecordedProgram],
    arrivals: Sequence[float],
    settings: SpeculationSettings,
    *,
    is_wide: bool = False,
) -> Served:
    """Plays programs that arrive at such moments, in seconds."""
    virtual = VirtualPool(
        pool_of(_ORDERING, settings.places, settings.workers), seconds_per_token=settings.seconds_per_token
    )
    for number, (program, seconds) in enumerate(zip(programs, arrivals, strict=True)):
        idle_width = len(program.replies) if is_wide else 0
        query = program.query(width=settings.width, rule=settings.rule, idle_width=idle_width)
        virtual.submit(seconds, QueryId(str(number)), query, program.reply)
    waits, tokens, rights = [], [], []
    for change in virtual.run():
        outcome = change.program.outcome
        if outcome is not None:
            number = int(change.query_id)
            waits.append(change.seconds - arrivals[number])
            tokens.append(outcome.ledger.spent)
            rights.append(outcome.answer in programs[number].right_answers)
    return Served(fmean(waits), float(np.percentile(waits, 95)), fmean(tokens), 100 * fmean(rights))
