"""What tests of the sandbox need: one that works here, a machine where none does, and a look at what is left."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.evaluator.sandbox.isolation import Limits, Sandbox

SERVICES = str(Path(__file__).parents[2] / "services")
ISOLATED = "isolated"
# A memory limit that nothing else on the machine has: by it the processes of a test are known.
MARK_BYTES = (256 << 20) + (os.getpid() << 12)

# Denies unshare, as containers' profiles do, to the process that runs it and all its children; any architecture.
DENY_NAMESPACES = """
import ctypes, os, struct
UNSHARE = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
program = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in [(0x20, 0, 0, 0), (0x15, 0, 1, UNSHARE), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, program)), 0, 0) == 0
"""

_INSPECT = f"""
import asyncio
from dynasor_serve.evaluator.sandbox.isolation import IsolationUnavailable, Sandbox
try:
    asyncio.run(Sandbox().inspect())
    print({ISOLATED!r})
except IsolationUnavailable as error:
    print(error)
"""


def sandbox(**limits: float) -> Sandbox:
    """A sandbox with limits that suit a test; skips the test, loudly, where the machine cannot isolate."""
    said = _inspected_here()
    assert "behind the walls" not in said, f"the machine can isolate, and the sandbox does not: {said}"
    if said != ISOLATED:
        pytest.skip(said)
    return Sandbox(Limits(**{"seconds": 20.0, "memory_bytes": MARK_BYTES, **limits}))  # type: ignore[arg-type]


@cache
def _inspected_here() -> str:
    return inspected(sys.executable)


def inspected(python: str, before: str = "", **options: Any) -> str:
    """What an inspection of the sandbox says in a process of its own: `ISOLATED`, or what is missing.

    Args:
        before: Python that the process runs first.
        options: of `subprocess.run`.
    """
    done = subprocess.run(
        [python, "-c", before + _INSPECT],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": SERVICES},
        cwd="/",
        **options,
    )
    assert not done.returncode, done.stderr
    return str(done.stdout).strip()


def processes_left() -> list[int]:
    """The processes that run under this test process's mark."""
    found = []
    for limits in Path("/proc").glob("[0-9]*/limits"):
        try:
            is_ours = str(MARK_BYTES) in limits.read_text()
        except OSError:
            continue  # it ended meanwhile
        if is_ours:
            found.append(int(limits.parent.name))
    return found


def python_for_anybody() -> str:
    """A Python that another user can start; skips the test where there is none."""
    for python in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(python, os.X_OK):
            return python
    pytest.skip("no Python that every user can start")
