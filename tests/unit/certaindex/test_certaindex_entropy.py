"""H̃ against values worked out by hand, and the properties that every value has."""

from math import isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.entropy import normalised_entropy

SIZES = st.lists(st.integers(min_value=1, max_value=50), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5,), 1.0),
        ((4, 1), 0.689),
        ((3, 2), 0.582),
        ((3, 1, 1), 0.410),
        ((2, 2, 1), 0.345),
        ((2, 1, 1, 1), 0.172),
        ((1, 1, 1, 1, 1), 0.0),
        ((14, 2), 0.864),
        ((14, 1, 1), 0.833),
        ((12, 4), 0.797),
        ((11, 5), 0.776),
        ((13, 2, 1), 0.783),
    ],
)
def test_known_values(counts: tuple[int, ...], expected: float) -> None:
    assert normalised_entropy(counts) == pytest.approx(expected, abs=0.0005)


@pytest.mark.parametrize("counts", [(), (0,), (1,), (0, 1, 0)])
def test_one_answer_or_none_proves_nothing(counts: tuple[int, ...]) -> None:
    assert normalised_entropy(counts) == 0.0


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="-1 votes"):
        normalised_entropy((3, -1))


@given(SIZES)
def test_it_is_the_papers_formula(counts: list[int]) -> None:
    n = sum(counts)
    if n > 1:
        entropy = -sum(c / n * log(c / n) for c in counts)
        assert isclose(normalised_entropy(counts), (log(n) - entropy) / log(n), abs_tol=1e-9)


@given(SIZES)
def test_it_is_a_certainty(counts: list[int]) -> None:
    certainty = normalised_entropy(counts)
    assert 0.0 <= certainty <= 1.0
    assert (certainty == 1.0) == (len(counts) == 1 and counts[0] > 1)
    assert certainty == pytest.approx(normalised_entropy(counts[::-1]))


@given(SIZES.filter(lambda sizes: len(sizes) > 1))
def test_merging_two_clusters_never_lowers_it(counts: list[int]) -> None:
    merged = [counts[0] + counts[1], *counts[2:]]
    assert normalised_entropy(merged) >= normalised_entropy(counts) - 1e-12
