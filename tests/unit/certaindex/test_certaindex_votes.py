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


def test_a_prefix_cuts_what_is_known_of_samples_and_knows_nothing_of_what_ran() -> None:
    votes = Votes(
        (0, 1, 0), 3, rewards=(0.1, None, 0.3), confidences=(1.0, 2.0, None), running=((3, 1.5),), tokens=(7, 0, 9)
    )
    assert votes.prefix(2) == Votes((0, 1), 3, rewards=(0.1, None), confidences=(1.0, 2.0), tokens=(7, 0))
    assert votes.prefix(3) == votes


@pytest.mark.parametrize(
    ("rewards", "best", "mean"),
    [((), None, None), ((None, None), None, None), ((0.0, None), 0.0, 0.0), ((0.25, 0.75), 0.75, 0.5)],
)
def test_best_and_mean_reward(rewards: tuple[float | None, ...], best: float | None, mean: float | None) -> None:
    votes = Votes((0, 0), cap=2, rewards=rewards)
    assert (votes.best_reward, votes.mean_reward) == (best, mean)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rewards": (0.5,)}, "1 rewards of 2 samples"),
        ({"rewards": (0.5, 1.01)}, "reward 1.01; it must be in [0, 1]"),
        ({"rewards": (-0.01, None)}, "reward -0.01"),
        ({"rewards": (float("nan"), None)}, "reward nan"),
        ({"confidences": (1.0, 2.0, 3.0)}, "3 confidences of 2 samples"),
        ({"confidences": (1.0, float("inf"))}, "confidence inf; it must be a finite number"),
        ({"running": ((7, float("nan")),)}, "running branch 7 has confidence nan"),
        ({"tokens": (10,)}, "tokens of 1 of 2 samples"),
        ({"tokens": (10, -1)}, "-1 tokens; it must be 0 or more"),
    ],
)
def test_rewards_confidences_and_tokens_that_cannot_be_are_refused(fields: dict, told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the text is compared below)
        Votes((0, 1), cap=2, **fields)
    assert told in str(refused.value)


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
