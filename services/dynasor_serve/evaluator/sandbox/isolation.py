"""The service's side of the sandbox: one process per run, bounded in time and in what it may say.

The verifiers that run code of a model use it; `jail` is what it starts.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from pathlib import Path
from signal import SIGKILL
from typing import Any

from dynasor_serve.evaluator.child_process import start_python

_JAIL_MODULE = "dynasor_serve.evaluator.sandbox.jail"
_INSPECTION = Path(__file__).with_name("inspection.py")
_PIECE_BYTES = 1 << 16
_ENDED_BYTES = 4096  # that the jail may add to a report
_INSPECTION_SECONDS = 60.0  # it takes a tenth of one; a busy machine should not cost a verifier
_END_SECONDS = 10.0  # for a jail to kill its program; it takes milliseconds on a machine that is not stuck


class IsolationUnavailable(RuntimeError):
    """Code that nobody has read cannot be run here: a wall is missing.

    Attributes:
        missing: what cannot be had.
        remedy: what would be right.
    """

    def __init__(self, missing: str, remedy: str) -> None:
        super().__init__(f"no isolation: {missing}; {remedy}")
        self.missing = missing
        self.remedy = remedy


class JailLost(RuntimeError):
    """The jail itself died, so that nothing is known of the program. It may be tried again."""


class End(StrEnum):
    """How a run ended."""

    EXITED = "exited"
    CRASHED = "crashed"  # by a signal that no limit of ours explains
    WALL_CLOCK = "wall-clock limit"
    CPU = "CPU limit"
    KILLED = "killed by the machine"  # which is short of memory
    REPORT = "report limit"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use."""

    seconds: float = 10.0  # wall-clock, the start of Python included; of CPU time as well
    memory_bytes: int = 512 << 20  # address space of the one process that a run is
    file_bytes: int = 16 << 20  # of each file and of all together; they are in memory
    threads: int = 32
    open_files: int = 64
    report_bytes: int = 64 << 10  # of what it writes to its standard output


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run leaves behind."""

    end: End
    code: int  # exit status, or the number of the signal; 0 where the service ended it
    report: bytes  # its standard output; what there is of it where the service ended it


class Sandbox:
    """Runs programs behind walls, or not at all.

    Args:
        limits: of each run.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    async def inspect(self) -> None:
        """Run a program that tries the walls.

        Raises:
            IsolationUnavailable: a wall cannot be built, or does not hold.
        """
        if sys.platform != "linux":
            raise IsolationUnavailable(f"the machine runs {platform.system()}", "run the evaluator on Linux")
        patient = Sandbox(replace(self.limits, seconds=max(self.limits.seconds, _INSPECTION_SECONDS)))
        try:
            ended = await patient.run(_INSPECTION, b"")
        except (OSError, JailLost) as error:
            raise IsolationUnavailable(f"the jail does not start ({error})", "see the evaluator's log") from error
        if ended.end is not End.EXITED or ended.code:
            raise IsolationUnavailable(
                f"the inspection of the walls ended with {ended.end.value} {ended.code}",
                "give the evaluator more memory per candidate; Python and its libraries must be readable for all",
            )
        possible = json.loads(ended.report)
        if possible:
            raise IsolationUnavailable(
                f"a program behind the walls still {', '.join(possible)}", "do not run the evaluator here"
            )

    async def run(self, program: Path, job: bytes) -> Ended:
        """Run a program of ours that in turn runs what a model has written.

        Args:
            program: a Python file that needs nothing but the standard library. It runs in an empty directory.
            job: its standard input.

        Raises:
            IsolationUnavailable: a wall cannot be built; the program has not run.
            JailLost: nothing is known of how it ended.
            OSError: no process can be had.
        """
        async with self._jail(program) as process:
            said = bytearray()
            try:
                async with asyncio.timeout(self.limits.seconds):
                    await _hear(process, job, said, self.limits.report_bytes + _ENDED_BYTES)
            except TimeoutError:
                return Ended(End.WALL_CLOCK, 0, bytes(said[: self.limits.report_bytes]))
        if len(said) > self.limits.report_bytes + _ENDED_BYTES:
            return Ended(End.REPORT, 0, bytes(said[: self.limits.report_bytes]))
        report, _, last_line = bytes(said).rpartition(b"\n")
        try:
            return self._ended(report, json.loads(last_line))
        except (ValueError, TypeError, KeyError) as error:
            raise JailLost(f"the jail ended with status {process.returncode} and without its last words") from error

    @asynccontextmanager
    async def _jail(self, program: Path) -> AsyncIterator[Process]:
        """A jail; once it is left, nothing of it runs any more."""
        plan = {
            "program": str(program),
            "memory_bytes": self.limits.memory_bytes,
            "cpu_seconds": ceil(self.limits.seconds),
            "file_bytes": self.limits.file_bytes,
            "threads": self.limits.threads,
            "open_files": self.limits.open_files,
        }
        process = await start_python(_JAIL_MODULE, json.dumps(plan))
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process
        finally:
            process.stdin.close()
            if not process.stdout.at_eof():
                await _end(process, process.stdout)
            await process.wait()

    def _ended(self, report: bytes, ended: dict[str, Any]) -> Ended:
        if "missing" in ended:
            raise IsolationUnavailable(ended["missing"], ended["remedy"])
        code = os.waitstatus_to_exitcode(ended["status"])
        if code >= 0:
            return Ended(End.EXITED, code, report)
        if code != -SIGKILL:
            return Ended(End.CRASHED, -code, report)
        # The kernel's clock that ends it is not quite the one that it reports.
        used_up = ended["cpu_seconds"] >= 0.9 * self.limits.seconds
        return Ended(End.CPU if used_up else End.KILLED, SIGKILL, report)


async def _hear(process: Process, job: bytes, said: bytearray, most_bytes: int) -> None:
    """Give a process its job and gather what it says, until it ends or has said too much."""
    assert process.stdin is not None
    assert process.stdout is not None
    telling = asyncio.create_task(_tell(process.stdin, job))
    try:
        while len(said) <= most_bytes and (piece := await process.stdout.read(_PIECE_BYTES)):
            said += piece
    finally:
        telling.cancel()


async def _end(process: Process, stdout: asyncio.StreamReader) -> None:
    """End a jail and its program, and see to it that they have gone: both have the pipe that is read to its end."""
    for end in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            end()
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while await stdout.read(_PIECE_BYTES):
                    pass
                return


async def _tell(stdin: asyncio.StreamWriter, job: bytes) -> None:
    with suppress(OSError):  # it has ended without hearing all
        stdin.write(job)
        await stdin.drain()
        stdin.close()
