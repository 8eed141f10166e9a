"""What people and scripts are shown."""

from __future__ import annotations

import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.cli.presentation import (
    answer_text,
    ending_line,
    event_line,
    one_line_json,
    plain,
    printable,
    progress_line,
    query_json,
    refused_json,
    shortened,
    votes_text,
)
from dynasor_serve.cli.standing import Standing

KEYS = [
    "query_id",
    "phase",
    "answer",
    "certaindex",
    "rule",
    "stop_reason",
    "samples",
    "tokens_spent",
    "tokens_saved",
    "tokens_lost",
    "latency_seconds",
    "tokens_probes",
    "prompt_tokens",
    "cached_prompt_tokens",
]


def ended(
    phase: str = "succeeded", *, saved: int = 30, error: pb.QueryError | None = None, **fields: object
) -> Standing:
    defaults: dict[str, object] = {
        "answer": "42",
        "certaindex": 0.9,
        "rule": "even",
        "stop_reason": "stop-certain",
        "stop_detail": "4:0 votes",
        "samples": 4,
        "latency_seconds": 1.25,
    }
    ledger = pb.Ledger(tokens_spent=10, tokens_saved_estimate=saved, tokens_lost=1)
    outcome = pb.Outcome(ledger=ledger, error=error, **{**defaults, **fields})  # type: ignore[arg-type]
    return Standing(query_id="q", phase=phase, samples=4, certaindex=0.9, tokens=10, outcome=outcome)


def test_json_of_an_answered_query_has_exactly_the_promised_keys() -> None:
    assert query_json(ended()) == dict(
        zip(KEYS, ["q", "succeeded", "42", 0.9, "even", "stop-certain", 4, 10, 30, 1, 1.25, 0, 0, 0], strict=True)
    )


def test_json_of_a_failed_query_adds_the_error_and_nothing_else() -> None:
    error = pb.QueryError(reason="NO_ANSWER", message="no number could be read")
    fields = query_json(ended("failed", error=error, answer="", stop_reason="failed"))
    assert list(fields) == [*KEYS, "error"]
    assert fields["answer"] is None
    assert fields["error"] == {"reason": "NO_ANSWER", "message": "no number could be read"}


def test_json_of_a_running_query_holds_nulls_for_what_its_end_brings() -> None:
    fields = query_json(Standing(query_id="q", phase="running", samples=2, tokens=20))
    assert list(fields) == KEYS
    assert [key for key, value in fields.items() if value is None] == [
        "answer",
        "rule",
        "stop_reason",
        "tokens_saved",
        "tokens_lost",
        "latency_seconds",
        "tokens_probes",
        "prompt_tokens",
        "cached_prompt_tokens",
    ]


def test_json_of_a_refused_query_says_so() -> None:
    fields = refused_json(Standing(), CommandFailed("there is no rule 'x'", ExitCode.BAD_INPUT, "INVALID_RULE"))
    assert (fields["query_id"], fields["phase"]) == ("", "rejected")
    assert fields["error"] == {"reason": "INVALID_RULE", "message": "there is no rule 'x'"}


def test_json_is_one_line_whatever_the_answer_holds() -> None:
    line = one_line_json(query_json(ended(answer="a\nb\r\n\u2028é")))
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line)["answer"] == "a\nb\r\n\u2028é"


def test_the_ending_says_why_and_labels_the_saving_an_estimate() -> None:
    line = ending_line(ended())
    assert line.startswith("stopped early, certain: 4:0 votes")
    assert "10 tokens spent, about 30 saved (estimate: 75% of the cap)" in line
    assert "\n" not in line


@pytest.mark.parametrize(("saved", "words"), [(0, "nothing saved"), (-5, "about 5 more than at the cap (estimate)")])
def test_the_ending_claims_no_saving_where_there_is_none(saved: int, words: str) -> None:
    assert words in ending_line(ended(saved=saved))


def test_the_ending_of_a_failure_is_its_reason_and_message() -> None:
    error = pb.QueryError(reason="ENGINE_UNAVAILABLE", message="the engine is down")
    standing = ended("failed", error=error, answer="")
    assert ending_line(standing).startswith("failed: ENGINE_UNAVAILABLE: the engine is down")
    assert answer_text(standing) == "(no answer)"


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert printable("\x1b[31mred\x1b]0;title\x07\x9b2J") == "�[31mred�]0;title��2J"
    assert printable("tabs\tand\nlines, é 漢") == "tabs\tand\nlines, é 漢"
    assert "\x1b" not in answer_text(ended(answer="\x1b[2Jgone"))
    assert "\x1b" not in event_line(plain(pb.QueryEvent(sample_finished=pb.SampleFinished(answer="\x1b[2J"))))


def test_votes_are_cut_to_the_largest() -> None:
    outcome = pb.Outcome(
        votes=[pb.Vote(answer=name, count=count) for name, count in (("a", 5), ("b", 2), ("c", 1), ("", 1))]
    )
    assert votes_text(Standing(outcome=outcome), most=2) == "a ×5, b ×2, 2 others"
    assert votes_text(Standing(outcome=outcome), most=4) == "a ×5, b ×2, c ×1, (no answer) ×1"


def test_progress_names_what_it_waits_for() -> None:
    assert "tracker" in progress_line(Standing(phase="queued"))
    assert "sample" in progress_line(Standing(phase="running"))
    troubled = Standing(phase="running", failed_calls=1, last_failure="ENGINE_UNAVAILABLE: refused")
    assert "ENGINE_UNAVAILABLE" in progress_line(troubled)


def test_plain_events_keep_zeros_and_name_phases() -> None:
    event = pb.QueryEvent(
        query_id="q", sequence=3, time=Timestamp(seconds=1), sample_finished=pb.SampleFinished(branch=0, samples=1)
    )
    assert plain(event) == {
        "query_id": "q",
        "sequence": 3,
        "time": "1970-01-01T00:00:01Z",
        "sample_finished": {"branch": 0, "tokens": 0, "samples": 1, "certaindex": 0.0, "finish_reason": ""},
    }
    finished = pb.QueryEvent(finished=pb.Finished(phase=pb.QUERY_PHASE_CANCELLED))
    assert plain(finished)["finished"] == {"phase": "cancelled"}
    labelled = plain(pb.Query(labels={"a": "b"}))
    assert labelled["labels"] == {"a": "b"}


def test_long_text_is_shortened_to_one_line() -> None:
    assert shortened("a\n\n  b", 10) == "a b"
    assert shortened("abcdefghij", 5) == "abcd…"
