"""The paper's batch experiment on recorded programs: allocation policies over caps (arXiv 2412.20993, section 4).

Its figure 7 is drawn over votes: each policy at each cap, so that a line per policy shows accuracy against tokens. Its
figure 6 is about single chains, which have no cap: each rule is one point beside the uniform budget, and so it is for
recorded trees. A verifiable vote has one policy: it ends at its first verified answer. What a
policy must be told is fitted per run, on the half of its questions that it is not scored on.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynasor_serve.certaindex.profiler import fit
from dynasor_serve.certaindex.rules.registry import parse_chain_rule, parse_vote_rule
from dynasor_serve.engines.replay.records import ProbesRecord, Record, SamplesRecord, StepsRecord
from dynasor_serve.engines.replay.traces import Place, TraceFormatError, placed_records
from dynasor_serve.simulation.chains import RecordedChain, recorded_chain, replay_chain
from dynasor_serve.simulation.labelling import labelled
from dynasor_serve.simulation.outcomes import Ladder, Replayed, TraceUnscorable
from dynasor_serve.simulation.replay import RunKey, check_new
from dynasor_serve.simulation.scores import PlainBudgets, Score, Tally, mean_accuracy, mean_score
from dynasor_serve.simulation.trees import RecordedTree
from dynasor_serve.simulation.votes import Arrivals, Ballot, RuleAtVotes, VoteReplay, ballots_of

_DETECT = 5  # samples, the paper's detection step for self-consistency
_CAPS = (4, 5, 6, 8, 12, 16, 24, 32)

#: Policies that are told everything beforehand: the paper's settings, and what it is compared with.
_FIXED: Mapping[str, str] = {
    "even": "even",
    "static-threshold": f"static-threshold:threshold=0.7,detect={_DETECT}",
    "5-step": "n-step-threshold:threshold=0.7,every=5",
    "single-step": "n-step-threshold:threshold=0.7,every=1",
    "beta-posterior": "beta-posterior:confidence=0.95",
}
#: Policies that the profiler fits: name in the study -> rule.
_FITTED: Mapping[str, str] = {
    "length": "length",
    "static-threshold, fitted": "static-threshold",
    "initial-curve": "initial-curve",
    "dynamic-curve": "dynamic-curve",
}
#: Rules for single chains: the research code's presets, and later ones.
_CHAIN_RULES = (
    "consensus-window:window=8,interval=64",
    "consensus-window:window=5,interval=64",
    "consensus-window:window=3,interval=64",
    "consensus-window:window=2,interval=64",
    "consensus-window:window=8,interval=256",
    "consensus-window:window=8,interval=512",
    "trial-confidence:threshold=0.95,repeats=2",
    "trial-confidence:threshold=0.99,repeats=3",
    "trial-confidence:threshold=0.995",
)


#: Rules for trees: answers that agree, a path that is judged well, and both.
_TREE_RULES = (
    "even",
    "static-threshold:threshold=0.85,detect=3",
    "reward-threshold:max=0.99,detect=1",
    "static-threshold:threshold=0.75,detect=3 & reward-threshold:max=0.5,detect=3",
)
_VERIFIED = "first verified"


@dataclass(frozen=True, slots=True)
class AllocationSettings:
    """How votes are replayed: one sample at a time, in random orders."""

    shuffles: int = 20
    seed: int = 0


#: What is drawn together: kind, dataset, source.
Panel = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Point:
    """One policy at one cap, the mean over the runs of a dataset.

    Attributes:
        dataset, source, kind: what was replayed.
        policy: its name in the study; of chains the rule.
        cap: most samples; None for chains.
        runs: how many the mean is over.
        score: against the same program at the same cap.
        saved_percent: tokens saved, the mean over runs.
        saved_at_equal_accuracy: tokens saved, in percent, against the cheapest uniform budget that is as accurate.
    """

    dataset: str
    source: str | None
    kind: str
    policy: str
    cap: int | None
    runs: int
    score: Score
    saved_percent: float
    saved_at_equal_accuracy: float

    @property
    def panel(self) -> Panel:
        """What it is drawn with."""
        return self.kind, self.dataset, self.source


@dataclass(frozen=True, slots=True)
class Study:
    """The whole experiment.

    Attributes:
        points: by dataset, policy and cap.
        plain: the uniform budgets of each dataset, one curve per run.
    """

    points: list[Point]
    plain: dict[Panel, list[PlainBudgets]]


def study_of(files: Iterable[Path], settings: AllocationSettings) -> Study:
    """Replays all records of files under all policies.

    Raises:
        TraceFormatError: a line is no record, cannot be scored or says what another has said, or there is none.
    """
    runs: defaultdict[RunKey, list[_Recorded]] = defaultdict(list)
    seen: dict[tuple[object, ...], Place] = {}
    for place, record in placed_records(files):
        check_new(seen, place, record)
        key, recorded = _recorded(record, place)
        runs[key].append(recorded)
    if not runs:
        raise TraceFormatError("the files hold no record; give recorded traces, one JSON object per line")
    study = Study([], {})
    for group in _by_dataset(runs):
        key = group[0][0]
        plain = study.plain[key.kind, key.dataset, key.source] = []
        votes = [(key, [each for each in of_run if isinstance(each, _Vote)]) for key, of_run in group]
        if votes[0][1]:
            study.points.extend(_vote_points(votes, settings, plain))
        else:
            study.points.extend(_single_points(group, plain))
    return study


@dataclass(frozen=True, slots=True)
class _Vote:
    """A recorded vote."""

    question_id: str
    ballots: tuple[Ballot, ...]
    is_verifiable: bool


@dataclass(frozen=True, slots=True)
class _Chain:
    """A recorded chain under every rule that suits it."""

    question_id: str
    chain: RecordedChain

    @property
    def plain(self) -> Ladder:
        return self.chain.ladder()

    def replayed(self) -> Iterator[tuple[str, Replayed]]:
        for rule in _CHAIN_RULES:
            parsed = parse_chain_rule(rule)
            if self.chain.suits(parsed):
                yield rule, replay_chain(self.chain, parsed).replayed


@dataclass(frozen=True, slots=True)
class _Tree:
    """A recorded tree under every rule."""

    question_id: str
    tree: RecordedTree

    @property
    def plain(self) -> Ladder:
        return self.tree.ladder()

    def replayed(self) -> Iterator[tuple[str, Replayed]]:
        for rule in _TREE_RULES:
            yield rule, self.tree.replay(parse_vote_rule(rule))


_Recorded = _Vote | _Chain | _Tree


def _recorded(record: Record, place: Place) -> tuple[RunKey, _Recorded]:
    try:
        match record:
            case SamplesRecord():
                vote = _Vote(record.question_id, ballots_of(record), record.verifiable)
                return RunKey.of(record, "votes"), vote
            case ProbesRecord():
                return RunKey.of(record, "chains"), _Chain(record.question_id, recorded_chain(record))
            case StepsRecord():
                return RunKey.of(record, "trees"), _Tree(record.question_id, RecordedTree(record))
    except TraceUnscorable as error:
        raise TraceFormatError(f"{place}: {error}") from error


def _vote_points(
    runs: Sequence[tuple[RunKey, Sequence[_Vote]]], settings: AllocationSettings, plain: list[PlainBudgets]
) -> Iterator[Point]:
    """The points of a dataset; `plain` takes the curves of its runs."""
    most = max(len(vote.ballots) for _, votes in runs for vote in votes)
    caps = [cap for cap in _CAPS if cap <= most] or [most]
    tallies: defaultdict[tuple[str, int], list[Tally]] = defaultdict(list)
    is_verifiable = runs[0][1][0].is_verifiable
    for key, votes in runs:  # one after the other: shuffled votes take room
        run = _VoteRun(key, votes, caps, settings)
        plain.append(run.plain)
        for policy in ("even", _VERIFIED) if is_verifiable else (*_FIXED, *_FITTED):
            for cap in caps:
                tallies[policy, cap].append(run.tally(policy, cap))
    for (policy, cap), of_policy in tallies.items():
        yield _point(runs[0][0], policy, cap, of_policy, plain)


class _VoteRun:
    """The votes of one run, shuffled once for all policies and caps."""

    def __init__(self, key: RunKey, votes: Sequence[_Vote], caps: Sequence[int], settings: AllocationSettings) -> None:
        self.plain = PlainBudgets(by_tokens=False)
        self._is_verifiable = votes[0].is_verifiable
        self._arrivals: dict[int, dict[str, list[Arrivals]]] = {cap: defaultdict(list) for cap in caps}
        replay = VoteReplay(width=1)
        for vote in votes:
            shuffler = key.shuffler(settings.seed, vote.question_id)
            for _ in range(settings.shuffles):
                started = list(vote.ballots)
                shuffler.shuffle(started)
                capped = {cap: replay.arrivals(started[:cap], is_verifiable=self._is_verifiable) for cap in caps}
                for cap, arrivals in capped.items():
                    self._arrivals[cap][vote.question_id].append(arrivals)
                self.plain.add(capped[caps[-1]].ladder)

    def tally(self, policy: str, cap: int) -> Tally:
        """Scores a policy at a cap, each half of the questions with what the other half has taught it."""
        tally = Tally()
        for scored in (0, 1):
            rule = RuleAtVotes(parse_vote_rule(self._type_string(policy, cap, taught_by=1 - scored)))
            for question, votes in self._arrivals[cap].items():
                if _half(question) == scored:
                    for arrivals in votes:
                        tally.add(question, rule.replay(arrivals, is_verifiable=self._is_verifiable))
        return tally

    def _type_string(self, policy: str, cap: int, *, taught_by: int) -> str:
        if policy == _VERIFIED:
            return "majority-locked"  # any rule but even: what is verified ends the vote
        if policy in _FIXED:
            return _FIXED[policy]
        taught = [
            labelled(arrivals)
            for question, votes in self._arrivals[cap].items()
            if _half(question) == taught_by
            for arrivals in votes[:1]
            if len(arrivals.labels) == cap
        ]
        return fit(_FITTED[policy], taught, detect=min(_DETECT, cap - 1)) if taught and cap > 1 else "even"


def _single_points(runs: Sequence[tuple[RunKey, Sequence[_Recorded]]], plain: list[PlainBudgets]) -> Iterator[Point]:
    """The points of a dataset; `plain` takes the curves of its runs."""
    tallies: defaultdict[str, list[tuple[Tally, PlainBudgets]]] = defaultdict(list)  # a rule may not suit every run
    for key, programs in runs:
        budgets = PlainBudgets(by_tokens=key.kind == "chains")
        of_run: defaultdict[str, Tally] = defaultdict(Tally)
        for program in programs:
            assert not isinstance(program, _Vote)
            budgets.add(program.plain)
            for rule, replayed in program.replayed():
                of_run[rule].add(program.question_id, replayed)
        plain.append(budgets)
        for rule, tally in of_run.items():
            tallies[rule].append((tally, budgets))
    for rule, of_rule in tallies.items():
        yield _point(runs[0][0], rule, None, *zip(*of_rule, strict=True))


def _point(key: RunKey, policy: str, cap: int | None, tallies: Sequence[Tally], plain: Sequence[PlainBudgets]) -> Point:
    scores = [tally.score(budgets) for tally, budgets in zip(tallies, plain, strict=True)]
    score = mean_score(tallies, scores)
    full = [budgets.curve()[0][-1] for budgets in plain]  # tokens at the largest cap
    shares = [score.tokens / tokens if tokens else 1.0 for score, tokens in zip(scores, full, strict=True)]
    uniform = uniform_share(plain, score.accuracy) if any(full) else 1.0
    return Point(
        dataset=key.dataset,
        source=key.source,
        kind=key.kind,
        policy=policy,
        cap=cap,
        runs=len(tallies),
        score=score,
        saved_percent=sum(each.saved_percent for each in scores) / len(scores),
        saved_at_equal_accuracy=100 * (1 - sum(shares) / len(shares) / uniform),
    )


def uniform_share(plain: Sequence[PlainBudgets], accuracy: float) -> float:
    """The least share of its full tokens with which the uniform budget is as accurate, 1 where it never is.

    Args:
        plain: one curve per run.
        accuracy: in percent, mean over runs.
    """
    shares = np.linspace(0.005, 1, 200)
    mean = mean_accuracy(plain, shares)
    reached = np.flatnonzero(mean >= accuracy - 1e-9)
    return float(shares[reached[0]]) if len(reached) else 1.0


def _half(question: str) -> int:
    """The half of the questions that one belongs to, the same in every run."""
    return zlib.crc32(question.encode()) % 2


def _by_dataset(runs: Mapping[RunKey, list[_Recorded]]) -> list[list[tuple[RunKey, list[_Recorded]]]]:
    datasets: defaultdict[tuple[str, str, str | None], list[tuple[RunKey, list[_Recorded]]]] = defaultdict(list)
    for key, of_run in runs.items():
        datasets[key.kind, key.dataset, key.source].append((key, of_run))
    return list(datasets.values())
