"""Recorded chains under a rule: which probes it would have asked, what they cost, and where it stops."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynasor_serve.certaindex.rules.registry import parse_chain_rule
from dynasor_serve.engines.replay.records import ProbesRecord
from dynasor_serve.simulation.chains import RecordedChain, recorded_chain, replay_chain
from dynasor_serve.simulation.outcomes import Ending, TraceUnscorable

DENSE = ("token_position", "answer_index", "certain", "probe_out_tokens")
AT_MARKS = ("token_position", "answer_index", "confidence", "probe_out_tokens")


def chain(probes: list[list[float]], *, fields: tuple[str, ...] = DENSE, **changes: Any) -> RecordedChain:
    """A chain of 1,000 tokens that ends with the right answer 7; its trials may say 3, 7, 7.0 or nothing."""
    record: dict[str, Any] = {
        "dataset": "d",
        "model": "m",
        "question_id": "q",
        "gold": "7",
        "tokens": 1000,
        "final_answer": "7",
        "final_correct": True,
        "answers": ["3", "7", "7.0", ""],
        "answer_correct": [False, True, True, False],
        "answer_cluster": ["3", "=gold", "=gold", ""],
        "probe_fields": fields,
        "probes": probes,
    }
    return recorded_chain(msgspec.convert(record | changes, ProbesRecord))


def stopped(recorded: RecordedChain, rule: str) -> Ending:
    return replay_chain(recorded, parse_chain_rule(rule)).replayed.stopped


def test_a_chain_stops_where_the_window_agrees_and_pays_for_every_probe() -> None:
    recorded = chain([[64, 0, 1, 5], [128, 1, 1, 6], [192, 2, 1, 7], [256, 1, 1, 8]])
    assert stopped(recorded, "consensus-window:window=2,interval=64") == Ending(True, 192 + 5 + 6 + 7)


def test_a_chain_may_stop_on_a_wrong_answer() -> None:
    recorded = chain([[64, 0, 1, 5], [128, 0, 1, 5], [192, 1, 1, 5]])
    assert stopped(recorded, "consensus-window:window=2,interval=64") == Ending(False, 138)


def test_one_that_never_agrees_runs_to_its_end_and_pays_for_its_probes() -> None:
    recorded = chain([[64, 0, 1, 5], [128, 1, 1, 5]])
    assert stopped(recorded, "consensus-window:window=2,interval=64") == Ending(True, 1010)


@pytest.mark.parametrize("answer", [[128, 3, 1, 5], [128, 0, 0, 5]], ids=["empty", "hesitant"])
def test_empty_and_hesitant_answers_never_agree(answer: list[float]) -> None:
    recorded = chain([[64, int(answer[1]), 1, 5], answer, [192, int(answer[1]), 1, 5]])
    assert stopped(recorded, "consensus-window:window=2,interval=64") == Ending(True, 1015)


def test_a_rule_with_a_longer_interval_asks_and_pays_for_fewer_probes() -> None:
    recorded = chain([[position, 1, 1, 5] for position in range(64, 1000, 64)])
    assert stopped(recorded, "consensus-window:window=2,interval=128") == Ending(True, 256 + 2 * 5)


def test_even_asks_nothing() -> None:
    recorded = chain([[64, 1, 1, 5]])
    assert stopped(recorded, "even") == Ending(True, 1000)


def test_trials_at_marks_are_taken_as_recorded() -> None:
    recorded = chain([[100, 1, 0.90, 5], [107, 1, 0.99, 5], [300, 2, 1.0, 5]], fields=AT_MARKS)
    assert stopped(recorded, "trial-confidence:threshold=0.95,repeats=1") == Ending(True, 107 + 10)
    assert stopped(recorded, "trial-confidence:threshold=0.95,repeats=2") == Ending(True, 300 + 15)


def test_a_chain_suits_rules_that_ask_the_way_it_was_asked() -> None:
    dense, at_marks = chain([[64, 1, 1, 5]]), chain([[100, 1, 0.9, 5]], fields=AT_MARKS)
    window, trial, even = map(parse_chain_rule, ("consensus-window", "trial-confidence", "even"))
    assert [dense.suits(rule) for rule in (window, trial, even)] == [True, False, True]
    assert [at_marks.suits(rule) for rule in (window, trial, even)] == [False, True, True]


def test_a_fixed_budget_is_cut_at_a_probe_that_answers_and_pays_for_that_one() -> None:
    recorded = chain([[64, 3, 1, 5], [128, 0, 1, 6], [192, 1, 1, 7]])
    assert recorded.ladder() == (Ending(False, 134), Ending(True, 199), Ending(True, 1000))


def test_a_stopped_chain_votes_for_the_cluster_it_stopped_on() -> None:
    recorded = chain([[64, 1, 1, 5], [128, 2, 1, 5]])
    assert replay_chain(recorded, parse_chain_rule("consensus-window:window=2,interval=64")).cluster == "=gold"
    assert replay_chain(recorded, parse_chain_rule("even")).cluster == "=gold"


def test_without_what_is_right_a_chain_cannot_be_scored() -> None:
    with pytest.raises(TraceUnscorable, match="answer_correct is missing"):
        chain([], answer_correct=None)
    with pytest.raises(TraceUnscorable, match="final_correct is missing"):
        chain([], final_correct=None)


def test_a_cut_that_a_later_one_undercuts_is_no_budget() -> None:
    recorded = chain([[100, 0, 0.5, 60], [105, 1, 0.5, 5], [300, 1, 0.5, 5]], fields=AT_MARKS)
    assert recorded.ladder() == (Ending(True, 110), Ending(True, 305), Ending(True, 1000))
