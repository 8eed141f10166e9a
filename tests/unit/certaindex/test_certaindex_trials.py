"""What a rule sees of one chain: consensus, runs, and what never counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.trials import Trials
from unit.certaindex.chains import chain

STEPS = st.lists(st.tuples(st.one_of(st.none(), st.integers(0, 3)), st.booleans()), max_size=16)


def of(steps: list[tuple[int | None, bool]]) -> Trials:
    return Trials(
        labels=tuple(label for label, _ in steps),
        positions=tuple(range(64, 64 * (len(steps) + 1), 64)),
        confidences=(None,) * len(steps),
        hesitant=tuple(hesitant for _, hesitant in steps),
    )


@pytest.mark.parametrize(
    ("answers", "window", "consensus"),
    [
        ("", 1, 0.0),
        ("a", 1, 1.0),
        ("a", 2, 0.0),  # fewer trials than the window
        ("aa", 2, 1.0),
        ("ba", 2, 0.5),  # the last agrees with itself
        ("abab", 4, 0.5),
        ("bbba", 4, 0.25),  # the last one decides which answer is counted
        ("abbb", 3, 1.0),
        ("aa-a", 4, 0.75),
        ("aa-", 2, 0.0),  # an empty last answer agrees with nothing
        ("--", 2, 0.0),  # not even with an empty one
        ("aaaA", 4, 0.0),  # a hesitant last answer agrees with nothing
        ("aAaa", 4, 0.75),  # nor does a hesitant one before it
        ("AA", 2, 0.0),
    ],
)
def test_consensus(answers: str, window: int, consensus: float) -> None:
    assert chain(answers).consensus(window) == consensus


@pytest.mark.parametrize(
    ("answers", "run", "last"),
    [
        ("", 0, None),
        ("-", 0, None),
        ("A", 0, None),
        ("a", 1, 0),
        ("aaa", 3, 0),
        ("baa", 2, 1),
        ("a-a", 1, 0),
        ("aAa", 1, 0),
        ("aa-", 0, 0),  # the chain's answer is the last one that was meant
        ("abA", 0, 1),
    ],
)
def test_runs_and_the_last_answer_that_counts(answers: str, run: int, last: int | None) -> None:
    trials = chain(answers)
    assert trials.last_run() == run
    assert trials.last == last
    assert trials.count == len(answers)


@given(STEPS, st.integers(1, 8))
def test_consensus_is_the_papers_formula(steps: list[tuple[int | None, bool]], window: int) -> None:
    """C_k = (1/w) Σ 1[y_j = y_k], where an empty or hesitant answer is unlike all others, itself included."""
    answers = [label if label is not None and not hesitant else object() for label, hesitant in steps]
    expected = 0.0
    if len(steps) >= window and isinstance(answers[-1], int):
        expected = sum(answer == answers[-1] for answer in answers[-window:]) / window
    assert of(steps).consensus(window) == expected


@given(STEPS, st.integers(1, 8))
def test_a_full_consensus_is_a_run_as_long_as_the_window(steps: list[tuple[int | None, bool]], window: int) -> None:
    trials = of(steps)
    assert (trials.consensus(window) == 1) == (trials.last_run() >= window)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"labels": (0,)}, "1 labels, 2 positions, 2 confidences and 2 hesitations"),
        ({"hesitant": (False, False, True)}, "3 hesitations"),
        ({"positions": (64, 64)}, "a trial at token 64 follows one at 64"),
        ({"positions": (-1, 64)}, "a trial at token -1"),
        ({"confidences": (0.5, 1.01)}, "confidence 1.01; it must be in [0, 1]"),
        ({"confidences": (float("nan"), None)}, "confidence nan"),
        ({"confidences": (None, float("inf"))}, "confidence inf"),
        ({"limit": -1}, "at most -1 tokens"),
    ],
)
def test_what_cannot_be_is_refused(changed: dict, told: str) -> None:
    fields = {"labels": (0, 0), "positions": (64, 128), "confidences": (0.5, None), "hesitant": (False, False)}
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the text is compared below)
        Trials(**{**fields, **changed})
    assert told in str(refused.value)


def test_undecided_labels_that_no_trial_carries_are_dropped() -> None:
    assert Trials((0, 1), (1, 2), (None, None), (False, False), frozenset({1, 7})).undecided == {1}


def test_a_window_without_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="a window of 0 trials"):
        chain("aa").consensus(0)
