"""Where a call goes: to the worker with the least outstanding work, unless its prefixes are at another."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId, Want
from dynasor_serve.scheduling.placement import OVERLOADED_SHARE, OVERLOADED_TIMES, Placement, Worker, WorkerState
from unit.scheduling.pools import pool_with, wanting, worker


def tree(program: str, *branches: int, mean_tokens: float = 100.0) -> Want:
    """A program whose calls go on from one another's text."""
    return replace(wanting(program, *branches, mean_tokens=mean_tokens), shares_prefixes=True)


def test_a_call_weighs_what_it_will_decode_and_what_it_will_hold_of_the_cache() -> None:
    pool = pool_with(8, 8)
    pool.want("t", replace(wanting("read", 0, mean_tokens=100), prompt_tokens=900), 0.0)
    pool.want("t", replace(wanting("write", 0, 1, 2, mean_tokens=200), prompt_tokens=10), 0.0)

    placed = [(grant.call.program, grant.worker) for grant in pool.grants(0.0)]

    assert placed == [("read", "w0"), ("write", "w1"), ("write", "w1"), ("write", "w1")]
    assert worker(pool, "w0").work == 100 + (900 + 100)
    assert worker(pool, "w1").work == 3 * (200 + (10 + 200))


def test_an_overloaded_home_is_left_and_gone_back_to() -> None:
    """Half of its sixteen places more than an idle worker has is overload; less is not."""
    pool = pool_with(16, 16)
    pool.want("t", tree("a", *range(12)), 0.0)
    grants = pool.grants(0.0)
    places = [grant.worker for grant in grants]

    assert places[:9] == ["w0"] * 9, "eight calls ahead is not too many"
    assert places[9:] == ["w1", "w0", "w1"], "nine are"
    for grant in grants[:4]:
        pool.ended(grant.call, CallEnd.FINISHED, 100)
    pool.want("t", tree("a", 20), 0.0)
    assert [grant.worker for grant in pool.grants(0.0)] == ["w0"], "its prefixes are there"


def test_a_home_that_is_as_busy_as_the_others_is_not_overloaded() -> None:
    pool = pool_with(64, 64)
    pool.want("t", wanting("crowd", *range(40), mean_tokens=1000), 0.0)
    pool.grants(0.0)
    pool.want("t", tree("a", *range(20)), 0.0)

    assert len({grant.worker for grant in pool.grants(0.0)}) == 1


def test_two_hundred_workers_are_filled_evenly_by_work() -> None:
    pool = pool_with(*[8] * 200)
    for number in range(400):
        pool.want("t", wanting(str(number), 0, mean_tokens=100 if number % 2 else 300), 0.0)
    pool.grants(0.0)

    work = [each.work for each in pool.workers]
    assert max(work) - min(work) <= 2 * 300
    assert sum(work) == 200 * 2 * 100 + 200 * 2 * 300


def test_a_freed_place_goes_to_the_next_call_whatever_its_home() -> None:
    """A full home is not waited for, and nobody is overtaken because of where their prefixes are."""
    pool = pool_with(1, 1)
    pool.want("t", tree("a", 0, 1), 0.0)
    pool.want("t", tree("b", 0, 1), 1.0)
    first, second = pool.grants(0.0)
    assert (first.call, second.call) == (CallId("a", 0, "1.1"), CallId("a", 1, "1.1"))
    pool.ended(second.call, CallEnd.FINISHED, 10)

    (grant,) = pool.grants(0.0)

    assert (grant.call.program, grant.worker) == ("b", "w1")


# --- any loads

LOADS = st.lists(
    st.builds(
        Worker,
        name=st.uuids().map(str),
        url=st.just("http://worker"),
        engine=st.just("replay"),
        max_in_flight=st.integers(1, 6),
        state=st.sampled_from(WorkerState),
        in_flight=st.dictionaries(st.builds(CallId, st.just("p"), st.integers(0, 99), st.just("1.1")), st.just(1)),
        work=st.integers(0, 3000),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda each: each.name,
)


@given(LOADS, st.data())
def test_a_call_goes_to_its_home_or_to_the_least_loaded_worker_with_room(
    workers: list[Worker], data: st.DataObject
) -> None:
    placement = Placement()
    for each in workers:
        placement.changed(each)
    home = data.draw(st.sampled_from([None, *workers]))
    work = data.draw(st.integers(1, 2000))
    speculative = data.draw(st.booleans())

    chosen = placement.place(home, work, speculative)

    room = [
        each
        for each in workers
        if each.state is WorkerState.READY
        and len(each.in_flight) < (each.max_in_flight * 3 // 4 if speculative else each.max_in_flight)
    ]
    least = min(room, key=lambda each: (each.work, each.name), default=None)
    if chosen is not least:
        assert chosen is home
        assert chosen in room
        assert least is not None
        ahead = chosen.work - least.work
        assert chosen.work <= OVERLOADED_TIMES * least.work or ahead <= OVERLOADED_SHARE * chosen.max_in_flight * work
    elif home in room and home is not least:
        assert home is not None
        assert least is not None
        assert home.work > OVERLOADED_TIMES * least.work


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500), st.booleans()), max_size=80))
def test_the_least_loaded_worker_is_found_after_any_changes(changes: list[tuple[int, int, bool]]) -> None:
    placement = Placement()
    workers = [Worker(f"w{number}", "http://w", "replay", 1, WorkerState.READY) for number in range(10)]
    for each in workers:
        placement.changed(each)
    for number, work, is_ready in changes:
        changed = workers[number]
        changed.work, changed.state = work, WorkerState.READY if is_ready else WorkerState.QUARANTINED
        placement.changed(changed)
        ready = [each for each in workers if each.state is WorkerState.READY]
        assert placement.least_loaded() is min(ready, key=lambda each: (each.work, each.name), default=None)
