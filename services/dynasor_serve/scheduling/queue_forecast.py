"""Who in the queue will miss its deadline, and how long would a newcomer wait?"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

from dynasor_serve.scheduling.demand import CLASSES

# A program of which calls wait: (class, key and arrival in its order, waiting calls, waiting tokens, seconds of its own
# work, deadline [Unix ms]).
Queued = tuple[int, float, int, int, float, float, int]


class QueueForecast(NamedTuple):
    """What comes of the programs of which calls wait."""

    misses: int  # programs
    waits: tuple[float, ...]  # class -> seconds until the first call of a program that arrived now


def forecast_of(
    queue: list[Queued], *, free: int, places: int, drain: float, seconds_per_call: float, now_ms: int
) -> QueueForecast:
    """Goes along the queue, which it sorts, in its order.

    Who finds a free place waits for nothing; all others wait until what is ahead of them has been taken up, which is as
    fast as work is done, since all places are busy.

    Args:
        queue: in any order.
        free: of the `places` of ready workers, those without a call.
        drain: tokens per second of ready workers that are busy; 0 where unknown, and then nobody waits.
        seconds_per_call: mean, from grant to end.
        now_ms: Unix milliseconds.
    """
    queue.sort(key=itemgetter(0, 1, 2))
    misses, calls_ahead, tokens_ahead = 0, 0, 0.0
    waits = [0.0] * CLASSES
    next_place = seconds_per_call / places if places else 0.0
    for rank, _, _, waiting, tokens, own_seconds, deadline_ms in queue:
        waits_for = tokens_ahead / drain if drain and calls_ahead >= free else 0.0
        misses += 0 < deadline_ms < now_ms + (waits_for + own_seconds) * 1000
        calls_ahead += waiting
        tokens_ahead += tokens
        if drain and calls_ahead >= free:
            waits[rank] = tokens_ahead / drain + next_place
    if drain and not free:
        waits = [wait or next_place for wait in waits]
    for rank in range(1, CLASSES):  # behind everybody of the classes before it, too
        waits[rank] = max(waits[rank - 1], waits[rank])
    return QueueForecast(misses, tuple(waits))
