"""Where results are safe while a batch is worked on, so that whatever breaks off can go on.

Beside `OUT` stand `OUT.partial`, to which each result is appended as one whole line, and `OUT.batch`, which holds the
batch's id and options and is the lock that keeps a second process out. `OUT` itself appears in one step, by renaming,
once every line has its result: there is never a part of the results that looks like all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import msgspec

from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.results import Result, ResultId, decoded, encoded, parse_id
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
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
    if not out.parent.is_dir():
        raise bad_input(f"there is no directory {out.parent} for {out.name}")
    if out.exists() and not out.is_file():
        raise bad_input(f"{out} is no regular file; give the name of a file that the results can replace")
    side = out.with_name(f"{out.name}.batch")
    with _writing(side):
        lock = _locked(side)
    results = ResultFile(out, side, lock, options)
    try:
        with _writing(out):
            results.begin(overwrite=overwrite, retry_errors=retry_errors)
        yield results
    finally:
        results.close()


class ResultFile:
    """The results of one batch; made by `opened`.

    Attributes:
        batch: the batch's id, new or that of the run that broke off.
    """

    def __init__(self, out: Path, side: Path, lock: int, options: dict[str, Json]) -> None:
        self.batch = ""
        self._out = out
        self._partial = out.with_name(f"{out.name}.partial")
        self._fresh = out.with_name(f"{out.name}.partial.new")
        self._side = side
        self._lock = lock
        self._options = options
        self._appending = -1  # file descriptor
        self._lines = 0  # in the partial file, readable or not
        self._standing: dict[LineKey, int] = {}  # line -> the attempt whose result stands
        self._again: dict[LineKey, int] = {}  # line to be asked again -> number of that attempt
        self._foreign: AbstractSet[LineKey] = frozenset()  # lines that are not in the input any more

    # --- before the first line is asked ---

    def begin(self, *, overwrite: bool, retry_errors: bool) -> None:
        """Finds the results of an earlier run, or begins with none; see `opened`."""
        has_out, has_partial = self._out.exists(), self._partial.exists()
        if has_out and not overwrite and not retry_errors:
            begun = f" ({self._partial.name} holds what is there of new results)" if has_partial else ""
            message = (
                f"{self._out} exists already{begun}; give another OUT, --overwrite to replace it once the new results "
                "are whole, or --retry-errors to ask only those lines again that ended in an error that may have passed"
            )
            raise bad_input(message)
        if has_partial:
            self._go_on()
        elif has_out and retry_errors:
            self._begin_from_whole()
        else:
            self._begin_with(f"batch-{secrets.token_hex(4)}{_digest(self._options)}")
            self._partial.touch()
            _sync(self._out.parent)
        self._load(retry_errors=retry_errors)
        self._appending = os.open(self._partial, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

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
        line = memoryview(encoded(result))
        with _writing(self._partial):
            while line:
                line = line[os.write(self._appending, line) :]
        self._lines += 1
        self._standing[result_id.key] = result_id.attempt
        self._again.pop(result_id.key, None)

    # --- after the last ---

    def finish(self) -> None:
        """Every line has its result: makes them whole. Raises `CommandFailed`."""
        with _writing(self._out):
            if self._lines != len(self._standing.keys() - self._foreign):
                self._rewrite()
            _sync(self._partial)
            self._partial.replace(self._out)
            _sync(self._out.parent)

    def close(self) -> None:
        """Lets go of the files. `OUT.batch` belongs to a partial file and goes where there is none."""
        if self._appending >= 0:
            os.close(self._appending)
        if not self._partial.exists():
            self._side.unlink()
        os.close(self._lock)

    # --- steps ---

    def _begin_with(self, batch: str) -> None:
        """Writes down which batch this is, before anything is asked in its name."""
        self.batch = batch
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, msgspec.json.encode({"batch": batch, "options": self._options}), 0)
        os.fsync(self._lock)

    def _go_on(self) -> None:
        try:
            side = msgspec.json.decode(self._side.read_bytes(), type=_Side)
        except msgspec.DecodeError:
            message = f"{self._partial} has lost {self._side.name}, which belongs to it; remove it to begin again"
            raise bad_input(message) from None
        changed = [
            f"{name} was {side.options.get(name, 'not given')!r} and is {self._options.get(name, 'not given')!r}"
            for name in sorted(side.options.keys() | self._options.keys())
            if side.options.get(name) != self._options.get(name)
        ]
        if changed:
            message = (
                f"{self._partial} was begun with other options: {'; '.join(changed)}. Give the same to go on, or "
                "remove it to begin again"
            )
            raise bad_input(message)
        self.batch = side.batch

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
        self._begin_with(result_id.batch if result_id else f"batch-{secrets.token_hex(4)}{_digest(self._options)}")
        shutil.copyfile(self._out, self._fresh)
        _sync(self._fresh)
        self._fresh.replace(self._partial)
        _sync(self._out.parent)

    def _load(self, *, retry_errors: bool) -> None:
        """Learns which lines have results; cuts a last line that was not written to its end."""
        whole = 0  # bytes of whole lines
        with self._partial.open("r+b") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self._lines += 1
                for key, attempt, result in self._parsed(line):
                    self._standing[key] = attempt
                    self._again.pop(key, None)
                    if retry_errors and result.error is not None and result.error.retryable:
                        self._again[key] = attempt + 1
            file.truncate(whole)

    def _read(self) -> Iterator[tuple[LineKey, int, Result]]:
        """All results in the partial file: line, attempt, result."""
        with self._partial.open("rb") as file:
            for line in file:
                yield from self._parsed(line)

    def _parsed(self, line: bytes) -> Iterator[tuple[LineKey, int, Result]]:
        """What a line of the partial file holds; nothing where this batch did not write it."""
        result = decoded(line)
        result_id = parse_id(result.id) if result else None
        if result is not None and result_id is not None and result_id.batch == self.batch:
            yield result_id.key, result_id.attempt, result

    def _stands(self, key: LineKey, attempt: int) -> bool:
        return self._standing.get(key) == attempt and key not in self._foreign

    def _rewrite(self) -> None:
        """Leaves out what was superseded, belongs to no line, or cannot be read."""
        with self._fresh.open("wb") as file:
            for key, attempt, result in self._read():
                if self._stands(key, attempt):
                    file.write(encoded(result))
        _sync(self._fresh)
        self._fresh.replace(self._partial)


class _Side(msgspec.Struct, frozen=True):
    batch: str
    options: dict[str, object]


def _locked(path: Path) -> int:
    """A file descriptor of the path's file, locked. The kernel drops the lock of a process that was killed."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have finished and removed it since: then somebody else may hold a new one.
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            out = path.name.removesuffix(".batch")
            message = f"another `dynasor batch` is writing {out}; wait for it, stop it, or give another OUT"
            raise bad_input(message) from None
        except FileNotFoundError:
            pass
        os.close(handle)


def _sync(path: Path) -> None:
    """Makes a file's content, or a directory's names, outlive a power failure."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(options: dict[str, Json]) -> str:
    return hashlib.blake2b(msgspec.json.encode(options, order="sorted"), digest_size=4).hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; what has been written is kept"
        raise CommandFailed(message, ExitCode.FAILED) from error
