"""What a rule sees of the finished samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.verdict import Verdict, VerdictKind
from dynasor_serve.certaindex.votes import Votes

LABELS = st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=20).map(tuple)


def test_counts_and_leader() -> None:
    votes = Votes((0, 1, None, 1, 2, None, None), cap=10)
    assert (votes.finished, votes.remaining, votes.answered) == (7, 3, 4)
    assert votes.cluster_sizes == (1, 2, 3, 1)
    assert votes.leader == 1
    assert votes.top_two == (2, 1)


def test_a_tie_goes_to_the_answer_seen_first() -> None:
    assert Votes((3, 1, 1, 3), cap=4).leader == 3


def test_samples_without_an_answer_never_win_but_count_as_one_cluster() -> None:
    votes = Votes((None, None, None, 0), cap=8)
    assert votes.leader == 0
    assert votes.certaindex == pytest.approx(Votes((1, 1, 1, 0), cap=8).certaindex)
    assert Votes((None, None), cap=8).leader is None


def test_more_samples_than_the_cap_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 samples have finished under a cap of 1"):
        Votes((0, 0), cap=1)


def test_no_samples_and_no_cap() -> None:
    votes = Votes((), cap=0)
    assert (votes.leader, votes.top_two, votes.certaindex, votes.remaining) == (None, (0, 0), 0.0, 0)


def test_undecided_labels_that_nobody_carries_are_dropped() -> None:
    votes = Votes((0, 1, 0), cap=3, undecided=frozenset({1, 7}))
    assert votes.undecided == {1}
    assert votes.prefix(1).undecided == frozenset()


@given(LABELS, st.integers(0, 25))
def test_a_prefix_is_the_votes_as_they_stood(labels: tuple[int | None, ...], count: int) -> None:
    votes = Votes(labels, cap=20)
    assert votes.prefix(count) == Votes(labels[:count], cap=20)


@given(LABELS)
def test_no_vote_is_lost(labels: tuple[int | None, ...]) -> None:
    votes = Votes(labels, cap=20)
    assert sum(votes.cluster_sizes) == votes.finished == 20 - votes.remaining
    assert sum(votes.answer_sizes.values()) == votes.answered
    first, second = votes.top_two
    assert sorted((*votes.answer_sizes.values(), 0, 0), reverse=True)[:2] == [first, second]


def test_only_prune_names_branches() -> None:
    assert not Verdict(VerdictKind.PRUNE, "low confidence", (1, 2)).stops
    assert Verdict(VerdictKind.STOP_BUDGET, "spent").stops
    with pytest.raises(ValueError, match="prune"):
        Verdict(VerdictKind.CONTINUE, "go on", (1,))
    with pytest.raises(ValueError, match="prune"):
        Verdict(VerdictKind.PRUNE, "nothing to prune")
