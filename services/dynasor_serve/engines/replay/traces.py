"""Recorded traces: what does a file of the trace format hold?

One JSON object per line, plain or gzip. The kind of a record shows in the key that only it has: `samples`
(one question, many answers), `probes` (one long chain), `steps` (one search). This module reads the first;
another kind is a struct and a row in `RECORD_KINDS`.

`trace_index.TraceIndex` is built from what `read_records` yields; measuring tools may read the records too.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

_log = logging.getLogger(__name__)

#: The answer "mathematically equal to the record's `gold`".
GOLD: Final = "=gold"

_SUFFIXES: Final = (".jsonl", ".jsonl.gz")

_Count = Annotated[int, msgspec.Meta(ge=0)]


class TraceFormatError(ValueError):
    """A trace file is not what the format says; the message names file, line and what would be right."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded completion of a question.

    Attributes:
        answer: Canonical final answer, `GOLD` for one equal to the record's gold, None if none was found.
        correct: Whether the answer equals the gold one.
        tokens: Completion tokens, reasoning included.
        reasoning_tokens: Those of them that were reasoning, where the recorder told.
        in_tokens: Prompt tokens, where recorded.
        reward: Reward model's score in [0, 1], where recorded.
        time_s: Wall time of the recorded call in seconds, where recorded.
        finished: False when the recorded call ran into its token limit.
        text: The completion itself, where recorded.
    """

    answer: str | None
    correct: bool
    tokens: _Count
    reasoning_tokens: _Count | None = None
    in_tokens: _Count | None = None
    reward: float | None = None
    time_s: float | None = None
    finished: bool = True
    text: str | None = None


class SamplesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Every recorded completion of one question by one model run, in recorded order.

    `run_id`, `effort` and `method` tell runs of the same question by the same model apart. `verifiable`
    marks questions whose answers are checked rather than voted on. `prompt` is the exact prompt and `question` the
    bare question in it, where recorded.
    """

    dataset: str
    model: str
    question_id: str
    gold: str | None
    tokens_kind: str
    samples: Annotated[tuple[Sample, ...], msgspec.Meta(min_length=1)]
    run_id: str | None = None
    effort: str | int | None = None
    method: str | None = None
    verifiable: bool = False
    prompt: str | None = None
    question: str | None = None

    def answer_text(self, sample: Sample) -> str | None:
        """Return the sample's answer as the model would write it: `GOLD` becomes the gold answer."""
        return self.gold if sample.answer == GOLD else sample.answer


#: Key that marks a record's kind -> the struct that holds it; None: known, and not replayed by this version.
RECORD_KINDS: Final[Mapping[str, type[SamplesRecord] | None]] = {
    "samples": SamplesRecord,
    "probes": None,
    "steps": None,
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


def read_records(paths: Iterable[Path]) -> Iterator[SamplesRecord]:
    """Yield every samples record of the named files and directories, in file and line order.

    Records of kinds that this version does not replay are skipped, and their number is logged.

    Raises:
        TraceFormatError: A file cannot be read, or a line is not a record.
    """
    for file in trace_files(paths):
        skipped = 0
        for number, line in _numbered_lines(file):
            record = _decode_record(line, where=f"{file}:{number}")
            if record is None:
                skipped += 1
            else:
                yield record
        if skipped:
            _log.info("%s: skipped %d records that are not samples records", file, skipped)


def _numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-empty lines of a plain or gzip file with their numbers, from 1."""
    try:
        with gzip.open(file, "rb") if file.name.endswith(".gz") else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise TraceFormatError(f"{file}: cannot be read ({error}); expected JSON lines, gzip if named .gz") from error


def _decode_record(line: bytes, *, where: str) -> SamplesRecord | None:
    """Decode one line; None for a known kind that is not replayed."""
    try:
        fields = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise TraceFormatError(f"{where}: not JSON ({error}); expected one JSON object per line") from error
    if not isinstance(fields, dict):
        raise TraceFormatError(f"{where}: a {type(fields).__name__}; expected one JSON object per line")
    kind = next((key for key in RECORD_KINDS if key in fields), None)
    if kind is None:
        kinds = ", ".join(f'"{key}"' for key in RECORD_KINDS)
        raise TraceFormatError(f"{where}: cannot tell the record's kind; a record holds one of {kinds}")
    struct = RECORD_KINDS[kind]
    if struct is None:
        return None
    if isinstance(fields.get("question_id"), int):  # some recorders number their questions
        fields["question_id"] = str(fields["question_id"])
    try:
        record = msgspec.convert(fields, struct)
    except msgspec.ValidationError as error:
        raise TraceFormatError(
            f"{where}: {error}; a samples record is {{dataset, model, question_id, gold, tokens_kind, "
            f"samples: [{{answer, correct, tokens, ...}}, ...]}}"
        ) from error
    if record.gold is None and any(sample.answer == GOLD for sample in record.samples):
        raise TraceFormatError(f'{where}: an answer is "{GOLD}" while gold is null; give gold, or the answer itself')
    return record
