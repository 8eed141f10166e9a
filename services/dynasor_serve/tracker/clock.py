"""The wall clock as records carry it."""

from __future__ import annotations

import time


def unix_ms() -> int:
    """Now, in Unix milliseconds."""
    return time.time_ns() // 1_000_000
