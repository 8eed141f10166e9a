"""Free TCP ports of this machine, for processes that are told where to listen."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections (32768 and up): a port of that range may have
# become somebody's connection by the time it is listened on.
_LOWEST, _HIGHEST = 15_000, 32_000
_TRIES = 200


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now. Raises `OSError` where none is found."""
    for port in random.sample(range(_LOWEST, _HIGHEST), _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among {_TRIES} between {_LOWEST} and {_HIGHEST} of {HOST}")
