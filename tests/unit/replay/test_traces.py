"""Trace files: what is read, and what a wrong file is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.engines.replay.traces import GOLD, TraceFormatError, read_records

SYNTHETIC = Path(__file__).parents[2] / "fakes" / "traces" / "synthetic-votes.jsonl"


def samples_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": "synthetic",
        "model": "m",
        "question_id": "q1",
        "gold": "7",
        "tokens_kind": "exact",
        "samples": [{"answer": "7", "correct": True, "tokens": 12}],
    }
    return record | changes


def write_lines(path: Path, *records: Any) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_plain_and_gzip_files_of_a_directory_are_read_in_name_order(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl.gz", samples_record(question_id="second"))
    write_lines(tmp_path / "a.jsonl", samples_record(question_id="first"))
    (tmp_path / "notes.txt").write_text("not a trace")

    assert [record.question_id for record in read_records([tmp_path])] == ["first", "second"]


def test_question_ids_may_be_numbers_and_unknown_keys_are_let_through(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", samples_record(question_id=900, budget=32768, effort=3))

    (record,) = read_records([path])

    assert (record.question_id, record.effort) == ("900", 3)


def test_gold_is_written_out_as_the_gold_answer(tmp_path: Path) -> None:
    samples = [{"answer": answer, "correct": True, "tokens": 1} for answer in (GOLD, "8", None)]
    (record,) = read_records([write_lines(tmp_path / "t.jsonl", samples_record(samples=samples))])

    assert [record.answer_text(sample) for sample in record.samples] == ["7", "8", None]


def test_records_of_other_kinds_are_skipped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", {"probes": [], "answers": []}, {"steps": []}, samples_record())

    assert len(list(read_records([path]))) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"t\.jsonl:2: not JSON .*one JSON object per line"),
        ("[]", r"t\.jsonl:2: a list; expected one JSON object"),
        ('{"dataset": "d"}', r't\.jsonl:2: cannot tell the record\'s kind; .*"samples", "probes", "steps"'),
        (json.dumps(samples_record(samples=[])), r"t\.jsonl:2: .*length >= 1.*\$\.samples"),
        (
            json.dumps(samples_record(samples=[{"answer": 7, "correct": True, "tokens": 1}])),
            r"t\.jsonl:2: Expected `str \| null`, got `int` - at `\$\.samples\[0\]\.answer`; a samples record is",
        ),
        (
            json.dumps(samples_record(gold=None, samples=[{"answer": GOLD, "correct": True, "tokens": 1}])),
            r't\.jsonl:2: an answer is "=gold" while gold is null; give gold',
        ),
    ],
)
def test_a_wrong_line_is_named_with_what_would_be_right(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(samples_record()) + "\n" + line + "\n")

    with pytest.raises(TraceFormatError, match=complaint):
        list(read_records([path]))


def test_a_missing_file_an_empty_directory_and_a_false_gzip_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match=r"nowhere: no such file; give a \.jsonl"):
        list(read_records([tmp_path / "nowhere"]))
    with pytest.raises(TraceFormatError, match="no trace file in this directory"):
        list(read_records([tmp_path]))
    false_gzip = tmp_path / "t.jsonl.gz"
    false_gzip.write_text("{}")
    with pytest.raises(TraceFormatError, match=r"t\.jsonl\.gz: cannot be read"):
        list(read_records([false_gzip]))


def test_the_synthetic_fixture_is_as_its_readme_says() -> None:
    records = list(read_records([SYNTHETIC]))

    assert len(records) == 40
    assert all(len(record.samples) == 16 for record in records)
    assert all(40 <= sample.tokens <= 400 for record in records for sample in record.samples)
    distinct = [len({record.answer_text(sample) for sample in record.samples}) for record in records]
    assert distinct[:8] == [1] * 8
    assert max(distinct) >= 5
