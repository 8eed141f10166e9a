"""Clusters of answers: whatever the order in which equalities become known, they are the same."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.answers import AnswerType, canonical
from dynasor_serve.certaindex.clusters import AnswerClusters
from dynasor_serve.certaindex.votes import Votes

# Spellings of three values that only algebra can join, and plain numbers that are decided.
SPELLINGS = {
    "five": ["5", "5.0", r"\sqrt{25}", "2+3", r"\frac{10}{2}"],
    "two pi": [r"2\pi", r"\pi\cdot2", r"\frac{4\pi}{2}"],
    "square": ["(x+1)^2", "x^2+2x+1", "(1+x)^2"],
    "seven": ["7", r"\frac{14}{2}"],
    "eight": ["2^3", r"\sqrt{64}"],
}
MEANING = {canonical(each, AnswerType.MATH).key: name for name, group in SPELLINGS.items() for each in group}
ANSWERS = st.lists(st.sampled_from([None, "", *(each for group in SPELLINGS.values() for each in group)]), max_size=14)


def clusters_of(*answers: str | None, answer_type: AnswerType = AnswerType.MATH) -> AnswerClusters:
    clusters = AnswerClusters.empty(answer_type)
    for answer in answers:
        clusters = clusters.add(answer)
    return clusters


def settle(clusters: AnswerClusters, pair: tuple[str, str]) -> AnswerClusters:
    """Answer a question truthfully."""
    left, right = pair
    return clusters.merge(left, right) if MEANING[left] == MEANING[right] else clusters.separate(left, right)


def test_decided_answers_raise_no_question() -> None:
    clusters = clusters_of("1,000", "1000.0", None, "7", "1e3", "")
    assert clusters.labels == (0, 0, None, 1, 0, None)
    assert clusters.questions() == ()
    assert clusters.ranked() == (("1,000", 3), (None, 2), ("7", 1))


@pytest.mark.parametrize("answer_type", [AnswerType.NUMBER, AnswerType.CHOICE, AnswerType.TEXT])
def test_only_mathematics_raises_questions(answer_type: AnswerType) -> None:
    assert clusters_of(r"\sqrt{25}", "5", "x+1", "B", answer_type=answer_type).questions() == ()


def test_a_question_is_asked_once_per_new_cluster() -> None:
    clusters = clusters_of("5", "7", r"\sqrt{25}", r"\sqrt{25}", "8")
    assert clusters.questions() == (("5", r"\sqrt{25}"), ("7", r"\sqrt{25}"), (r"\sqrt{25}", "8"))
    assert clusters.votes(8).undecided == clusters.undecided == {0, 1, 2, 3}
    assert clusters_of("5", "7").undecided == frozenset()


def test_a_merge_keeps_the_first_answer_and_settles_the_rest() -> None:
    clusters = clusters_of("5", "7", r"\sqrt{25}", "8").merge("5", r"\sqrt{25}")
    assert clusters.labels == (0, 1, 0, 3)
    assert clusters.questions() == (), "what is equal to 5 is not 7 or 8"
    assert clusters.ranked()[0] == ("5", 2)
    assert clusters.same(r"\sqrt{25}", "5.0")
    assert not clusters.same(r"\sqrt{25}", "7")
    assert not clusters.same("5", None)
    assert clusters.add(r"\sqrt{25}").labels == (0, 1, 0, 3, 0)


def test_the_first_decision_holds() -> None:
    """A rule that took two clusters for unequal must not be proven wrong by what comes later."""
    clusters = clusters_of("2^3", r"\sqrt{64}")
    apart = clusters.separate("2^3", r"\sqrt{64}")
    assert apart.merge("2^3", r"\sqrt{64}") == apart
    bridged = apart.add("4+4").merge("2^3", "4+4").merge(r"\sqrt{64}", "4+4")
    assert bridged.labels == (0, 1, 0)
    together = clusters.merge("2^3", r"\sqrt{64}")
    assert together.separate("2^3", r"\sqrt{64}") == together


def test_five_and_seven_are_never_merged() -> None:
    clusters = clusters_of("5", "7")
    assert clusters.merge("5", "7") == clusters
    assert clusters.merge("5", "never given") == clusters


def test_votes_carry_rewards_and_confidences() -> None:
    votes = clusters_of("5", None).votes(8, rewards=(0.5, None), confidences=(2.0, 1.0), running=((2, 1.5),))
    assert votes == Votes((0, None), 8, rewards=(0.5, None), confidences=(2.0, 1.0), running=((2, 1.5),))


def test_it_is_frozen() -> None:
    before = clusters_of("5")
    before.add("7")
    assert before.labels == (0,)
    with pytest.raises(FrozenInstanceError):
        before.labels = ()  # type: ignore[misc]


@given(ANSWERS, st.randoms(use_true_random=False))
def test_any_order_of_decisions_gives_the_same_clusters(answers: list[str | None], random: object) -> None:
    """Decisions arrive shuffled, repeated, stale, and between the answers."""
    assert hasattr(random, "shuffle")
    clusters = AnswerClusters.empty(AnswerType.MATH)
    waiting: list[tuple[str, str]] = []
    for answer in answers:
        clusters = clusters.add(answer)
        waiting.extend(clusters.questions())  # asked again and again
        random.shuffle(waiting)
        for pair in waiting[: len(waiting) // 3]:
            clusters = settle(clusters, pair)
        waiting = waiting[len(waiting) // 4 :]  # so some are answered twice
    while questions := list(clusters.questions()):
        random.shuffle(questions)
        for pair in questions:
            clusters = settle(clusters, pair)

    meanings = [MEANING[canonical(each, AnswerType.MATH).key] if each else None for each in answers]
    seen: dict[str, int] = {}
    for label, meaning in zip(clusters.labels, meanings, strict=True):
        assert (label is None) == (meaning is None)
        if meaning is not None and label is not None:
            assert seen.setdefault(meaning, label) == label, "equal answers in two clusters"
    assert len(set(seen.values())) == len(seen), "unequal answers in one cluster"
    assert list(seen.values()) == sorted(seen.values()), "labels are in the order first seen"


@given(ANSWERS, st.data())
def test_no_vote_is_ever_lost(answers: list[str | None], data: st.DataObject) -> None:
    clusters = clusters_of(*answers)
    for pair in data.draw(st.permutations(clusters.questions())):
        clusters = data.draw(st.sampled_from([clusters.merge, clusters.separate]))(*pair)
        votes = clusters.votes(len(answers))
        assert votes.finished == len(answers) == sum(votes.cluster_sizes)
        assert sum(count for _, count in clusters.ranked()) == len(answers)
        real = [answer for answer, _ in clusters.ranked() if answer is not None]
        assert len(real) == len(votes.answer_sizes)
        if votes.leader is not None:
            first = answers[clusters.labels.index(votes.leader)]
            assert real[0] == first, "the ranking and the rules name the same winner"
