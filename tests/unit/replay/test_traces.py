"""Trace files: what is read, and what a wrong file is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.engines.replay.records import GOLD, Probe, ProbesRecord, SamplesRecord, StepsRecord
from dynasor_serve.engines.replay.traces import TraceFormatError, read_records

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


def probes_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": "synthetic",
        "model": "m",
        "question_id": "q1",
        "gold": "7",
        "seed": 42,
        "tokens": 40,
        "finished": True,
        "final_answer": "7",
        "answers": ["7"],
        "probe_fields": ["token_position", "answer_index", "certain", "probe_out_tokens"],
        "probes": [[10, 0, 1, 4]],
    }
    return record | changes


def steps_record(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": "synthetic",
        "model": "m",
        "question_id": 900,
        "steps": [{"step": 0, "candidates": [THOUGHT]}],
        "final": [{"y": "a\n", "correct": True}],
    }
    return record | changes


TRIAL_FIELDS = ("token_position", "answer_index", "confidence", "probe_out_tokens")
THOUGHT: dict[str, Any] = {"thought": "a\n", "parent": 0, "value": 0.5, "selected": True, "tokens": 3}
WELL_PAID: dict[str, Any] = {"answer": "7", "correct": True, "tokens": 1, "reward": 2.0}


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

    assert isinstance(record, SamplesRecord)
    assert [record.answer_text(sample) for sample in record.samples] == ["7", "8", None]


def test_one_file_may_hold_records_of_every_kind(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", probes_record(), steps_record(), samples_record())

    assert [type(record) for record in read_records([path])] == [ProbesRecord, StepsRecord, SamplesRecord]


def test_probes_are_read_by_the_names_of_their_numbers(tmp_path: Path) -> None:
    fields = ["answer_index", "probe_out_tokens", "token_position", "confidence", "certain"]
    rows = [[1, 4, 10, 0.25, 0], [0, 6, 20, 1, 1]]
    record = probes_record(probe_fields=fields, probes=rows, answers=[GOLD, None])
    (chain,) = read_records([write_lines(tmp_path / "t.jsonl", record)])

    assert isinstance(chain, ProbesRecord)
    assert chain.trials() == (
        Probe(position=10, answer="", certain=False, confidence=0.25, tokens=4),
        Probe(position=20, answer="7", certain=True, confidence=1, tokens=6),
    )


@pytest.mark.parametrize(
    ("fields", "at_marks"),
    [(["confidence"], True), (["certain"], False), (["certain", "confidence"], False)],
)
def test_trial_answers_that_have_a_confidence_alone_were_taken_at_marks(
    tmp_path: Path, fields: list[str], at_marks: bool
) -> None:
    names = ["token_position", "answer_index", *fields, "probe_out_tokens"]
    record = probes_record(probe_fields=names, probes=[])
    (chain,) = read_records([write_lines(tmp_path / "t.jsonl", record)])

    assert isinstance(chain, ProbesRecord)
    assert chain.is_probed_at_marks is at_marks


@pytest.mark.parametrize(
    ("values", "value_max", "scale"),
    [([0.2, 1.0], None, 1), ([3.0, 0.003], None, 60), ([60.0, 41.0], None, 60), ([90.0], None, 90), ([0.5], 2.0, 2)],
)
def test_values_become_rewards_by_the_largest_possible_one(
    tmp_path: Path, values: list[float], value_max: float | None, scale: float
) -> None:
    candidates = [{"thought": str(value), "tokens": 3, "value": value} for value in values]
    record = steps_record(steps=[{"candidates": candidates}], value_max=value_max)
    (tree,) = read_records([write_lines(tmp_path / "t.jsonl", record)])

    assert isinstance(tree, StepsRecord)
    assert tree.value_scale == scale


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", r"t\.jsonl:2: not JSON .*one JSON object per line"),
        ("[]", r"t\.jsonl:2: a list; expected one JSON object"),
        ('{"dataset": "d"}', r't\.jsonl:2: cannot tell the record\'s kind; .*"samples", "probes", "steps"'),
        (json.dumps(samples_record(samples=[])), r"t\.jsonl:2: .*length >= 1.*\$\.samples"),
        (json.dumps(samples_record(samples=[WELL_PAID])), r"t\.jsonl:2: .*<= 1.*\$\.samples\[0\]\.reward"),
        (
            json.dumps(probes_record(probes=[[10, 0, 1]])),
            r"t\.jsonl:2: probes\[0\] has 3 numbers; probe_fields names 4",
        ),
        (json.dumps(probes_record(probes=[[99, 0, 1, 4]])), r"probes\[0\] is at token 99; .*up to the 40 of the chain"),
        (
            json.dumps(probes_record(probes=[[20, 0, 1, 4], [10, 0, 1, 4]])),
            r"t\.jsonl:2: probes\[1\] is at token 10; positions increase",
        ),
        (json.dumps(probes_record(probes=[[10, 3, 1, 4]])), r"probes\[0\] has answer 3 of 1; indices count from 0"),
        (json.dumps(probes_record(probes=[[10, 0, 1, -4]])), r"probes\[0\] has -4 tokens"),
        (
            json.dumps(probes_record(probe_fields=[*TRIAL_FIELDS], probes=[[10, 0, 1.5, 4]])),
            r"probes\[0\] has confidence 1\.5; it must be in \[0, 1\]",
        ),
        (json.dumps(probes_record(probe_fields=["at", "answer"])), r"probe_fields are at, answer; name answer_index"),
        (json.dumps(probes_record(gold=None, answers=[GOLD])), r't\.jsonl:2: an answer is "=gold" while gold is null'),
        (json.dumps(probes_record(text_positions=[[1, 1]])), r"text_positions without text"),
        (
            json.dumps(probes_record(text="abc", text_positions=[[2, 2], [1, 3]])),
            r"text_positions must not decrease, up to \[40, 3\]",
        ),
        (json.dumps(probes_record(text="abc", text_positions=[[2, 4]])), r"text_positions must not decrease"),
        ('{"probes": []}', r"t\.jsonl:2: .*missing required field .*; a probes record is \{dataset, model"),
        (json.dumps(steps_record(steps=[])), r"t\.jsonl:2: .*length >= 1.*; a steps record is"),
        (
            json.dumps(steps_record(steps=[{"candidates": [THOUGHT]}, {"candidates": [THOUGHT | {"parent": 1}]}])),
            r"t\.jsonl:2: a candidate of step 1 has parent 1, and step 0 selected 1; give an index",
        ),
        (
            json.dumps(steps_record(steps=[{"candidates": [THOUGHT | {"value": -1}]}])),
            r"t\.jsonl:2: .*>= 0.*value",
        ),
        (
            json.dumps(steps_record(steps=[{"candidates": [THOUGHT | {"value": 3}]}], value_max=2)),
            r"t\.jsonl:2: a value is 3, above value_max 2",
        ),
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
    records = [record for record in read_records([SYNTHETIC]) if isinstance(record, SamplesRecord)]

    assert len(records) == 40
    assert all(len(record.samples) == 16 for record in records)
    assert all(40 <= sample.tokens <= 400 for record in records for sample in record.samples)
    distinct = [len({record.answer_text(sample) for sample in record.samples}) for record in records]
    assert distinct[:8] == [1] * 8
    assert max(distinct) >= 5
