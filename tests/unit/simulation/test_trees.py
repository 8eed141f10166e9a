"""A recorded search under a rule: paths are complete one by one, and stopping saves what comes later."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.engines.replay.records import StepsRecord
from dynasor_serve.simulation.outcomes import Ending, Replayed, TraceUnscorable
from dynasor_serve.simulation.trees import RecordedTree


def tree(**changes: Any) -> RecordedTree:
    """Two first steps, each with one path to its end; the second path is right and better judged."""
    record: dict[str, Any] = {
        "dataset": "d",
        "model": "m",
        "question_id": "q",
        "gold": "7",
        "value_max": 1.0,
        "steps": [
            {"candidates": [_thought("a\n", 10, selected=True), _thought("b\n", 20, selected=True)]},
            {"candidates": [_thought("c\n", 5, value=0.4), _thought("d\n", 6, parent=1, value=0.9)]},
        ],
        "final": [
            {"y": "a\nc\n", "correct": False, "answer": "3"},
            {"y": "b\nd\n", "correct": True, "answer": "=gold"},
        ],
    }
    return RecordedTree(msgspec.convert(record | changes, StepsRecord))


def _thought(text: str, tokens: int, *, parent: int = 0, value: float = 0.5, selected: bool = False) -> dict[str, Any]:
    return {"thought": text, "parent": parent, "value": value, "selected": selected, "tokens": tokens}


def replayed(recorded: RecordedTree, rule: str) -> Replayed:
    return recorded.replay(parse_vote_rule(rule))


def test_a_path_costs_all_that_was_generated_before_its_end() -> None:
    assert list(tree().ladder()) == [Ending(False, 35), Ending(True, 41)]


def test_the_better_judged_path_is_chosen_at_the_end() -> None:
    assert replayed(tree(), "even") == Replayed(Ending(True, 41), Ending(True, 41))


def test_a_rule_over_rewards_may_stop_at_a_path() -> None:
    early = replayed(tree(), "reward-threshold:max=0.3,mean=0.0,detect=1")
    assert early == Replayed(Ending(False, 35), Ending(True, 41))
    assert replayed(tree(), "reward-threshold:max=0.95,mean=0.0,detect=1").stopped == Ending(True, 41)


def test_thoughts_that_hold_their_whole_path_are_counted_once() -> None:
    steps = [
        {"candidates": [_thought("a\n", 10, selected=True), _thought("b\n", 20, selected=True)]},
        {"candidates": [_thought("a\nc\n", 15, value=0.4), _thought("b\nd\n", 26, parent=1, value=0.9)]},
    ]
    assert list(tree(steps=steps).ladder()) == [Ending(False, 35), Ending(True, 41)]


def test_paths_without_answers_are_each_their_own() -> None:
    final = [{"y": "a\nc\n", "correct": False}, {"y": "b\nd\n", "correct": True}]
    recorded = tree(final=final)
    assert replayed(recorded, "n-step-threshold:threshold=0.1,every=1").stopped == Ending(True, 41)
    assert replayed(recorded, "even").full.is_right


def test_without_what_is_right_a_tree_cannot_be_scored() -> None:
    for final in ([], [{"y": "a\nc\n"}]):
        with pytest.raises(TraceUnscorable, match="correct"):
            tree(final=final)
