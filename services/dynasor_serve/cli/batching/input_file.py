"""The input file: read line by line, never as a whole, and what tells its lines apart.

It is read twice: once to count its lines and to learn their names, once to ask them. Of each line some sixty bytes are
kept between the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NewType

from dynasor_serve.cli.batching.line_shape import BadLine, LineProblem
from dynasor_serve.cli.batching.lines import custom_id_of
from dynasor_serve.cli.failures import bad_input

LineKey = NewType("LineKey", bytes)
"""What identifies a line through all runs of a batch: its name and its content. 16 bytes."""

MAX_LINE_BYTES = 8 * 1024 * 1024
"""A query's million characters fit, six bytes each; and its message, with what is added, into gRPC's (16 MiB)."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class InputLine:
    """One line that is not blank."""

    number: int  # from 1, blank lines counted
    content: bytes | None  # without the spaces around it; None where it is longer than MAX_LINE_BYTES
    digest: bytes  # of its content


@dataclass(frozen=True, slots=True)
class Identity:
    """Which line this is."""

    key: LineKey
    custom_id: str | None  # None where the line gives none, or one that an earlier line has
    problem: BadLine | None  # why it cannot be asked, as far as its name is concerned


def read_lines(path: Path) -> Iterator[InputLine]:
    """The lines of a file that are not blank. Raises `CommandFailed` where it cannot be read."""
    try:
        with path.open("rb") as file:
            yield from _lines_of(file)
    except OSError as error:
        raise bad_input(f"cannot read {path}: {error.strerror}") from error


class LineNames:
    """The names of a file's lines. `identity` of every line, in order, before any `name`."""

    def __init__(self) -> None:
        self._first_lines: dict[bytes, int] = {}  # digest of a custom_id -> number of the first line that has it

    def identity(self, line: InputLine) -> Identity:
        """Which line this is; the same however often it is asked."""
        if line.content is None:
            message = f"the line is longer than {MAX_LINE_BYTES:,} bytes; shorten it"
            return _nameless(line, BadLine(LineProblem.LINE_TOO_LONG, message))
        try:
            custom_id = custom_id_of(line.content)
        except BadLine as problem:
            return _nameless(line, problem)
        first = self._first_lines.setdefault(_digest(b"id", custom_id.encode()), line.number)
        if first != line.number:
            message = f"custom_id {custom_id!r:.80} is that of line {first}; give a text of its own to every line"
            return _nameless(line, BadLine(LineProblem.DUPLICATE_CUSTOM_ID, message))
        return Identity(LineKey(_digest(b"named", custom_id.encode(), line.digest)), custom_id, None)

    def has(self, custom_id: str) -> bool:
        """Whether a line has this name."""
        return _digest(b"id", custom_id.encode()) in self._first_lines

    def name(self, line: InputLine, identity: Identity) -> str:
        """The line's custom_id in the output: its own, else one that no other line has, such as `line-17`."""
        if identity.custom_id is not None:
            return identity.custom_id
        name = f"line-{line.number}"
        while self.has(name):
            name += "-unnamed"
        return name


def _lines_of(file: BinaryIO) -> Iterator[InputLine]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_too_long = len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if is_too_long:
            yield InputLine(number, None, _digest_of_rest(file, line))
        elif content := line.strip():
            yield InputLine(number, content, hashlib.blake2b(content, digest_size=16).digest())


def _nameless(line: InputLine, problem: BadLine) -> Identity:
    return Identity(LineKey(_digest(b"nameless", str(line.number).encode(), line.digest)), None, problem)


def _digest(kind: bytes, *parts: bytes) -> bytes:
    """Parts whose lengths may vary come before one that has always the same: nothing runs into one another."""
    return hashlib.blake2b(b"\0".join(parts), digest_size=16, person=kind).digest()


def _digest_of_rest(file: BinaryIO, beginning: bytes) -> bytes:
    """Reads to the end of a line; returns the digest of all of it."""
    digest = hashlib.blake2b(beginning, digest_size=16)
    while chunk := file.readline(_CHUNK_BYTES):
        digest.update(chunk)
        if chunk.endswith(b"\n"):
            break
    return digest.digest()
