"""Free TCP ports of this machine, for processes that are told where to listen."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Iterator
from itertools import cycle, islice

HOST = "127.0.0.1"
# Below the range from which Linux takes the ports of outgoing connections (32768 and up): a port of that range may have
# become somebody's connection by the time it is listened on.
_LOWEST, _HIGHEST = 15_000, 32_000
_TRIES = 200


def _walk() -> Iterator[int]:
    """All ports, over and over, from a place of this process's own."""
    ports = range(_LOWEST, _HIGHEST)
    return islice(cycle(ports), random.randrange(len(ports)), None)


_ports = _walk()


# Bound and never listened on: whoever was given the port may listen beside it, and nobody else is given it meanwhile.
_kept: deque[socket.socket] = deque()
_MOST_KEPT = 64


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now, and that nobody else has been given of late.

    Whoever is given a port listens on it some time later, so one drawn at random may be drawn again meanwhile: of ten
    for one stack, two are the same once in 400 times; and other processes of this project draw, too.

    Raises:
        OSError: none is found.
    """
    for port in islice(_ports, _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))  # fails where anybody has bound it, too
            except OSError:
                continue
        try:
            _keep(port)
        except OSError:  # somebody was faster
            continue
        return port
    raise OSError(f"no free port among {_TRIES} between {_LOWEST} and {_HIGHEST} of {HOST}")


def _keep(port: int) -> None:
    """Binds a port such that a listener may have it all the same: Linux asks both to allow that, and servers do."""
    kept = socket.socket()
    try:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((HOST, port))
    except OSError:
        kept.close()
        raise
    _kept.append(kept)
    if len(_kept) > _MOST_KEPT:
        _kept.popleft().close()
