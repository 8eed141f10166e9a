"""What a line of output says of an answer, and what many of them sum up to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.cli.batching.display import progress_line
from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.line_shape import BadLine, LineProblem
from dynasor_serve.cli.batching.lines import Question
from dynasor_serve.cli.batching.results import ResultId, bad_line_result, decoded, encoded, result_of
from dynasor_serve.cli.batching.totals import Totals, accuracy_text, summary_json

ID = ResultId("batch-0123456789abcdef", LineKey(b"k" * 16), 0)


def state(phase: int = pb.QUERY_PHASE_SUCCEEDED, *, saved: int | None = 30, **outcome: Any) -> pb.QueryState:
    ledger = pb.Ledger(tokens_spent=70, tokens_lost=2, tokens_probes=3, prompt_tokens=11, cached_prompt_tokens=4)
    if saved is not None:
        ledger.tokens_saved_estimate = saved
    fields = {
        "answer": "1000",
        "text": "It is 1000.",
        "certaindex": 0.75,
        "rule": "even",
        "stop_reason": "stop-certain",
        "stop_detail": "settled",
        "samples": 5,
        "votes": [pb.Vote(answer="1000", count=4), pb.Vote(count=1)],
        "ledger": ledger,
        "latency_seconds": 1.5,
    } | outcome
    made = pb.QueryState(query_id="0a-x", query=pb.Query(model="m"), phase=phase, outcome=pb.Outcome(**fields))  # type: ignore[arg-type]
    made.accepted_at.seconds = 1_700_000_000
    return made


def asked(*, is_chat: bool = True, gold: str | None = None) -> Question:
    return Question(pb.Query(), is_chat, AnswerType.NUMBER, gold)


def written(answer: pb.RunBatchResponse | pb.QueryState, question: Question | None = None) -> dict[str, Any]:
    """The line as a reader sees it."""
    if isinstance(answer, pb.QueryState):
        answer = pb.RunBatchResponse(state=answer)
    result = result_of(ID, "q1", question or asked(), answer)
    line = encoded(result)
    assert decoded(line) == result, "what a later run would count differs"
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_a_chat_is_answered_as_openai_answers_it() -> None:
    line = written(state())

    assert list(line) == ["id", "custom_id", "response", "error"]
    assert (line["id"], line["custom_id"], line["error"]) == (str(ID), "q1", None)
    assert {key: line["response"][key] for key in ("status_code", "request_id")} == {
        "status_code": 200,
        "request_id": "0a-x",
    }
    body = line["response"]["body"]
    program = body.pop("dynasor")
    assert body == {
        "id": "chatcmpl-0a-x",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "It is 1000."},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 11,
            "completion_tokens": 70,
            "total_tokens": 81,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert program == {
        "query_id": "0a-x",
        "phase": "succeeded",
        "answer": "1000",
        "certaindex": 0.75,
        "rule": "even",
        "stop_reason": "stop-certain",
        "stop_detail": "settled",
        "samples": 5,
        "votes": [{"answer": "1000", "count": 4}, {"answer": None, "count": 1}],
        "tokens_spent": 70,
        "tokens_saved_estimate": 30,
        "tokens_lost": 2,
        "tokens_probes": 3,
        "latency_seconds": 1.5,
    }


def test_a_completion_has_text_and_the_answer_where_there_is_no_other() -> None:
    body = written(state(text=""), asked(is_chat=False))["response"]["body"]

    assert (body["id"], body["object"]) == ("cmpl-0a-x", "text_completion")
    assert body["choices"] == [{"index": 0, "text": "1000", "logprobs": None, "finish_reason": "stop"}]


def test_a_saving_that_nobody_can_tell_is_null() -> None:
    assert written(state(saved=None))["response"]["body"]["dynasor"]["tokens_saved_estimate"] is None
    assert written(state(saved=0))["response"]["body"]["dynasor"]["tokens_saved_estimate"] == 0


@pytest.mark.parametrize(("gold", "correct"), [("1,000", True), ("1e3", True), ("1001", False)])
def test_an_answer_is_right_where_it_equals_the_gold_one_in_its_canonical_form(gold: str, correct: bool) -> None:
    program = written(state(), asked(gold=gold))["response"]["body"]["dynasor"]

    assert (program["gold"], program["correct"]) == (gold, correct)


@pytest.mark.parametrize(("retryable", "status"), [(True, 503), (False, 422)])
def test_a_query_that_failed_says_why_and_what_it_cost(retryable: bool, status: int) -> None:
    error = pb.QueryError(reason="ENGINE_HUNG", message="the engine sent nothing", retryable=retryable)
    line = written(state(pb.QUERY_PHASE_FAILED, error=error, answer="", text=""), asked(gold="1"))

    assert line["error"] == {"code": "ENGINE_HUNG", "message": "the engine sent nothing", "retryable": retryable}
    assert line["response"]["status_code"] == status
    body = line["response"]["body"]
    assert body["error"] == line["error"]
    assert "choices" not in body
    assert (body["usage"]["completion_tokens"], body["dynasor"]["phase"]) == (70, "failed")
    assert "correct" not in body["dynasor"], "an engine's failure is no wrong answer"


def test_samples_without_an_answer_are_a_wrong_answer() -> None:
    error = pb.QueryError(reason="NO_ANSWER", message="no number in any sample")
    line = written(state(pb.QUERY_PHASE_FAILED, error=error, answer=""), asked(gold="1"))

    assert line["error"]["code"] == "NO_ANSWER"
    assert line["response"]["body"]["dynasor"]["correct"] is False


def test_a_query_that_somebody_cancelled_may_be_asked_again() -> None:
    line = written(state(pb.QUERY_PHASE_CANCELLED, stop_reason="cancelled", stop_detail="by ada"), asked(gold="1000"))

    assert line["error"] == {
        "code": "CANCELLED",
        "message": "somebody cancelled the query: by ada",
        "retryable": True,
    }
    assert line["response"]["body"]["dynasor"]["answer"] == "1000", "the best answer so far"
    assert "correct" not in line["response"]["body"]["dynasor"]


def test_a_refused_query_has_no_response() -> None:
    refused = pb.QueryError(reason="UNKNOWN_MODEL", message="no pool serves it")
    line = written(pb.RunBatchResponse(refused=refused))

    assert line["response"] is None
    assert line["error"] == {"code": "UNKNOWN_MODEL", "message": "no pool serves it", "retryable": False}


def test_a_line_that_could_not_be_asked_says_which_it_is() -> None:
    result = bad_line_result(ID, "line-17", 17, BadLine(LineProblem.MALFORMED_LINE, "it is not JSON"))

    assert json.loads(encoded(result)) == {
        "id": str(ID),
        "custom_id": "line-17",
        "response": None,
        "error": {"code": "MALFORMED_LINE", "message": "line 17: it is not JSON", "retryable": False},
    }


# --- sums ---


def total_of(*answers: tuple[pb.QueryState, str | None]) -> Totals:
    totals = Totals(lines=10)
    for each, gold in answers:
        totals.add(result_of(ID, "q", asked(gold=gold), pb.RunBatchResponse(state=each)))
    return totals


def test_a_saving_counts_queries_whose_saving_is_known() -> None:
    totals = total_of((state(saved=30), None), (state(saved=None), None), (state(saved=-10), None))

    assert (totals.saving_known, totals.queries) == (2, 3)
    assert totals.saving == pytest.approx(20 / (20 + 140))
    assert "12% saved (estimate; 2 of 3 known)" in progress_line(totals, 1.0)


def test_shares_are_of_answered_queries_and_costs_of_all() -> None:
    failed = state(pb.QUERY_PHASE_FAILED, error=pb.QueryError(reason="ENGINE_HUNG", retryable=True), certaindex=0.0)
    totals = total_of((state(), None), (state(certaindex=0.25, stop_reason="cap"), None), (failed, None))
    refused = pb.RunBatchResponse(refused=pb.QueryError(reason="INVALID_RULE"))
    totals.add(result_of(ID, "q", asked(), refused))

    assert (totals.answered, totals.errors, totals.retryable, totals.done) == (2, 2, 1, 4)
    assert (totals.mean_certaindex, totals.early_share) == (0.5, 0.5)
    assert totals.tokens_spent == 3 * 70
    line = progress_line(totals, 2.0)
    assert "4 of 10 lines (40%) · 2.0 queries/s · 0:00:03 left" in line
    assert "mean certaindex 0.50 · 50% stopped early · 210 tokens spent" in line
    assert "2 errors" in line


def test_accuracy_is_of_queries_with_a_gold_answer_that_were_worked_to_their_end() -> None:
    lost = state(pb.QUERY_PHASE_FAILED, error=pb.QueryError(reason="ENGINE_HUNG", retryable=True))
    totals = total_of((state(), "1000"), (state(), "7"), (state(), "1e3"), (state(), None), (lost, "1000"))

    assert (totals.correct, totals.judged) == (2, 3)
    assert accuracy_text(totals) == "2 of 3 answers equal the gold one: 66.7%"
    assert accuracy_text(total_of((state(), None))) == ""


def test_the_pace_is_of_this_run() -> None:
    totals = total_of((state(), None), (state(), None), (state(), None))
    totals.found = 2

    assert "1.0 queries/s · 0:00:07 left" in progress_line(totals, 1.0)
    totals.found = 3
    assert "waiting for the first answer" in progress_line(totals, 1.0)


def test_nothing_at_all_is_summed_up_too() -> None:
    totals = Totals()

    assert progress_line(totals, 0.0) == "0 of 0 lines (100%) · waiting for the first answer · 0 tokens spent"
    summary = summary_json(totals, "out.jsonl", 0.0)
    assert summary["saving"] is None
    assert summary["accuracy"] is None
    assert summary["mean_certaindex"] is None
    assert summary["output"] == "out.jsonl"
