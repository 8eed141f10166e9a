"""Does the promise hold? Calibration repeated thousands of times on questions whose true losses are known.

The recorded questions of a run are taken for the population, so the mean loss of each rule on them is its true risk.
Calibration sets are drawn from them with replacement, each is calibrated, and the true risk of what it chose is
compared with the target. Recorded rules lose little, so others are made of them whose risk lies just above the target,
where a mistake is likeliest. Beside it stands a control that takes the cheapest rule whose loss on the whole set is at
most the target, as one would without a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from dynasor_serve.certaindex.betting import Floats
from dynasor_serve.certaindex.risk_control import Counts, Grid, RiskControl
from dynasor_serve.simulation.calibration import ORDERING_SHARE
from dynasor_serve.simulation.calibration_questions import CalibrationQuestions

SIZES = (250, 500, 1000)  # questions of a calibration set
SETS = 2000

_ABOVE = 1.001  # of the target: where a rule is just too bad
_SWING = 0.1  # share of the questions that the restless rules turn right, and more than that wrong
_BISECTIONS = 60
_ROUNDING = 1e-9
_UNLUCKY = 0.99  # a study whose error rate is exactly δ passes with this probability


@dataclass(frozen=True, slots=True)
class StudyRow:
    """Calibration sets of one size from one population.

    Attributes:
        dataset, model, run: whose recorded questions.
        population: `recorded`, or what was made of them.
        population_questions, questions: in the population, and in each set.
        sets: how many were drawn.
        exceeded: sets whose chosen rule has a true risk above the target.
        allowed: the most of them that the confidence explains, in 99 % of studies.
        certified_percent: sets that got a promise at all.
        saved_percent: tokens saved in the population, mean over sets; 0 for those without a promise.
        control_exceeded, control_saved_percent: of the control.
    """

    dataset: str
    model: str
    run: str | None
    population: str
    population_questions: int
    questions: int
    sets: int
    exceeded: int
    allowed: int
    certified_percent: float
    saved_percent: float
    control_exceeded: int
    control_saved_percent: float

    @property
    def is_valid(self) -> bool:
        """Whether the promise holds as often as it says."""
        return self.exceeded <= self.allowed

    @property
    def control_fails(self) -> bool:
        """Whether the control exceeds more often than that."""
        return self.control_exceeded > self.allowed


def study(
    recorded: CalibrationQuestions, *, sizes: Sequence[int] = SIZES, sets: int = SETS, seed: int = 0
) -> Iterator[StudyRow]:
    """Yield a row per population and size.

    Args:
        recorded: the questions of a run.
        sizes: questions of a calibration set.
        sets: how many are drawn of each size.
        seed: of the draws.
    """
    promise = recorded.promise
    generator = np.random.default_rng(seed)
    allowed = int(binom.ppf(_UNLUCKY, sets, 1 - promise.confidence))
    saved = 100 * (1 - recorded.grid.tokens.mean(axis=0) / recorded.tokens_full.mean())
    for name, make in _POPULATIONS.items():
        grid = make(recorded.grid, _ABOVE * promise.target, generator)
        control = RiskControl(grid, target=promise.target, confidence=promise.confidence)
        is_too_bad = grid.losses.mean(axis=0) > promise.target + _ROUNDING
        for size in sizes:
            few = max(1, round(ORDERING_SHARE * size))
            ordering, testing = (_drawn(generator, len(recorded), count, sets) for count in (few, size - few))
            chosen = control.choose(ordering, testing)
            certified = chosen.is_certified
            naive = _cheapest_in_sample(grid, ordering + testing, promise.target)
            yield StudyRow(
                dataset=", ".join(recorded.datasets),
                model=recorded.model,
                run=recorded.run,
                population=name,
                population_questions=len(recorded),
                questions=size,
                sets=sets,
                exceeded=int((certified & is_too_bad[chosen.upper, chosen.lower]).sum()),
                allowed=allowed,
                certified_percent=float(100 * certified.mean()),
                saved_percent=float(np.where(certified, saved[chosen.upper, chosen.lower], 0).mean()),
                control_exceeded=int(np.where(naive < 0, False, is_too_bad.ravel()[naive]).sum()),
                control_saved_percent=float(np.where(naive < 0, 0, saved.ravel()[naive]).mean()),
            )


def _drawn(generator: np.random.Generator, population: int, questions: int, sets: int) -> Counts:
    return generator.multinomial(questions, np.full(population, 1 / population), size=sets)


def _cheapest_in_sample(grid: Grid, drawn: Counts, target: float) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """[sets] The flat index of the cheapest rule whose loss on the set is at most the target; -1 where none is."""
    questions = len(grid.losses)
    shares = drawn / drawn.sum(axis=1, keepdims=True)
    losses = shares @ grid.losses.reshape(questions, -1)
    tokens = shares @ grid.tokens.reshape(questions, -1)
    keeps = losses <= target + _ROUNDING
    return np.where(keeps.any(axis=1), np.where(keeps, tokens, np.inf).argmin(axis=1), -1)


# --- populations ---


def _recorded(grid: Grid, _risk: float, _generator: np.random.Generator) -> Grid:
    """As it is."""
    return grid


def _rare(grid: Grid, risk: float, generator: np.random.Generator) -> Grid:
    """Every rule loses a few questions wholly, the same ones, and nothing else."""
    return _with_losses(grid, _few_lost(grid, risk, generator))


def _restless(grid: Grid, risk: float, generator: np.random.Generator) -> Grid:
    """Every rule turns many questions right and a few more wrong: what counts is the difference of two large sums."""
    return _with_losses(grid, _few_lost(grid, risk + _SWING, generator, others_right=_SWING))


def _shifted(grid: Grid, risk: float, _generator: np.random.Generator) -> Grid:
    """Each rule's recorded losses, all moved alike until their mean is the risk."""
    low, high = np.full(grid.losses.shape[1:], -2.0), np.full(grid.losses.shape[1:], 2.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_low = np.clip(grid.losses + middle, -1, 1).mean(axis=0) < risk
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return _with_losses(grid, np.clip(grid.losses + high, -1, 1))


def _cliff(grid: Grid, risk: float, generator: np.random.Generator) -> Grid:
    """The strict half of the upper thresholds as recorded; the loose half loses a few questions wholly."""
    is_loose = np.arange(grid.losses.shape[1]) >= grid.losses.shape[1] // 2
    lost = _few_lost(grid, risk, generator)
    return _with_losses(grid, np.where(is_loose[:, np.newaxis], lost, grid.losses))


_POPULATIONS: dict[str, Callable[[Grid, float, np.random.Generator], Grid]] = {
    "recorded": _recorded,
    "rare harm": _rare,
    "restless": _restless,
    "shifted": _shifted,
    "cliff": _cliff,
}


def _few_lost(grid: Grid, risk: float, generator: np.random.Generator, others_right: float = 0.0) -> Floats:
    """Losses of 1 on so large a share of random questions, the last one in part, and of -1 on a share of the others."""
    questions = len(grid.losses)
    lost = np.clip(risk * questions - np.arange(questions), 0, 1)
    gained = np.clip(others_right * questions - np.arange(questions), 0, 1)[::-1]
    losses = generator.permutation(lost - gained)
    return np.broadcast_to(losses[:, np.newaxis, np.newaxis], grid.losses.shape)


def _with_losses(grid: Grid, losses: Floats) -> Grid:
    return Grid(losses, np.maximum(losses, 0), grid.tokens)
