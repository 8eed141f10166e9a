"""The program that looks at the walls from within. It runs in the jail, with nothing but the standard library.

It writes a JSON list of what it could do and should not have been able to; `[]` means that the walls stand.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Try every wall."""
    found = [what for what, attempt in _FORBIDDEN if _succeeds(attempt)]
    found += [f"has {name} in its environment" for name in os.environ.keys() - {"LD_LIBRARY_PATH", "LC_CTYPE"}]
    if os.getpid() != 1:
        found.append(f"is process {os.getpid()} and not the first of its own")
    if 0 in {*os.getresuid(), *os.getresgid()}:
        found.append("runs as root")
    sys.stdout.write(json.dumps(found))


_FORBIDDEN: tuple[tuple[str, Callable[[], object]], ...] = (
    ("starts a process", os.fork),
    ("opens a socket", socket.socket),
    ("sees /proc", Path("/proc").stat),
    ("sees /sys", Path("/sys").stat),
    ("sees accounts", Path("/etc/passwd").stat),
    ("sees the machine's root directory", Path("/old").stat),
    ("writes beside its directory", Path("/beside").mkdir),
    ("writes to the standard library", Path(os.__file__).with_name("beside").mkdir),
    ("raises its own priority", lambda: os.nice(-1)),
    ("becomes root", lambda: os.setuid(0)),
)


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    main()
