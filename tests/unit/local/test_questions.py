"""The shipped questions, their prompts and their recorded answers fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.engines.replay.trace_index import TraceIndex
from dynasor_serve.engines.replay.traces import read_records
from dynasor_serve.local.questions.prompts import SHORT_ANSWER, STEP_BY_STEP, STYLES
from dynasor_serve.local.questions.question_set import ARITHMETIC, BUNDLED, CANDIDATES, TRACES, Question, read_questions
from dynasor_serve.local.questions.record import GOLD, judged, read_trace, rejudged, write_trace
from dynasor_serve.local.questions.selection import (
    SHORT_ANSWER_TRACE,
    Vote,
    main,
    read_votes,
    select,
    spread,
    table,
    vote,
)

RECORDED = [
    (CANDIDATES, SHORT_ANSWER_TRACE, "short-answer", 32),
    (ARITHMETIC, TRACES / "smollm2-135m-arithmetic.jsonl.gz", "step-by-step", 16),
]


def samples(*answers: str | None) -> list[dict[str, Any]]:
    return [{"answer": answer, "correct": answer == GOLD, "tokens": 2} for answer in answers]


def a_vote(
    question_id: str, certainty: float, *, right: bool = True, majority: str | None = "x", echoes: bool = False
) -> Vote:
    return Vote(question_id, certainty, majority, 9, right, echoes, mean_tokens=2.0)


@pytest.mark.parametrize(("questions", "trace", "style", "count"), RECORDED)
def test_every_question_has_its_answers_recorded_to_its_present_prompt(
    questions: Path, trace: Path, style: str, count: int
) -> None:
    records = {record["question_id"]: record for record in read_trace(trace)}
    assert list(records) == [question.id for question in read_questions(questions)]
    for question in read_questions(questions):
        record = records[question.id]
        assert record["prompt"] == STYLES[style].prompt(question.question), f"{question.id}: record it again"
        assert record["model"] == "smollm2-135m"
        assert len(record["samples"]) == count


@pytest.mark.parametrize(("questions", "trace"), [(questions, trace) for questions, trace, _, _ in RECORDED])
def test_recorded_answers_are_what_the_answers_module_reads_today(questions: Path, trace: Path) -> None:
    asked = {question.id: question for question in read_questions(questions)}
    for record in read_trace(trace):
        for sample in record["samples"]:
            told = (sample["answer"], sample["correct"])
            assert judged(sample["text"], asked[record["question_id"]]) == told, (record["question_id"], sample["text"])


@pytest.mark.parametrize(("trace", "style"), [(trace, style) for _, trace, style, _ in RECORDED])
def test_recorded_samples_are_whole(trace: Path, style: str) -> None:
    for record in read_trace(trace):
        for sample in record["samples"]:
            assert 1 <= sample["tokens"] <= STYLES[style].max_tokens
            assert len(sample["token_logprobs"]) == sample["tokens"]
            assert sample["in_tokens"] > 0
            assert sample["finished"] == (sample["finish_reason"] == "stop")


@pytest.mark.parametrize(("questions", "trace", "style"), [entry[:3] for entry in RECORDED])
def test_the_replay_engine_finds_the_record_of_each_prompt(questions: Path, trace: Path, style: str) -> None:
    index = TraceIndex(read_records([TRACES]))
    for question in read_questions(questions):
        prompt = STYLES[style].prompt(question.question)
        assert index.find("smollm2-135m", prompt, prompt).question_id == question.id


def test_the_traces_stay_small() -> None:
    assert sum(trace.stat().st_size for trace in TRACES.iterdir()) < 2 * 1024**2


def test_the_bundled_questions_are_what_the_selection_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--out", str(tmp_path / "bundled.jsonl")])
    assert (tmp_path / "bundled.jsonl").read_text() == BUNDLED.read_text()
    assert "20 of " in capsys.readouterr().out


def test_the_bundled_questions_span_the_range_of_certainty() -> None:
    bundled = {question.id for question in read_questions(BUNDLED)}
    votes = [one for one in read_votes(SHORT_ANSWER_TRACE) if one.question_id in bundled]
    assert len(votes) == len(bundled) == 20
    assert sum(one.majority_is_right for one in votes) >= 0.8 * len(votes)
    assert max(one.certainty for one in votes) == 1.0
    assert min(one.certainty for one in votes) < 0.4
    assert any(not one.majority_is_right and one.certainty > 0.5 for one in votes), "none is confidently wrong"


def test_a_prompt_shows_the_examples_and_ends_where_the_answer_begins() -> None:
    prompt = SHORT_ANSWER.prompt("  What is the capital of France? ")
    assert prompt.startswith("Question: What is the capital of Italy?\nAnswer: Rome\n\nQuestion: ")
    assert prompt.endswith("\n\nQuestion: What is the capital of France?\nAnswer:")
    worked = STEP_BY_STEP.prompt("What is 1 + 1?")
    assert worked.count("The answer is \\boxed{") == 3
    assert worked.endswith("Question: What is 1 + 1?\nAnswer:")


def test_no_question_is_among_the_examples_of_its_prompt() -> None:
    for path, _, style, _ in RECORDED:
        shown = {asked for asked, _ in STYLES[style].examples}
        assert not shown & {question.question for question in read_questions(path)}


@pytest.mark.parametrize(
    ("text", "gold", "answer_type", "told"),
    [
        (" Paris", "Paris", AnswerType.TEXT, (GOLD, True)),
        (" PARIS.", "Paris", AnswerType.TEXT, (GOLD, True)),
        (" Lyon", "Paris", AnswerType.TEXT, ("lyon", False)),
        (" 1,000 meters", "1000", AnswerType.NUMBER, (GOLD, True)),
        (" eight", "8", AnswerType.NUMBER, (None, False)),
        ("", "8", AnswerType.NUMBER, (None, False)),
        (" Step 1: 2 + 2 = 4.\nThe answer is \\boxed{4}.", "4", AnswerType.NUMBER, (GOLD, True)),
    ],
)
def test_an_answer_is_judged_as_live_programs_do(
    text: str, gold: str, answer_type: AnswerType, told: tuple[str | None, bool]
) -> None:
    assert judged(text, Question("q", "?", gold, answer_type)) == told


def test_a_vote_counts_the_first_samples() -> None:
    counted = vote("q", "Is it B?", samples("a", GOLD, GOLD, None, "b", "b", "b"), votes=4)
    assert (counted.majority, counted.majority_votes, counted.majority_is_right) == (GOLD, 2, True)
    assert counted.certainty == pytest.approx(0.25)
    tie = vote("q", "Is it B?", samples("b", GOLD, GOLD, "b"), votes=4)
    assert tie.majority == "b", "the first seen wins a tie"
    assert tie.majority_echoes_question
    assert not counted.majority_echoes_question
    assert vote("q", "Is it B?", samples(None, None, None, "b"), votes=4).majority == "b", "no answer wins no vote"
    nothing = vote("q", "Is it B?", samples(None, None), votes=2)
    assert (nothing.majority, nothing.majority_is_right) == (None, False)
    with pytest.raises(ValueError, match="record more"):
        vote("q", "Is it B?", samples(GOLD), votes=2)


def test_the_selection_spreads_the_right_and_takes_the_surest_of_the_wrong() -> None:
    right = [a_vote(f"right-{step:02}", step / 20) for step in range(21)]
    wrong = [a_vote(f"wrong-{step}", step / 10, right=False) for step in range(10)]
    silent = a_vote("silent", 1.0, right=False, majority=None)
    echo = a_vote("echo", 1.0, right=False, echoes=True)
    wrong = [*wrong, echo]
    chosen = select([*wrong, silent, *right], right=5, confidently_wrong=2)
    assert [one.question_id for one in chosen if one.majority_is_right] == [
        "right-20",
        "right-15",
        "right-10",
        "right-05",
        "right-00",
    ]
    assert [one.question_id for one in chosen if not one.majority_is_right] == ["wrong-9", "wrong-8"]
    assert select(reversed([*wrong, silent, *right]), right=5, confidently_wrong=2) == chosen


def test_a_short_list_is_taken_whole() -> None:
    few = [a_vote("a", 0.9), a_vote("b", 0.1)]
    assert spread(few, 5) == few
    assert spread(few, 1) == few[:1]
    assert "* a" in table(few, few[:1])
    assert "  b" in table(few, few[:1])


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    records: list[Any] = [{"question_id": "q", "prompt": "é"}]
    write_trace(records, tmp_path / "a.jsonl.gz")
    write_trace(records, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert read_trace(tmp_path / "a.jsonl.gz") == records


def test_recorded_answers_are_judged_again_when_a_gold_changes() -> None:
    questions = read_questions(CANDIDATES)
    paris, records = questions[0], read_trace(SHORT_ANSWER_TRACE)
    assert paris.id == "capital-france"
    other = replace(paris, gold="Lyon")
    (entry,) = rejudged(records, [other], SHORT_ANSWER)
    assert entry["gold"] == "Lyon"
    assert entry["samples"][0]["answer"] == "paris"
    assert not any(sample["correct"] for sample in entry["samples"])
    with pytest.raises(ValueError, match="capital-france"):
        rejudged(records, [replace(paris, question="What is France's capital?")], SHORT_ANSWER)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"id": "q"}', "question"),
        ('{"id": "q", "question": "?", "gold": "1", "answer_type": "poem"}', "poem"),
        ("not json", "JSONDecodeError"),
    ],
)
def test_a_bad_question_file_is_refused_with_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "questions.jsonl"
    good = '{"id": "a", "question": "?", "gold": "1", "answer_type": "number"}\n'
    path.write_text(good + line)
    with pytest.raises(ValueError, match=rf"questions\.jsonl:2.*{complaint}"):
        read_questions(path)
    path.write_text(good + good)
    with pytest.raises(ValueError, match="twice"):
        read_questions(path)
