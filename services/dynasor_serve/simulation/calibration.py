"""An accuracy SLO from recorded votes: which thresholds keep it, and what do they save? `dynasor calibrate` without I/O
but for its traces.

Each question is replayed in several orders under each rule of a family, as `simulation.replay` does; its loss is the
mean over orders and seeds. What those losses allow to be promised is `certaindex.risk_control`'s question.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dynasor_serve.certaindex.accuracy_policy import AccuracyPolicy, Source
from dynasor_serve.certaindex.betting import questions_needed, upper_bound
from dynasor_serve.certaindex.risk_control import Counts, Grid, RiskControl
from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.engines.replay.traces import Place, placed_records, trace_files
from dynasor_serve.simulation.outcomes import Ending
from dynasor_serve.simulation.replay import RunKey, check_new
from dynasor_serve.simulation.thresholds import Family, Promise, lead_family
from dynasor_serve.simulation.votes import Arrivals, Ballot, RuleAtVotes, VoteReplay, ballots_of

Reference = Literal["labels", "full-program"]

ORDERING_SHARE = 0.2  # of the questions; the more order, the fewer test
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


class _Votes(NamedTuple):
    """A recorded vote of one question and seed."""

    key: RunKey
    question: str  # with its dataset
    ballots: tuple[Ballot, ...]
    is_labelled: bool


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
    tokens_full: np.ndarray[tuple[int], np.dtype[np.float64]]
    left_out: int

    def __len__(self) -> int:
        """How many."""
        return len(self.tokens_full)


class Step(NamedTuple):
    """One rule on the path that was tested.

    Attributes:
        rule: its type string.
        loss: mean net loss on the testing questions.
        bound: its upper confidence bound, of this rule alone.
        harm, rescue: testing questions turned wrong and right, in the mean over their programs.
        saved_percent: tokens saved on the testing questions.
        passed: whether the loss is below the target, with confidence.
    """

    rule: str
    loss: float
    bound: float
    harm: float
    rescue: float
    saved_percent: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `dynasor calibrate` found.

    Attributes:
        policy: as it is written.
        steps: the path as far as it was tested: all that passed, and the one that did not, if there is one.
        next_needs: questions that would take the step that did not pass, at its losses here; None where no number
            would, or all passed.
    """

    policy: AccuracyPolicy
    steps: tuple[Step, ...]
    next_needs: int | None


