"""Starts commands that cannot outlive this process, and runs long ones with progress.

Used by `vllm_installation`, `model_conversion` and `vllm_engine`; the command itself runs under
`process_guard`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from dynasor_serve.local.vllm_options import EngineError, Report

TICK_SECONDS = 5.0
"""A long stage reports its elapsed time this often."""

_GUARD = Path(__file__).with_name("process_guard.py")
_LOCK_POLL_SECONDS = 0.5
_STAGE_GRACE_SECONDS = 5.0


async def start_guarded(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    grace_seconds: float,
    held_files: Sequence[int] = (),
) -> asyncio.subprocess.Process:
    """Starts a command under the guard; its output is appended to a file.

    Args:
        command: Program and arguments.
        log: File that takes standard output and standard error.
        environment: The whole environment of the command.
        grace_seconds: From SIGTERM to SIGKILL.
        held_files: Open files that stay open until the command is gone (a lock, so that it outlives this
            process with it).

    Returns:
        The guard: `terminate()` ends the command, `wait()` returns its exit status.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(_GUARD),
            str(grace_seconds),
            *(str(part) for part in command),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
            pass_fds=tuple(held_files),
        )


async def run_stage(
    title: str,
    command: Sequence[str | Path],
    *,
    report: Report,
    log: Path,
    environment: Mapping[str, str],
    timeout_seconds: float,
    advice: str,
    held_files: Sequence[int] = (),
) -> None:
    """Runs a command to its end, reporting its title and then the elapsed time.

    Raises:
        EngineError: It failed or ran past its time; the message holds the log's last lines and the advice.
    """
    report(title)
    started = time.monotonic()
    guard = await start_guarded(
        command, log=log, environment=environment, grace_seconds=_STAGE_GRACE_SECONDS, held_files=held_files
    )
    try:
        async with ticking(title, report):
            await asyncio.wait_for(guard.wait(), timeout_seconds)
    except TimeoutError:
        raise EngineError(_failure(title, f"not done after {timeout_seconds:.0f} s", log, advice)) from None
    finally:
        await end(guard, deadline_seconds=_STAGE_GRACE_SECONDS + 10.0)
    if guard.returncode != 0:
        took = time.monotonic() - started
        raise EngineError(_failure(title, f"exit status {guard.returncode} after {took:.0f} s", log, advice))


async def end(guard: asyncio.subprocess.Process, deadline_seconds: float) -> None:
    """Ends a guarded command and waits until it is gone.

    Args:
        guard: From `start_guarded`.
        deadline_seconds: More than the command's grace time; past it the guard itself is killed, and the
            kernel ends the command.
    """
    if guard.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        guard.terminate()
    try:
        await asyncio.wait_for(guard.wait(), deadline_seconds)
    except TimeoutError:
        guard.kill()
        await guard.wait()


@contextlib.asynccontextmanager
async def ticking(title: str, report: Report) -> AsyncIterator[None]:
    """Reports `title` with the elapsed seconds for as long as the block runs."""
    started = time.monotonic()

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            report(f"{title} {time.monotonic() - started:.0f} s")

    ticker = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


@contextlib.asynccontextmanager
async def exclusive(lock: Path, report: Report, what: str) -> AsyncIterator[int]:
    """Holds a file lock, so that two processes do not install the same thing at once; yields the open file.

    The kernel drops the lock with the last process that has the file open: a killed holder leaves nothing
    behind.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waiting = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    report(f"waiting for another process that is {what} …")
                waiting = True
                await asyncio.sleep(_LOCK_POLL_SECONDS)
        yield handle
    finally:
        os.close(handle)


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log file, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16_384))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])


def _failure(title: str, what: str, log: Path, advice: str) -> str:
    return f"{title.rstrip(' …')}: {what}. {advice}\nLast lines of {log}:\n{log_tail(log)}"
