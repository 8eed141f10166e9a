"""The paper's example of gang scheduling (arXiv 2412.20993, App. D, figure 16), played on the real pool.

Two programs want two calls each, of 4 ms and of 5 ms, from an engine that runs two at once. Interleaved they complete
after 9 ms on average, as gangs after 6.5 ms.
"""

from __future__ import annotations

import heapq
from statistics import mean

import pytest

from dynasor_serve.scheduling.demand import CallEnd, CallId
from unit.scheduling.pools import pool_with, wanting

MILLISECONDS = {"a": 4, "b": 5}  # program -> duration of each of its calls


def completions(ordering: str) -> dict[str, float]:
    """When the last call of each program ends, in milliseconds."""
    pool = pool_with(2, ordering=ordering)
    for branches in ([0], [0, 1]):  # one program's calls reach the queue between the other's
        for order, program in enumerate(MILLISECONDS):
            # One token a millisecond: the program's own mean is what its calls take.
            pool.want(
                "t", wanting(program, *branches, knob=2, mean_tokens=MILLISECONDS[program], accepted_at_ms=order), 0
            )
    now, ends, running = 0.0, dict[str, float](), list[tuple[float, CallId]]()
    while True:
        for grant in pool.grants(now):
            heapq.heappush(running, (now + MILLISECONDS[grant.call.program], grant.call))
        if not running:
            return ends
        now, call = heapq.heappop(running)
        ends[call.program] = now
        pool.ended(call, CallEnd.FINISHED, MILLISECONDS[call.program])


def test_calls_that_go_one_by_one_hold_up_both_programs() -> None:
    assert completions("fcfs") == {"a": 8, "b": 10}
    assert mean(completions("fcfs").values()) == 9


@pytest.mark.parametrize("ordering", ["gang-fcfs", "gang-shortest"])
def test_gangs_complete_a_program_before_the_next_is_begun(ordering: str) -> None:
    assert completions(ordering) == {"a": 4, "b": 9}
    assert mean(completions(ordering).values()) == 6.5
