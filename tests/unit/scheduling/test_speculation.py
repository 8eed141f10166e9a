"""Speculation: it goes where nothing else waits, leaves places free, and is promised nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.orderings.registry import ordering_names
from dynasor_serve.scheduling.placement import RESERVED_ONE_OF
from unit.scheduling.pools import granted, order_of, pool_with, wanting


def speculating(program: str, *branches: int, speculative: int, class_rank: int = 1) -> Want:
    """A program of whose branches the last ones are speculation."""
    return replace(wanting(program, *branches, class_rank=class_rank), speculative=speculative)


@pytest.mark.parametrize("ordering", ordering_names())
def test_speculation_of_any_class_goes_after_all_that_is_needed(ordering: str) -> None:
    pool = pool_with(2, ordering=ordering, fairness=Fairness())
    pool.want("t", speculating("urgent", 0, 1, 2, speculative=2, class_rank=0), 0.0)
    pool.want("t", wanting("batch", *range(40), class_rank=2), 0.0)

    order = order_of(pool)

    assert sorted(order[-2:]) == ["urgent/1", "urgent/2"]


def test_speculation_leaves_places_free_on_every_worker() -> None:
    pool = pool_with(8, 8, 1)
    pool.want("t", speculating("a", *range(30), speculative=30), 0.0)

    grants = pool.grants(0.0)

    reserved = 8 // RESERVED_ONE_OF
    assert [grant.worker for grant in grants].count("w0") == 8 - reserved
    assert [grant.worker for grant in grants].count("w1") == 8 - reserved
    assert len(grants) == 2 * (8 - reserved), "a worker with one place has none to spare"
    pool.want("t", wanting("b", *range(9)), 1.0)
    assert len(granted(pool)) == 2 * reserved + 1, "what is needed finds them free"


def test_speculation_waits_while_a_needed_call_waits_for_a_place() -> None:
    pool = pool_with(4)
    pool.want("t", wanting("a", *range(5)), 0.0)
    pool.want("t", speculating("b", 0, speculative=1), 0.0)
    grants = pool.grants(0.0)
    for grant in grants[:1]:
        pool.ended(grant.call, CallEnd.FINISHED, 10)
    assert granted(pool) == ["a/4"]
    for grant in grants[1:3]:
        pool.ended(grant.call, CallEnd.FINISHED, 10)

    assert granted(pool) == ["b/0"]


def test_the_engine_too_is_told_that_speculation_comes_last() -> None:
    pool = pool_with(16, ordering="gang-shortest")
    pool.want("t", wanting("batch", 0, knob=900, class_rank=2), 0.0)
    pool.want("t", speculating("urgent", 0, speculative=1, class_rank=0), 0.0)

    needed, speculation = pool.grants(0.0)

    assert (needed.call.program, speculation.call.program) == ("batch", "urgent")
    assert needed.priority < speculation.priority < 2**31


def test_a_call_that_becomes_needed_goes_by_its_first_arrival() -> None:
    pool = pool_with(1, ordering="fcfs")
    pool.want("t", wanting("running", 0), 0.0)
    pool.grants(0.0)
    pool.want("t", speculating("a", 0, speculative=1), 0.0)
    pool.want("t", wanting("b", 0), 1.0)
    pool.want("t", speculating("a", 0, 1, speculative=1), 2.0)
    pool.ended(CallId("running", 0, "1.1"), CallEnd.FINISHED, 10)

    (first,) = pool.grants(3.0)

    assert first.call == CallId("a", 0, "1.1")
    assert first.waited_seconds == 3.0


def test_a_programs_calls_go_by_arrival_in_whatever_order_it_lists_them() -> None:
    pool = pool_with(4, ordering="gang-shortest")
    pool.want("t", speculating("a", 0, 5, speculative=1), 0.0)
    pool.want("t", wanting("a", 1, 0, 5), 1.0)

    assert order_of(pool) == ["a/0", "a/5", "a/1"]


def test_a_call_that_is_no_longer_needed_gives_way() -> None:
    pool = pool_with(2, ordering="fcfs", fairness=Fairness(longest_wait_seconds=10))
    pool.want("t", wanting("a", 0), 0.0)
    pool.want("t", wanting("b", 0), 1.0)
    pool.want("t", speculating("a", 0, speculative=1), 2.0)

    assert order_of(pool, now=100.0) == ["b/0", "a/0"]


def test_no_promise_is_kept_to_speculation() -> None:
    pool = pool_with(4, fairness=Fairness(longest_wait_seconds=1, longest_wait_shares=1, trickle_grants=8))
    pool.want("t", speculating("old", 0, speculative=1, class_rank=2), 0.0)
    for number in range(200):
        pool.want("t", wanting(f"needed {number}", 0), float(number))
    order = order_of(pool, now=1000.0)

    assert order.index("old/0") == 200
    assert pool.longest_wait(1000.0) == 0.0


@pytest.mark.parametrize(("speculative", "needed"), [(-3, 2), (99, 0), (2, 0), (0, 2)])
def test_a_number_of_speculative_calls_that_cannot_be_is_clamped(speculative: int, needed: int) -> None:
    pool = pool_with(4)
    pool.want("t", speculating("a", 0, 1, speculative=speculative), 0.0)
    pool.want("t", wanting("b", 0), 1.0)

    order = order_of(pool)

    assert order.index("b/0") == needed
    assert len(order) == 3


STATES = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 6), unique=True), st.integers(0, 7), st.booleans()),
    max_size=25,
)


@given(STATES, st.sampled_from(ordering_names()))
def test_speculation_never_goes_before_need_and_everything_goes_at_last(
    wants: list[tuple[int, list[int], int, bool]], ordering: str
) -> None:
    pool = pool_with(5, 4, ordering=ordering, fairness=Fairness(longest_wait_seconds=3))
    needed, speculative = dict[str, set[CallId]](), dict[str, set[CallId]]()
    running = set[CallId]()
    attempts = dict[str, int]()

    def grant(now: float) -> bool:
        grants = pool.grants(now)
        for each in grants:
            program = each.call.program
            assert each.call not in running
            if each.call in speculative[program]:
                assert not any(needed.values()), "somebody needs a place"
            needed[program].discard(each.call)
            speculative[program].discard(each.call)
            running.add(each.call)
        return bool(grants)

    def end_all() -> None:
        for call in running:
            attempts[call.program] = attempts.get(call.program, 0) + 1  # what is wanted next is another attempt
            pool.ended(call, CallEnd.FINISHED, 10)
        running.clear()

    for step, (number, branches, last, ends) in enumerate(wants):
        program = str(number)
        want = speculating(program, *branches, speculative=last)
        calls = tuple(call._replace(attempt=f"1.{attempts.get(program, 0)}") for call in want.calls)
        pool.want("t", replace(want, calls=calls, class_rank=number % 3), float(step))
        first = max(0, len(calls) - last)
        needed[program], speculative[program] = set(calls[:first]) - running, set(calls[first:]) - running
        grant(float(step))
        assert {each.name: len(each.in_flight) <= each.max_in_flight for each in pool.workers} == {
            "w0": True,
            "w1": True,
        }
        if ends:
            end_all()
    end_all()
    while grant(100.0):
        end_all()
    assert not any(needed.values())
    assert not any(speculative.values())
    assert pool.waiting_calls == pool.running_calls == 0
