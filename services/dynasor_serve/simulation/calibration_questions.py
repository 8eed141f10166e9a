"""Recorded questions as a calibration takes them: what each loses and costs under each rule of a family.

Each question is replayed in several orders under each rule, as `simulation.replay` does; its loss is the mean over
orders and seeds. Questions whose samples say nothing about losses are refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dynasor_serve.certaindex.betting import Floats
from dynasor_serve.certaindex.risk_control import Grid
from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.engines.replay.traces import Place, placed_records
from dynasor_serve.simulation.outcomes import Ending
from dynasor_serve.simulation.replay import RunKey, check_new
from dynasor_serve.simulation.thresholds import Family, Promise, lead_family
from dynasor_serve.simulation.votes import Arrivals, Ballot, RuleAtVotes, VoteReplay, ballots_of

Reference = Literal["labels", "full-program"]

_MOST_NAMED = 4


class CalibrationError(ValueError):
    """Nothing can be promised from these questions; the message says why, and what it would take."""


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """What is calibrated, and how.

    Attributes:
        target: the most mean net loss, a share above 0 and below 1.
        confidence: of the promise, above 0 and below 1.
        width: samples that run side by side.
        cap: samples of a vote; None takes the number that most questions have.
        model, run: whose questions; None where the files hold no others.
        reference: what a stopped program is compared with, as in `AccuracyPolicy`.
        shuffles: random orders of each question's samples, at least 1.
        seed: of the shuffles, and of the ordering questions.
        family: the rules to choose from.
    """

    target: float = 0.02
    confidence: float = 0.95
    width: int = 1
    cap: int | None = None
    model: str | None = None
    run: str | None = None
    reference: Reference = "labels"
    shuffles: int = 20
    seed: int = 0
    family: Family = lead_family


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationQuestions:
    """Recorded questions of one model's run under each rule of a family.

    Attributes:
        promise: what the rules are for.
        model, run: whose.
        datasets: of the questions.
        rules: type strings, [upper][lower].
        grid: their losses and tokens, question by question.
        tokens_full: [questions] of the full programs.
        left_out: questions that had fewer samples than the cap.
    """

    promise: Promise
    model: str
    run: str | None
    datasets: tuple[str, ...]
    rules: Sequence[Sequence[str]]
    grid: Grid
    tokens_full: Floats
    left_out: int

    def __len__(self) -> int:
        """How many."""
        return len(self.tokens_full)


def calibration_questions(files: Sequence[Path], settings: CalibrationSettings) -> CalibrationQuestions:
    """Replay the recorded questions of one run under each rule of the family.

    Raises:
        TraceFormatError: a line is no record, or says what another line of its file has said.
        CalibrationError: the settings promise nothing, or the files do not hold one run of such questions.
    """
    runs = _runs(files, settings)
    if len(runs) != 1:
        raise CalibrationError(_which_run(runs, settings))
    return _questions(*next(iter(runs.items())), settings, _Rules(settings.family))


def every_run(
    files: Sequence[Path], settings: CalibrationSettings
) -> Iterator[CalibrationQuestions | CalibrationError]:
    """Yield what `calibration_questions` returns or raises for each run that the settings allow. Raises as it does."""
    runs = _runs(files, settings)
    if not runs:
        raise CalibrationError(_which_run(runs, settings))
    rules = _Rules(settings.family)
    for name, votes in runs.items():
        try:
            yield _questions(name, votes, settings, rules)
        except CalibrationError as error:
            yield CalibrationError(f"{' '.join(filter(None, name))}: {error}")


class _Votes(NamedTuple):
    """A recorded vote of one question and seed."""

    key: RunKey
    question: str  # with its dataset
    ballots: tuple[Ballot, ...]
    is_labelled: bool


def _runs(files: Iterable[Path], settings: CalibrationSettings) -> dict[tuple[str, str | None], list[_Votes]]:
    """The votes that the settings ask for, by model and the names of its run beside the dataset."""
    for term, value in (("target", settings.target), ("confidence", settings.confidence)):
        if not 0 < value < 1:
            raise CalibrationError(f"the {term} is {value:g}; it must be above 0 and below 1")
    runs: defaultdict[tuple[str, str | None], list[_Votes]] = defaultdict(list)
    seen: dict[tuple[object, ...], Place] = {}
    for place, record in placed_records(files):
        check_new(seen, place, record)
        if not isinstance(record, SamplesRecord) or record.verifiable:
            continue
        if settings.model not in (None, record.model) or (settings.run and settings.run not in record.run_names):
            continue
        key = RunKey.of(record, "votes")
        question = f"{record.dataset}/{record.question_id}"
        name = " ".join(filter(None, (key.run_id, key.effort, key.method))) or None
        runs[key.model, name].append(_Votes(key, question, ballots_of(record), record.gold is not None))
    return runs


def _questions(
    name: tuple[str, str | None], votes: Sequence[_Votes], settings: CalibrationSettings, family: _Rules
) -> CalibrationQuestions:
    """The questions of one run. Raises `CalibrationError` where nothing follows from them."""
    cap = settings.cap or Counter(len(each.ballots) for each in votes).most_common(1)[0][0]
    enough = [each for each in votes if len(each.ballots) >= cap]
    questions = {each.question for each in enough}
    if cap < 2:
        raise CalibrationError("the votes have one sample each; there is nothing to stop, so record more of each")
    if len(questions) < 2:
        raise CalibrationError(
            f"{len(questions) or 'no'} question has {cap} samples; a promise about others takes hundreds of them"
        )
    _check_labels(enough, settings.reference)
    promise = Promise(cap, settings.width, settings.target, settings.confidence)
    rules = family.at(promise)
    grid, full = _replayed(enough, rules, promise, settings)
    return CalibrationQuestions(
        promise=promise,
        model=name[0],
        run=name[1],
        datasets=tuple(dict.fromkeys(each.key.dataset for each in enough)),
        rules=[[str(each.rule) for each in row] for row in rules],
        grid=grid,
        tokens_full=full,
        left_out=len({each.question for each in votes} - questions),
    )


def _which_run(runs: Iterable[tuple[str, str | None]], settings: CalibrationSettings) -> str:
    """Why there is not one run."""
    named = [" ".join(filter(None, each)) for each in runs]
    if not named:
        wanted = " ".join(filter(None, (settings.model, settings.run)))
        return f"the files hold no votes{' of ' + wanted if wanted else ''}; give samples records that are voted on"
    shown = "; ".join(named[:_MOST_NAMED]) + ("; …" if len(named) > _MOST_NAMED else "")
    return f"the files hold {len(named)} runs ({shown}); a promise is for one: name it with --model and --run"


def _check_labels(votes: Iterable[_Votes], reference: Reference) -> None:
    """Raises where labels are asked for that say nothing."""
    if reference == "full-program":
        return
    listed = list(votes)
    unlabelled = sum(not each.is_labelled for each in listed)
    if unlabelled:
        raise CalibrationError(
            f"{unlabelled} of {len(listed)} votes have no gold answer, so nobody knows which answers are right; label "
            "them, or bound the disagreement with the full program instead: --reference full-program"
        )
    rights = {ballot.is_right for each in listed for ballot in each.ballots}
    if len(rights) == 1:
        raise CalibrationError(
            f"every sample is {'right' if rights.pop() else 'wrong'}, so no rule can lose anything here, and nothing "
            "follows for questions where it could; give questions of which some are answered right and some wrong"
        )


def _replayed(
    votes: Sequence[_Votes], asked: Sequence[Sequence[RuleAtVotes]], promise: Promise, settings: CalibrationSettings
) -> tuple[Grid, Floats]:
    """Losses, harms and tokens of each question under each rule, means over its votes and their orders."""
    replay, leads = VoteReplay(promise.width), _Leads()
    index = {question: at for at, question in enumerate(dict.fromkeys(each.question for each in votes))}
    shape = (len(index), len(asked), len(asked[0]))
    losses, harms, tokens = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    full, programs = np.zeros(len(index)), np.zeros(len(index))
    for vote in votes:
        at = index[vote.question]
        shuffler = vote.key.shuffler(settings.seed, vote.question)
        for _ in range(settings.shuffles):
            started = list(vote.ballots)
            shuffler.shuffle(started)
            arrivals = replay.arrivals(started[: promise.cap])
            if settings.reference == "full-program":
                arrivals = leads.agreeing(arrivals)
            programs[at] += 1
            full[at] += arrivals.endings[-1].tokens
            for upper, row in enumerate(asked):
                for lower, rule in enumerate(row):
                    stopped, whole = rule.replay(arrivals)
                    loss = whole.is_right - stopped.is_right
                    losses[at, upper, lower] += loss
                    harms[at, upper, lower] += loss > 0
                    tokens[at, upper, lower] += stopped.tokens
    each = programs[:, np.newaxis, np.newaxis]
    return Grid(losses / each, harms / each, tokens / each), full / programs


class _Rules:
    """The rules of a family, which remember what they said: votes of different runs are often alike."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._at: dict[Promise, list[list[RuleAtVotes]]] = {}

    def at(self, promise: Promise) -> list[list[RuleAtVotes]]:
        """The grid for a promise, [upper][lower]."""
        if promise not in self._at:
            rules = self._family(promise)
            self._at[promise] = [[RuleAtVotes(parse_vote_rule(rule)) for rule in row] for row in rules]
        return self._at[promise]


class _Leads:
    """Turns "is it right?" into "is it the full program's answer?"."""

    def __init__(self) -> None:
        self._agreeing: dict[tuple[int | None, ...], tuple[bool, ...]] = {}

    def agreeing(self, arrivals: Arrivals) -> Arrivals:
        """The same vote, right wherever its leader is the one at its end."""
        labels = arrivals.labels
        agrees = self._agreeing.get(labels)
        if agrees is None:
            whole = Votes(labels, len(labels))
            agrees = tuple(whole.prefix(count).leader == whole.leader for count in range(1, len(labels) + 1))
            self._agreeing[labels] = agrees
        endings = (Ending(agrees, ending.tokens) for agrees, ending in zip(agrees, arrivals.endings, strict=True))
        return replace(arrivals, endings=tuple(endings))
