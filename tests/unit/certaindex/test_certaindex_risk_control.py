"""Testing along a path of thresholds: which pair is chosen, in which order, and how often a bad one passes."""

from __future__ import annotations

import numpy as np
import pytest

from dynasor_serve.certaindex.betting import Floats
from dynasor_serve.certaindex.risk_control import Counts, Grid, RiskControl


def grid_of(losses: Floats) -> Grid:
    """A grid whose pairs cost less the looser they are, each threshold alike."""
    _, uppers, lowers = losses.shape
    tokens = 100.0 - 2 * np.arange(uppers)[:, np.newaxis] - np.arange(lowers)
    return Grid(losses, np.maximum(losses, 0), np.broadcast_to(tokens, losses.shape))


def along(*means: float, questions: int = 1000) -> Floats:
    """One upper threshold per mean; the first questions are those that are lost."""
    at = np.arange(questions)[:, np.newaxis]
    return (at < np.array(means) * questions).astype(float)[:, :, np.newaxis]


def once(questions: int) -> Counts:
    return np.ones((1, questions), dtype=np.int64)


def test_the_loosest_pair_before_the_first_that_fails_is_chosen() -> None:
    chosen = RiskControl(grid_of(along(0, 0.001, 0.04, 0)), target=0.02, confidence=0.95).choose(once(1000), once(1000))
    assert (chosen.upper[0], chosen.lower[0]) == (1, 0)
    assert (chosen.tested[0], chosen.passed[0]) == (3, 2)


def test_nothing_is_chosen_where_the_strictest_fails() -> None:
    chosen = RiskControl(grid_of(along(0.04, 0)), target=0.02, confidence=0.95).choose(once(1000), once(1000))
    assert not chosen.is_certified[0]
    assert (chosen.upper[0], chosen.lower[0], chosen.tested[0]) == (-1, -1, 1)


def test_too_few_questions_choose_nothing_however_harmless() -> None:
    control = RiskControl(grid_of(along(0, 0)), target=0.02, confidence=0.95)
    few = (np.arange(1000) < 140).astype(np.int64)[np.newaxis]
    assert not control.choose(few, few).is_certified[0]
    enough = (np.arange(1000) < 190).astype(np.int64)[np.newaxis]
    assert control.choose(enough, enough).upper[0] == 1


def test_the_path_loosens_what_does_least_harm_per_token() -> None:
    losses = np.zeros((10, 3, 2))
    losses[:2, :, 1] = 1  # the lower threshold harms at once
    losses[0, 2, 0] = 1  # the upper one a little, at its last step
    upper, lower = RiskControl(grid_of(losses), target=0.02, confidence=0.95).path(once(10))
    assert [*zip(upper[0], lower[0], strict=True)] == [(0, 0), (1, 0), (2, 0), (2, 1)]


def test_the_path_sees_the_ordering_questions_alone() -> None:
    losses = np.zeros((2, 2, 2))
    losses[0, 1, :] = 1  # the first question dislikes the upper threshold,
    losses[1, :, 1] = 1  # the second the lower one
    control = RiskControl(grid_of(losses), target=0.02, confidence=0.95)
    upper, lower = control.path(np.array([[1, 0], [0, 1]]))
    assert [*zip(upper[:, 1], lower[:, 1], strict=True)] == [(0, 1), (1, 0)]


def test_every_path_goes_from_the_strictest_to_the_loosest_step_by_step() -> None:
    generator = np.random.default_rng(5)
    losses = generator.choice([-1.0, 0.0, 1.0], size=(50, 4, 3))
    upper, lower = RiskControl(grid_of(losses), target=0.02, confidence=0.95).path(generator.integers(0, 3, (20, 50)))
    assert (upper[:, 0] + lower[:, 0] == 0).all()
    assert ((np.diff(upper, axis=1) + np.diff(lower, axis=1)) == 1).all()
    assert (upper[:, -1] == 3).all()
    assert (lower[:, -1] == 2).all()


@pytest.mark.parametrize("seed", [3, 4])
def test_of_many_bad_pairs_one_passes_no_more_often_than_promised(seed: int) -> None:
    generator = np.random.default_rng(seed)
    population, target = 500, 0.02
    # Nine pairs, each a little above the target, on questions of their own.
    losses = np.stack([generator.permutation(np.arange(population) < 11) for _ in range(9)], axis=1).astype(float)
    assert (losses.mean(axis=0) > target).all()
    control = RiskControl(grid_of(losses.reshape(population, 3, 3)), target=target, confidence=0.95)
    drawn = [generator.multinomial(count, np.full(population, 1 / population), size=2000) for count in (100, 400)]
    assert control.choose(drawn[0], drawn[1]).is_certified.sum() <= 123


@pytest.mark.parametrize(
    ("losses", "named"),
    [
        (np.zeros((0, 1, 1)), "none empty"),
        (np.full((1, 1, 1), np.nan), "not in "),
        (np.full((1, 1, 1), 1.5), "not in "),
    ],
)
def test_a_grid_of_anything_else_is_refused(losses: Floats, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Grid(losses, np.zeros(losses.shape), np.zeros(losses.shape))
