"""Runs one command so that nothing of it outlives the process that asked for it.

Started by `child_processes.start_guarded` as a script of its own (`python -I process_guard.py GRACE_SECONDS
COMMAND…`), with the standard library only. Its standard input is a pipe whose other end the asking process
holds: end of file means that process is gone, by whatever signal. Then, or on SIGTERM or SIGINT, the command
gets SIGTERM and, after the grace time, everything it started gets SIGKILL. The guard reaps every descendant
before it exits, so neither orphans nor zombies stay.

A death signal (`PR_SET_PDEATHSIG`) set straight from the asking process would not do: it is tied to the
*thread* that forked, it reaches one process and not its children, and setting it needs a `preexec_fn` in a
process full of threads.

Exit status: the command's own, or 128 + the signal that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    """Run the command to its end, or end it when nobody wants it any more; return its exit status."""
    grace_seconds, command = float(arguments[0]), arguments[1:]
    wakeups = _wake_on_signals()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_die_with_the_guard,  # noqa: PLW1509 - safe here: the guard has one thread
    )
    status = _watch(child.pid, grace_seconds, wakeups)
    child.returncode = status
    _end_what_is_left(child.pid)
    return status


def _wake_on_signals() -> int:
    """Turns signals into bytes on a pipe, which `select` sees; returns the reading end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _watch(command_pid: int, grace_seconds: float, wakeups: int) -> int:
    """Waits for the command's end, and brings it about when the asking process is gone or says so."""
    listening = [0, wakeups]
    deadline: float | None = None
    while True:
        status = _reap(command_pid)
        if status is not None:
            return status
        ready, _, _ = select.select(listening, [], [], _POLL_SECONDS)
        asked_to_stop = False
        if wakeups in ready:
            asked_to_stop = any(number != signal.SIGCHLD for number in os.read(wakeups, 4096))
        if 0 in ready and not os.read(0, 4096):
            listening.remove(0)
            asked_to_stop = True
        if asked_to_stop and deadline is None:
            deadline = time.monotonic() + grace_seconds
            _send(command_pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            _send_group(command_pid, signal.SIGKILL)


def _reap(command_pid: int) -> int | None:
    """Collects every descendant that has ended; returns the command's exit status once it is among them."""
    status: int | None = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == command_pid:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def _end_what_is_left(command_pid: int) -> None:
    """Kills and collects the descendants that outlived the command, in whatever process group they are."""
    while True:
        _send_group(command_pid, signal.SIGKILL)
        for pid in _children():
            _send(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own, found = os.getpid(), []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field, the name in parentheses, may hold spaces: count from behind it.
            if int(entry.read_text().rpartition(")")[2].split()[1]) == own:
                found.append(int(entry.parent.name))
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _send_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_the_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the pipe alone has to do
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
