"""Which results of a batch stand, and which lines are asked again: what a batch knows of its `partial_file`."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.results import Result, ResultId, decoded, encoded, parse_id
from dynasor_serve.cli.failures import bad_input
from dynasor_serve.cli.partial_file import PartialFile, locked, writing
from dynasor_serve.cli.presentation import Json


@contextlib.contextmanager
def opened(out: Path, options: dict[str, Json], *, overwrite: bool, retry_errors: bool) -> Iterator[ResultFile]:
    """The results of a batch: a new one's, or those of one that broke off.

    Args:
        out: where they go once all are there.
        options: what decides about the queries beside the lines; a batch keeps its own.
        overwrite: whether `out` may exist; it is replaced once the new results are whole.
        retry_errors: whether lines that ended in an error that may pass are asked again, also those of a whole `out`.

    Raises:
        CommandFailed: another process has it, it exists already, it was begun with other options, or it cannot be
            written.
    """
    with locked(out, "batch") as partial:
        results = ResultFile(out, partial, options)
        with writing(out):
            results.begin(overwrite=overwrite, retry_errors=retry_errors)
        yield results


class ResultFile:
    """The results of one batch; made by `opened`.

    Attributes:
        batch: the batch's id, new or that of the run that broke off.
    """

    def __init__(self, out: Path, partial: PartialFile, options: dict[str, Json]) -> None:
        self.batch = ""
        self._out = out
        self._partial = partial
        self._options = options
        self._lines = 0  # in the partial file, readable or not
        self._standing: dict[LineKey, int] = {}  # line -> the attempt whose result stands
        self._again: dict[LineKey, int] = {}  # line to be asked again -> number of that attempt
        self._foreign: AbstractSet[LineKey] = frozenset()  # lines that are not in the input any more

    # --- before the first line is asked ---

    def begin(self, *, overwrite: bool, retry_errors: bool) -> None:
        """Finds the results of an earlier run, or begins with none; see `opened`."""
        has_out, has_partial = self._out.exists(), self._partial.path.exists()
        if has_out and not overwrite and not retry_errors:
            begun = f" ({self._partial.path.name} holds what is there of new results)" if has_partial else ""
            message = (
                f"{self._out} exists already{begun}; give another OUT, --overwrite to replace it once the new results "
                "are whole, or --retry-errors to ask only those lines again that ended in an error that may have passed"
            )
            raise bad_input(message)
        if has_partial:
            self.batch = self._partial.go_on(self._options)
        elif has_out and retry_errors:
            self._begin_from_whole()
        else:
            self.batch = self._new_name()
            self._partial.begin(self._options, self.batch)
        self._load(retry_errors=retry_errors)

    def leave_out_others(self, present: AbstractSet[LineKey]) -> Iterator[Result]:
        """Leaves out results of lines that are not in the input any more, and yields them.

        Args:
            present: lines of the input that `has_result_of`.
        """
        self._foreign = self._standing.keys() - present
        if self._foreign:
            yield from (result for key, _, result in self._read() if key in self._foreign)

    def standing(self) -> Iterator[Result]:
        """The results so far, without those of lines that are to be asked again or are left out."""
        for key, attempt, result in self._read():
            if self._stands(key, attempt) and key not in self._again:
                yield result

    # --- line by line ---

    def has_result_of(self, key: LineKey) -> bool:
        """Whether a line has a result, be it one that is to be replaced."""
        return key in self._standing

    def next_id(self, key: LineKey) -> ResultId | None:
        """What to ask a line under; None where its result stands."""
        if key in self._standing and key not in self._again:
            return None
        return ResultId(self.batch, key, self._again.get(key, 0))

    def append(self, result_id: ResultId, result: Result) -> None:
        """Adds the result of one line; once this returns, no kill of this process loses it. Raises `CommandFailed`."""
        self._partial.append(encoded(result))
        self._lines += 1
        self._standing[result_id.key] = result_id.attempt
        self._again.pop(result_id.key, None)

    # --- after the last ---

    def finish(self) -> None:
        """Every line has its result: makes them whole. Raises `CommandFailed`."""
        with writing(self._out):
            if self._lines != len(self._standing.keys() - self._foreign):
                # Without what was superseded, belongs to no line, or cannot be read.
                self._partial.rewrite(
                    encoded(result) for key, attempt, result in self._read() if self._stands(key, attempt)
                )
            self._partial.finish()

    # --- steps ---

    def _new_name(self) -> str:
        return f"batch-{secrets.token_hex(4)}{_digest(self._options)}"

    def _begin_from_whole(self) -> None:
        with self._out.open("rb") as file:
            first = file.readline()
        result = decoded(first)
        result_id = parse_id(result.id) if result else None
        if first and result_id is None:
            message = f"{self._out} is no output of `dynasor batch`; give --overwrite to replace it"
            raise bad_input(message)
        if result_id is not None and not result_id.batch.endswith(_digest(self._options)):
            message = (
                f"{self._out} was asked with other options; give the same for --retry-errors, or --overwrite to ask "
                "every line again"
            )
            raise bad_input(message)
        self.batch = result_id.batch if result_id else self._new_name()
        self._partial.begin(self._options, self.batch, source=self._out)

    def _load(self, *, retry_errors: bool) -> None:
        """Learns which lines have results."""
        for line in self._partial.lines():
            self._lines += 1
            for key, attempt, result in self._parsed(line):
                self._standing[key] = attempt
                self._again.pop(key, None)
                if retry_errors and result.error is not None and result.error.retryable:
                    self._again[key] = attempt + 1

    def _read(self) -> Iterator[tuple[LineKey, int, Result]]:
        """All results in the partial file: line, attempt, result."""
        for line in self._partial.lines():
            yield from self._parsed(line)

    def _parsed(self, line: bytes) -> Iterator[tuple[LineKey, int, Result]]:
        """What a line of the partial file holds; nothing where this batch did not write it."""
        result = decoded(line)
        result_id = parse_id(result.id) if result else None
        if result is not None and result_id is not None and result_id.batch == self.batch:
            yield result_id.key, result_id.attempt, result

    def _stands(self, key: LineKey, attempt: int) -> bool:
        return self._standing.get(key) == attempt and key not in self._foreign


def _digest(options: dict[str, Json]) -> str:
    return hashlib.blake2b(msgspec.json.encode(options, order="sorted"), digest_size=4).hexdigest()
