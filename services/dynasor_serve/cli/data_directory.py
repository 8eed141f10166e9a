"""Where `dynasor up` keeps its state, and the lock that keeps a second one out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed
from dynasor_serve.local.vllm_options import default_home


def default_data() -> Path:
    """State that outlives a restart, in Dynasor's home."""
    return default_home() / "state"


@contextlib.contextmanager
def owned(directory: Path) -> Iterator[None]:
    """Makes the directory and holds its lock. The kernel drops the lock of a process that was killed.

    Raises:
        CommandFailed: another process has it, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CommandFailed(
            f"cannot keep state in {directory}: {error.strerror}; give --data DIR", ExitCode.FAILED
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
            message = (
                f"another `dynasor up` (process {owner or 'unknown'}) uses {directory}; stop it, or give --data DIR"
            )
            raise CommandFailed(message, ExitCode.FAILED) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
