"""An accuracy SLO from recorded votes: which thresholds keep it, and what do they save? `dynasor calibrate` without
its command line.

`calibration_questions` says what the rules of a family lose and cost; `certaindex.risk_control` what that allows to be
promised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dynasor_serve.certaindex.accuracy_policy import AccuracyPolicy, Source
from dynasor_serve.certaindex.betting import questions_needed, upper_bound
from dynasor_serve.certaindex.risk_control import Counts, RiskControl
from dynasor_serve.engines.replay.traces import trace_files
from dynasor_serve.simulation.calibration_questions import (
    CalibrationError,
    CalibrationQuestions,
    CalibrationSettings,
    calibration_questions,
)

ORDERING_SHARE = 0.2  # of the questions; the more order, the fewer test


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


def ordering_questions(count: int, seed: int) -> Counts:
    """Which of so many questions order, as 0 and 1: a fifth of them, drawn by the seed."""
    drawn = np.zeros(count, dtype=np.int64)
    drawn[np.random.default_rng(seed).permutation(count)[: max(1, round(ORDERING_SHARE * count))]] = 1
    return drawn


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
