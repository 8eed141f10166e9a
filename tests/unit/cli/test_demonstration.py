"""What the demonstration asks and shows."""

from __future__ import annotations

import io

from rich.console import Console

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.cli.comparison import Result, compare
from dynasor_serve.cli.demo_display import conclusions, event_log_line, table_of
from dynasor_serve.cli.demonstration import Asked, not_yet_asked, query_of
from dynasor_serve.local.questions.prompts import SHORT_ANSWER
from dynasor_serve.local.questions.question_set import BUNDLED, Question, read_questions

QUESTION = Question("capital", "What is the capital of France?", "Paris", AnswerType.TEXT)


def finished(answer: str, *, error: pb.QueryError | None = None) -> pb.QueryEvent:
    outcome = pb.Outcome(
        answer=answer,
        stop_reason="failed" if error else "stop-certain",
        stop_detail="4:0 votes",
        samples=4,
        votes=[pb.Vote(answer=answer, count=4)],
        ledger=pb.Ledger(tokens_spent=8, tokens_saved_estimate=24),
        error=error,
    )
    return pb.QueryEvent(finished=pb.Finished(phase=pb.QUERY_PHASE_SUCCEEDED, outcome=outcome))


def asked(event: pb.QueryEvent) -> Asked:
    (one,) = not_yet_asked([QUESTION])
    one.standing.apply(event)
    return one


def test_queries_hold_the_recorded_prompt_and_sampling() -> None:
    query = query_of(QUESTION, "even")
    assert query.prompt == SHORT_ANSWER.prompt(QUESTION.question)
    assert list(query.sampling.stop) == list(SHORT_ANSWER.stop)
    assert (query.sampling.max_tokens, query.policy.rule) == (SHORT_ANSWER.max_tokens, "even")


def test_answers_are_judged_by_their_canonical_form() -> None:
    assert asked(finished("PARIS")).is_correct
    assert not asked(finished("Lyon")).is_correct
    assert not asked(finished("")).is_correct


def test_only_a_missing_answer_counts_as_wrong_rather_than_broken() -> None:
    assert asked(finished("", error=pb.QueryError(reason="NO_ANSWER", message="none"))).error == ""
    broken = asked(finished("", error=pb.QueryError(reason="ENGINE_UNAVAILABLE", message="down")))
    assert broken.error == "ENGINE_UNAVAILABLE: down"


def test_log_lines_tell_votes_certainty_cost_and_why() -> None:
    (one,) = not_yet_asked([QUESTION])
    sample = pb.QueryEvent(sample_finished=pb.SampleFinished(answer="Paris", samples=1, tokens=2, certaindex=0.5))
    one.standing.apply(sample)
    line = event_log_line(one, sample)
    assert line == "capital: sample 1 says Paris; certaindex 0.50, 2 tokens; votes: Paris ×1"
    final = event_log_line(asked(finished("Lyon")), finished("Lyon"))
    assert "ANSWER Lyon (WRONG, it is Paris); 4 samples, 8 tokens spent, 24 saved (estimate)" in final
    assert "stopped early, certain: 4:0 votes" in final


def test_the_table_fits_eighty_columns_and_shows_every_number() -> None:
    questions = read_questions(BUNDLED)
    rows = not_yet_asked(questions)
    rows[0].standing.apply(finished("Paris"))
    output = io.StringIO()
    Console(file=output, width=80, force_terminal=False).print(table_of(rows, 80))
    lines = output.getvalue().splitlines()
    assert len(lines) == len(questions) + 1
    assert lines[0].split() == ["question", "answer", "votes", "certaindex", "tokens", "saved*", "stopped"]
    assert lines[1].split()[-6:] == ["of", "4", "0.00", "8", "24", "certain"]


def test_conclusions_label_what_is_measured_and_what_is_estimated() -> None:
    early, fixed = [Result(True, 10, 4)] * 3, [Result(True, 40, 16)] * 3
    lines = "\n".join(conclusions(compare(early, fixed), estimated_saved=90, is_replay=True))
    assert "Tokens saved, measured against the fixed pass: 75% [75% to 75%]" in lines
    assert "estimated live (*): 75%, 90 tokens" in lines
    assert "same recorded samples" in lines
    assert "sampling noise" in "\n".join(conclusions(compare(early, fixed), estimated_saved=90, is_replay=False))
