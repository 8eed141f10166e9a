"""The policy file: it is read as it was written, and refused where it is not what it says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynasor_serve.certaindex.accuracy_policy import (
    AccuracyPolicy,
    PolicyError,
    Source,
    read_policy,
    written_policy,
)

POLICY = AccuracyPolicy(
    model="m",
    cap=8,
    width=4,
    datasets=["d"],
    sources=[Source("votes.jsonl", "0" * 64)],
    rule="risk-controlled:certain=0.9,cap=8,width=4",
    target=0.02,
    confidence=0.95,
    reference="labels",
    ordering_questions=50,
    testing_questions=200,
    left_out_questions=3,
    loss=0.001,
    bound=0.0123,
    harm=1.5,
    rescue=1.25,
    saved_percent=40.5,
    shuffles=20,
    seed=7,
)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(written_policy(POLICY)) | fields).encode()


def test_a_policy_is_read_as_it_was_written() -> None:
    assert read_policy(written_policy(POLICY)) == POLICY
    assert written_policy(POLICY).endswith(b"}\n")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": 2}, "version 2; this release reads 1"),
        ({"target": 0}, "target 0"),
        ({"target": 1}, "target 1"),
        ({"confidence": 1}, "confidence 1"),
        ({"bound": 0.021}, "does not keep the target"),
        ({"rule": "consensus-window"}, "cannot be used"),
        ({"rule": "no-such-rule"}, "cannot be used"),
        ({"cap": 16}, "promises something else"),
        ({"width": 1}, "promises something else"),
        ({"width": 0}, "at least 1"),
        ({"algorithm": "mcts"}, "no policy"),
        ({"reference": "taste"}, "no policy"),
        ({"surprise": 1}, "unknown field"),
        ({"cap": "8"}, "no policy"),
    ],
)
def test_what_a_policy_cannot_say_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        read_policy(changed(**fields))


@pytest.mark.parametrize("written", [b"", b"{}", b"[]", b"\xff", b'{"version": 1}', b'{"version": "x"}'])
def test_what_is_no_policy_is_refused(written: bytes) -> None:
    with pytest.raises(PolicyError, match="dynasor calibrate"):
        read_policy(written)


def test_programs_that_the_promise_does_not_cover_are_refused() -> None:
    fitting: dict[str, Any] = {"algorithm": "self-consistency", "model": "m", "cap": 8, "width": 4}
    POLICY.check_fits(**fitting)
    others = {"algorithm": "mcts", "model": "n", "cap": 16, "width": 1}
    for name, value in others.items():
        with pytest.raises(PolicyError, match=f"for {name} .*, not {value}"):
            POLICY.check_fits(**fitting | {name: value})
