"""Recorded votes under a rule: who arrives when, what that costs, and what the rule makes of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.certaindex.votes import Votes
from dynasor_serve.engines.replay.records import SamplesRecord
from dynasor_serve.simulation.outcomes import Ending
from dynasor_serve.simulation.votes import Ballot, RuleAtVotes, VoteReplay, ballots_of

BALLOTS = st.lists(
    st.builds(
        lambda answer, tokens: Ballot(answer, answer == "a", tokens),
        st.sampled_from(["a", "b", "c", None]),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=12,
)
RULES = ("n-step-threshold:threshold=0.7,every=2", "beta-posterior:confidence=0.8", "unanimous-window:window=2")


def ballots(*answers: str | None, tokens: tuple[int, ...] | None = None) -> list[Ballot]:
    sizes = tokens or (10,) * len(answers)
    return [Ballot(answer, answer == "a", size) for answer, size in zip(answers, sizes, strict=True)]


def test_one_at_a_time_costs_add_up_in_order() -> None:
    arrivals = VoteReplay(1).arrivals(ballots("b", "a", "a", tokens=(5, 7, 11)))
    assert arrivals.labels == (0, 1, 1)
    # A tie goes to the answer seen first, so the second sample does not turn the vote yet.
    assert arrivals.endings == (Ending(False, 5), Ending(False, 12), Ending(True, 23))
    assert arrivals.ladder == arrivals.endings


def test_side_by_side_the_short_ones_arrive_first_and_running_ones_are_charged() -> None:
    # Two at a time: 30 and 10 start; at 10 the second is done and the third (4 tokens) starts, done at 14.
    arrivals = VoteReplay(2).arrivals(ballots("b", "a", "a", tokens=(30, 10, 4)))
    assert arrivals.tokens == (10, 4, 30)
    assert arrivals.labels == (0, 0, 1)
    assert [ending.tokens for ending in arrivals.endings] == [10 + 10, 14 + 14, 44]
    # A fixed budget of one sample draws the first to start, and runs it to its end.
    assert arrivals.ladder == (Ending(False, 30), Ending(False, 40), Ending(True, 44))


def test_a_sample_without_an_answer_never_wins() -> None:
    arrivals = VoteReplay(1).arrivals(ballots(None, None, "a"))
    assert arrivals.labels == (None, None, 0)
    assert [ending.is_right for ending in arrivals.endings] == [False, False, True]


def test_an_empty_answer_is_none_and_never_right() -> None:
    fields = {"dataset": "d", "model": "m", "question_id": "q", "gold": "a", "tokens_kind": "exact"}
    samples = [{"answer": "", "correct": True, "tokens": 3}]
    record = msgspec.convert(fields | {"samples": samples}, SamplesRecord)
    assert ballots_of(record) == (Ballot(None, False, 3, None),)


def test_a_verifiable_vote_ends_at_its_first_right_answer_whatever_the_rule() -> None:
    arrivals = VoteReplay(1).arrivals(ballots("b", "b", "a", "b"), is_verifiable=True)
    for rule in (*RULES, "majority-locked"):
        stopped, full = RuleAtVotes(parse_vote_rule(rule)).replay(arrivals, is_verifiable=True)
        assert stopped == Ending(True, 30)
        assert full == Ending(True, 40)
    assert RuleAtVotes(parse_vote_rule("even")).replay(arrivals, is_verifiable=True).stopped == Ending(True, 40)


def test_a_rule_that_reads_tokens_is_asked_about_those() -> None:
    rule = RuleAtVotes(parse_vote_rule("length:tokens=20,detect=2"))
    replay = VoteReplay(1)
    assert rule.replay(replay.arrivals(ballots("a", "a", "a", tokens=(10, 10, 10)))).stopped.tokens == 20
    assert rule.replay(replay.arrivals(ballots("a", "a", "a", tokens=(10, 11, 10)))).stopped.tokens == 31


def test_rewards_reach_the_rule() -> None:
    judged = [Ballot("a", True, 10, reward) for reward in (0.2, 0.9, 0.1)]
    rule = RuleAtVotes(parse_vote_rule("reward-threshold:max=0.8,mean=0.0,detect=2"))
    assert rule.replay(VoteReplay(1).arrivals(judged)).stopped.tokens == 20


@given(st.lists(BALLOTS, min_size=1, max_size=6), st.sampled_from(RULES), st.integers(1, 5))
def test_what_is_remembered_is_what_the_rule_says(votes: list[list[Ballot]], type_string: str, width: int) -> None:
    rule, replay = parse_vote_rule(type_string), VoteReplay(width)
    asked = RuleAtVotes(rule)
    for started in votes:
        arrivals = replay.arrivals(started)
        count = len(started)
        stop = next((k for k in range(1, count) if rule.verdict(Votes(arrivals.labels[:k], count)).stops), count)
        assert asked.replay(arrivals).stopped == arrivals.endings[stop - 1]


@given(BALLOTS, st.integers(1, 12))
def test_however_they_run_all_arrive_and_cost_the_same_in_the_end(started: list[Ballot], width: int) -> None:
    arrivals = VoteReplay(width).arrivals(started)
    costs = [ending.tokens for ending in arrivals.endings]
    assert sorted(arrivals.tokens) == sorted(ballot.tokens for ballot in started)
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(sum(ballot.tokens for ballot in started))
