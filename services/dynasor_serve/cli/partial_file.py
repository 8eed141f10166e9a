"""A file of lines that appears whole or not at all, and can be gone on with where its writer broke off.

Beside `OUT` stand `OUT.partial`, to which each line is appended before it counts, and a companion named after the
command, such as `OUT.batch`, which holds the options that the lines were asked with and is the lock that keeps a second
process out. `OUT` itself appears in one step, by renaming: there is never a part of the lines that looks like all of
them. `batching.result_file` and `record` keep their lines so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.cli.presentation import Json

_CHUNK_BYTES = 64 * 1024


@contextlib.contextmanager
def locked(out: Path, command: str) -> Iterator[PartialFile]:
    """The lines on their way to `out`, for this process alone.

    Args:
        out: where they go once all are there.
        command: whose lines they are, such as `batch`.

    Raises:
        CommandFailed: another process has it, or nothing can be written there.
    """
    if not out.parent.is_dir():
        raise bad_input(f"there is no directory {out.parent} for {out.name}")
    if out.exists() and not out.is_file():
        raise bad_input(f"{out} is no regular file; give the name of a file that the results can replace")
    companion = out.with_name(f"{out.name}.{command}")
    with writing(companion):
        lock = _locked(companion, out, command)
    file = PartialFile(out, companion, lock)
    try:
        yield file
    finally:
        file.close()


class PartialFile:
    """Lines on their way to a file; made by `locked`. Raises `OSError` where it does not say otherwise.

    Attributes:
        path: where they are until then.
    """

    def __init__(self, out: Path, companion: Path, lock: int) -> None:
        self.path = out.with_name(f"{out.name}.partial")
        self._out = out
        self._fresh = out.with_name(f"{out.name}.partial.new")
        self._companion = companion
        self._lock = lock
        self._appending = -1  # file descriptor

    # --- before the first line ---

    def begin(self, options: dict[str, Json], name: str = "", *, source: Path | None = None) -> None:
        """Begins anew.

        Args:
            options: what decides about the lines.
            name: of these lines, for whoever goes on.
            source: a file whose lines are there from the start.
        """
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, msgspec.json.encode(_Beginning(name, dict(options))), 0)
        os.fsync(self._lock)  # before anything is asked in its name
        if source is None:
            self.path.touch()
        else:
            shutil.copyfile(source, self._fresh)
            _sync(self._fresh)
            self._fresh.replace(self.path)
        _sync(self._out.parent)
        self._open()

    def go_on(self, options: dict[str, Json]) -> str:
        """Goes on with what an earlier process has left, and returns the name of it. A torn last line is cut off.

        Raises:
            CommandFailed: it was begun with other options, or nobody knows with which.
        """
        try:
            begun = msgspec.json.decode(self._companion.read_bytes(), type=_Beginning)
        except msgspec.DecodeError:
            message = f"{self.path} has lost {self._companion.name}, which belongs to it; remove it to begin again"
            raise bad_input(message) from None
        changed = [
            f"{name} was {begun.options.get(name, 'not given')!r} and is {options.get(name, 'not given')!r}"
            for name in sorted(begun.options.keys() | options.keys())
            if begun.options.get(name) != options.get(name)
        ]
        if changed:
            message = (
                f"{self.path} was begun with other options: {'; '.join(changed)}. Give the same to go on, or "
                "remove it to begin again"
            )
            raise bad_input(message)
        self._open()
        return begun.name

    # --- line by line ---

    def lines(self) -> Iterator[bytes]:
        """The lines that are there, each with its line feed."""
        with self.path.open("rb") as file:
            yield from file

    def append(self, line: bytes) -> None:
        """Adds a line; once this returns, no kill of this process loses it. Raises `CommandFailed`."""
        rest = memoryview(line)
        with writing(self.path):
            while rest:
                rest = rest[os.write(self._appending, rest) :]

    # --- after the last ---

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replaces all lines in one step; none is appended after that."""
        with self._fresh.open("wb") as file:
            file.writelines(lines)
        _sync(self._fresh)
        self._fresh.replace(self.path)

    def finish(self, content: bytes | None = None) -> None:
        """Makes the lines whole, or what was made of them."""
        if content is None:
            _sync(self.path)
            self.path.replace(self._out)
        else:
            self._fresh.write_bytes(content)
            _sync(self._fresh)
            self._fresh.replace(self._out)
            self.path.unlink()
        _sync(self._out.parent)

    def close(self) -> None:
        """Lets go of the files. The companion belongs to a partial file and goes where there is none."""
        if self._appending >= 0:
            os.close(self._appending)
        if not self.path.exists():
            self._companion.unlink()
        os.close(self._lock)

    # --- steps ---

    def _open(self) -> None:
        """Cuts off a last line that was not written to its end, and opens the file for more."""
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - _CHUNK_BYTES)
                file.seek(start)
                whole = file.read(end - start).rfind(b"\n") + 1
                if whole:
                    end = start + whole
                    break
                end = start
            file.truncate(end)
        self._appending = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)


class _Beginning(msgspec.Struct, frozen=True, rename={"name": "batch"}):
    name: str
    options: dict[str, object]


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an `OSError` into what a command says of it."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; what has been written is kept"
        raise CommandFailed(message, ExitCode.FAILED) from error


def _locked(path: Path, out: Path, command: str) -> int:
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
            message = f"another `dynasor {command}` is writing {out.name}; wait for it, stop it, or give another OUT"
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
