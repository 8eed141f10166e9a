"""Recorded traces: what is in a file of the trace format?

One JSON object per line, plain or gzip, records of all kinds (`records`) in any order. `trace_index.TraceIndex` is
built from what `read_records` yields; measuring tools may read the records too.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dynasor_serve.engines.replay.records import ProbesRecord, Record, SamplesRecord, StepsRecord

_SUFFIXES: Final = (".jsonl", ".jsonl.gz")


class TraceFormatError(ValueError):
    """A trace file is not what the format says; the message names file, line and what would be right."""


class Place(NamedTuple):
    """Where a record stands: a file, and a line of it, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


#: Key that marks a record's kind -> the struct that holds it.
RECORD_KINDS: Final[Mapping[str, type[Record]]] = {
    "samples": SamplesRecord,
    "probes": ProbesRecord,
    "steps": StepsRecord,
}

#: Key that marks a record's kind -> what such a record looks like.
_SHAPES: Final[Mapping[str, str]] = {
    "samples": (
        "a samples record is {dataset, model, question_id, gold, tokens_kind, "
        "samples: [{answer, correct, tokens, ...}, ...]}"
    ),
    "probes": (
        "a probes record is {dataset, model, question_id, gold, seed, tokens, finished, final_answer, answers: [...], "
        "probe_fields: [token_position, answer_index, certain|confidence, probe_out_tokens], probes: [[...], ...]}"
    ),
    "steps": (
        "a steps record is {dataset, model, question_id, "
        "steps: [{candidates: [{thought, parent, value, selected, tokens}, ...]}, ...], final: [...]}"
    ),
}


def trace_files(paths: Iterable[Path]) -> list[Path]:
    """List the trace files that `paths` name: files as they are, directories searched through, in name order.

    Raises:
        TraceFormatError: A path does not exist, or a directory holds no trace file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.jsonl*") if file.name.endswith(_SUFFIXES))
            if not found:
                raise TraceFormatError(f"{path}: no trace file in this directory; expected names *.jsonl or *.jsonl.gz")
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise TraceFormatError(f"{path}: no such file; give a .jsonl or .jsonl.gz trace, or a directory of them")
    return files


def read_records(paths: Iterable[Path]) -> Iterator[Record]:
    """Yield every record of the named files and directories, in file and line order.

    Raises:
        TraceFormatError: A file cannot be read, or a line is not a record.
    """
    for _, record in placed_records(paths):
        yield record


def placed_records(paths: Iterable[Path]) -> Iterator[tuple[Place, Record]]:
    """Yield what `read_records` does, each record with where it stands. Raises as `read_records`."""
    for file in trace_files(paths):
        for number, line in _numbered_lines(file):
            place = Place(file, number)
            yield place, _decode_record(line, where=str(place))


def _numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines of a plain or gzip file with their numbers, from 1."""
    try:
        with gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise TraceFormatError(f"{file}: cannot be read ({error}); expected JSON lines, gzip if named .gz") from error


def _decode_record(line: bytes, *, where: str) -> Record:
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TraceFormatError(f"{where}: not JSON ({error}); expected one JSON object per line") from error
    if not isinstance(fields, dict):
        raise TraceFormatError(f"{where}: a {type(fields).__name__}; expected one JSON object per line")
    kind = next((key for key in RECORD_KINDS if key in fields), None)
    if kind is None:
        kinds = ", ".join(f'"{key}"' for key in RECORD_KINDS)
        raise TraceFormatError(f"{where}: cannot tell the record's kind; a record holds one of {kinds}")
    if isinstance(fields.get("question_id"), int):  # some recorders number their questions
        fields["question_id"] = str(fields["question_id"])
    try:
        return msgspec.convert(fields, RECORD_KINDS[kind])
    except msgspec.ValidationError as error:
        raise TraceFormatError(f"{where}: {error}; {_SHAPES[kind]}") from error