def calibrate(files: Sequence[Path], settings: CalibrationSettings) -> Calibration:
    """Choose the policy that saves most among those that keep an accuracy SLO.

    Raises:
        TraceFormatError: a line is no record, or says what another line of its file has said.
        CalibrationError: the settings promise nothing, the files hold no such questions, or too few.
    """
    questions = calibration_questions(files, settings)
    ordering = ordering_questions(len(questions), settings.seed)[np.newaxis]
    testing = 1 - ordering
    control = RiskControl(questions.grid, target=settings.target, confidence=settings.confidence)
    chosen = control.choose(ordering, testing)
    uppers, lowers = control.path(ordering)
    steps = tuple(
        _step(questions, control, ordering[0], upper, lower, passed=at < chosen.passed[0])
        for at, (upper, lower) in enumerate(zip(uppers[0], lowers[0], strict=True))
        if at < chosen.tested[0]
    )
    if not chosen.is_certified[0]:
        raise CalibrationError(_too_few(questions, control, ordering))
    needed = None
    if not steps[-1].passed:
        failed = len(steps) - 1
        needed = _needed(questions, uppers[0, failed], lowers[0, failed])
    best = steps[chosen.passed[0] - 1]
    policy = AccuracyPolicy(
        model=questions.model,
        run=questions.run,
        cap=questions.promise.cap,
        width=settings.width,
        datasets=list(questions.datasets),
        sources=[Source(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in trace_files(files)],
        rule=best.rule,
        target=settings.target,
        confidence=settings.confidence,
        reference=settings.reference,
        ordering_questions=int(ordering.sum()),
        testing_questions=int(testing.sum()),
        left_out_questions=questions.left_out,
        loss=best.loss,
        bound=best.bound,
        harm=best.harm,
        rescue=best.rescue,
        saved_percent=best.saved_percent,
        shuffles=settings.shuffles,
        seed=settings.seed,
    )
    return Calibration(policy, steps, needed)


def _too_few(questions: CalibrationQuestions, control: RiskControl, ordering: Counts) -> str:
    """What it would take to promise anything, and the first rule on the path that saves more than arithmetic does."""
    promise, (uppers, lowers) = questions.promise, control.path(ordering)
    tokens = questions.grid.tokens[:, uppers[0], lowers[0]].sum(axis=0)
    more = int(np.argmax(tokens < tokens[0]))  # 0 where none saves more
    needed = [_needed(questions, uppers[0, at], lowers[0, at]) for at in (0, more)]
    first, second = ("no number" if each is None else f"about {each}" for each in needed)
    return (
        f"{len(questions)} questions are too few to promise a loss of at most {promise.target:g} with confidence "
        f"{promise.confidence:g}: at the observed variance it takes {first} for any promise, and {second} for "
        f"{questions.rules[uppers[0, more]][lowers[0, more]]}; give more questions, a larger target or less "
        "confidence, or use majority-locked, which needs none"
    )


def _needed(questions: CalibrationQuestions, upper: int, lower: int) -> int | None:
    """Questions that one rule takes, at its losses here; those that order included."""
    losses = questions.grid.losses[:, upper, lower]
    testing = questions_needed(losses, questions.promise.target, questions.promise.confidence)
    return None if testing is None else ceil(testing / (1 - ORDERING_SHARE))


def calibration_questions(files: Sequence[Path], settings: CalibrationSettings) -> CalibrationQuestions:
    """Replay the recorded questions under each rule of the family. Raises as `calibrate`."""
    for name, value in (("target", settings.target), ("confidence", settings.confidence)):
        if not 0 < value < 1:
            raise CalibrationError(f"the {name} is {value:g}; it must be above 0 and below 1")
    runs = _runs(files, settings)
    if len(runs) != 1:
        raise CalibrationError(_which_run(runs, settings))
    ((model, run), votes) = next(iter(runs.items()))
    cap = settings.cap or Counter(len(each.ballots) for each in votes).most_common(1)[0][0]
    enough = [each for each in votes if len(each.ballots) >= cap]
    questions = list(dict.fromkeys(each.question for each in enough))
    left_out = len({each.question for each in votes} - set(questions))
    if cap < 2:
        raise CalibrationError("the votes have one sample each; there is nothing to stop, so record more of each")
    if len(questions) < 2:
        raise CalibrationError(
            f"{len(questions) or 'no'} question has {cap} samples; a promise about others takes hundreds of them"
        )
    _check_labels(enough, settings.reference)
    promise = Promise(cap, settings.width, settings.target, settings.confidence)
    rules = settings.family(promise)
    grid, full = _replayed(enough, rules, promise, settings)
    datasets = dict.fromkeys(each.key.dataset for each in enough)
    return CalibrationQuestions(promise, model, run, tuple(datasets), rules, grid, full, left_out)


def ordering_questions(count: int, seed: int) -> Counts:
    """Which of so many questions order, as 0 and 1: a fifth of them, drawn by the seed."""
    drawn = np.zeros(count, dtype=np.int64)
    drawn[np.random.default_rng(seed).permutation(count)[: max(1, round(ORDERING_SHARE * count))]] = 1
    return drawn


def _runs(files: Iterable[Path], settings: CalibrationSettings) -> dict[tuple[str, str | None], list[_Votes]]:
    """The votes that the settings ask for, by model and the names of its run beside the dataset."""
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
    votes: Sequence[_Votes], rules: Sequence[Sequence[str]], promise: Promise, settings: CalibrationSettings
) -> tuple[Grid, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Losses, harms and tokens of each question under each rule, means over its votes and their orders."""
    asked = [[RuleAtVotes(parse_vote_rule(rule)) for rule in row] for row in rules]
    replay, leads = VoteReplay(promise.width), _Leads()
    index = {question: at for at, question in enumerate(dict.fromkeys(each.question for each in votes))}
    shape = (len(index), len(rules), len(rules[0]))
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


def _step(
    questions: CalibrationQuestions, control: RiskControl, ordering: Counts, upper: int, lower: int, *, passed: bool
) -> Step:
    testing = ordering == 0
    losses = questions.grid.losses[testing, upper, lower]
    harm = float(questions.grid.harms[testing, upper, lower].sum())
    tokens = questions.grid.tokens[testing, upper, lower].sum()
    return Step(
        rule=questions.rules[upper][lower],
        loss=float(losses.mean()),
        bound=upper_bound(losses, questions.promise.confidence, control.log_parts(ordering, upper, lower)),
        harm=harm,
        rescue=harm - float(losses.sum()),
        saved_percent=float(100 * (1 - tokens / questions.tokens_full[testing].sum())),
        passed=bool(passed),
    )
