"""A pool: whose call goes next, where it goes, and that nothing is granted twice, forgotten or kept for ever."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from dynasor_serve.scheduling.demand import CallEnd, CallId, Grant, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.fleet import FAILURES_TO_QUARANTINE, FORGET_DRAINED_SECONDS
from dynasor_serve.scheduling.orderings.registry import UnknownOrdering, ordering_names, parse_ordering
from dynasor_serve.scheduling.placement import WorkerState
from dynasor_serve.scheduling.pool import Pool
from unit.scheduling.pools import NO_PROMISES, granted, order_of, pool_with, wanting, worker

# --- homes


def tree(program: str, *branches: int) -> Want:
    """A program whose calls go on from one another's text."""
    return replace(wanting(program, *branches), shares_prefixes=True)


def homes(pool: Pool) -> list[str]:
    """Where the calls granted now go."""
    return [grant.worker for grant in pool.grants(0.0)]


def test_calls_that_share_prefixes_stay_on_one_worker_however_busy_it_is() -> None:
    pool = pool_with(8, 8)
    pool.want("t", tree("a", 0), 0.0)
    assert homes(pool) == ["w0"]
    pool.want("t", tree("a", 1, 2, 3), 0.0)
    assert homes(pool) == ["w0"] * 3
    pool.want("t", wanting("b", 0), 0.0)
    assert homes(pool) == ["w1"], "others go where the least work is"


def test_a_full_home_is_not_waited_for_and_is_gone_back_to() -> None:
    pool = pool_with(2, 8)
    pool.want("t", tree("a", 0, 1, 2), 0.0)
    assert homes(pool) == ["w0", "w0", "w1"]
    pool.ended(CallId("a", 0, "1.1"), CallEnd.FINISHED, 10)
    pool.want("t", tree("a", 3), 0.0)
    assert homes(pool) == ["w0"]


def test_a_program_whose_home_is_lost_finds_another() -> None:
    pool = pool_with(4, 4)
    pool.want("t", tree("a", 0), 0.0)
    assert homes(pool) == ["w0"]
    pool.worker_health("w0", healthy=False)
    pool.want("t", tree("a", 1, 2), 0.0)
    assert homes(pool) == ["w1", "w1"]
    pool.worker_health("w0", healthy=True)
    pool.want("t", tree("a", 3), 0.0)
    assert homes(pool) == ["w1"], "its prefixes are there now"


# --- orderings


def test_fcfs_goes_call_by_call_whatever_program_it_belongs_to() -> None:
    pool = pool_with(1, ordering="fcfs")
    pool.want("t", wanting("a", 0, knob=99), 0.0)
    pool.want("t", wanting("b", 0, knob=1), 1.0)
    pool.want("t", wanting("a", 0, 1, knob=99), 2.0)
    pool.want("t", wanting("b", 0, 1, knob=1), 3.0)

    assert order_of(pool) == ["a/0", "b/0", "a/1", "b/1"]


def test_gang_shortest_goes_by_what_a_program_has_left_and_keeps_its_calls_together() -> None:
    pool = pool_with(1, ordering="gang-shortest")
    pool.want("t", wanting("long", 0, 1, knob=16, mean_tokens=100), 0.0)
    pool.want("t", wanting("short", 0, 1, knob=2, mean_tokens=100), 1.0)
    pool.want("t", wanting("wordy", 0, knob=2, mean_tokens=500), 2.0)
    pool.want("t", wanting("long", 0, 1, 2, knob=16, mean_tokens=100), 3.0)

    assert order_of(pool) == ["short/0", "short/1", "wordy/0", "long/0", "long/1", "long/2"]


def test_gang_shortest_follows_a_program_that_becomes_shorter() -> None:
    pool = pool_with(1, ordering="gang-shortest")
    pool.want("t", wanting("a", 0, 1, knob=8), 0.0)
    pool.want("t", wanting("b", 0, 1, knob=9), 0.0)
    assert granted(pool) == ["a/0"]

    pool.want("t", wanting("b", 0, 1, knob=3), 1.0)

    pool.ended(CallId("a", 0, "1.1"), CallEnd.FINISHED, 100)
    assert order_of(pool) == ["b/0", "b/1", "a/1"]


@pytest.mark.parametrize("ordering", ordering_names())
def test_equal_programs_go_by_arrival(ordering: str) -> None:
    pool = pool_with(1, ordering=ordering)
    for name in "cab":
        pool.want("t", wanting(name, 1, 0), 0.0)

    together = ["c/1", "c/0", "a/1", "a/0", "b/1", "b/0"]
    in_turns = ["c/1", "a/1", "b/1", "c/0", "a/0", "b/0"]
    assert order_of(pool) == (in_turns if ordering == "expected-gain" else together)


@pytest.mark.parametrize("ordering", ordering_names())
def test_a_more_urgent_class_goes_first(ordering: str) -> None:
    pool = pool_with(1, ordering=ordering)
    pool.want("t", wanting("batch", 0, class_rank=2, knob=1), 0.0)
    pool.want("t", wanting("standard", 0, class_rank=1, knob=5), 0.0)
    pool.want("t", wanting("interactive", 0, class_rank=0, knob=9), 0.0)

    assert order_of(pool) == ["interactive/0", "standard/0", "batch/0"]


@pytest.mark.parametrize("ordering", ordering_names())
def test_the_engines_priority_follows_class_and_ordering(ordering: str) -> None:
    pool = pool_with(9, ordering=ordering)
    wants = [
        wanting(f"{rank}-{knob}", 0, class_rank=rank, knob=knob, mean_tokens=10_000)
        for rank in (2, 0, 1)
        for knob in (1, 5, 500)
    ]
    for want in wants:
        pool.want("t", want, 0.0)

    priorities = [grant.priority for grant in pool.grants(0.0)]

    assert priorities == sorted(priorities), "the engine would reorder what was granted in order"
    assert all(0 <= priority < 2**31 for priority in priorities)


def test_a_call_that_has_waited_too_long_goes_first() -> None:
    pool = pool_with(1, ordering="gang-shortest", fairness=Fairness(longest_wait_seconds=60))
    pool.want("t", wanting("older", 0, knob=2000), 0.0)
    pool.want("t", wanting("old", 0, knob=1000), 5.0)
    pool.want("t", wanting("new", 0, knob=1), 59.0)

    assert granted(pool, now=60.0) == ["new/0"]
    pool.ended(CallId("new", 0, "1.1"), CallEnd.FINISHED, 10)
    pool.want("t", wanting("newer", 0, knob=1), 65.5)
    pool.want("t", wanting("urgent", 0, class_rank=0), 65.5)

    assert order_of(pool, now=65.5) == ["urgent/0", "older/0", "old/0", "newer/0"], "age is no class"


def test_a_grant_that_came_back_waits_anew() -> None:
    pool = pool_with(1, fairness=Fairness(longest_wait_seconds=60))
    pool.want("t", wanting("a", 0), 0.0)
    (grant,) = pool.grants(50.0)
    pool.ended(grant.call, CallEnd.NOT_STARTED, 0)
    pool.want("t", wanting("b", 0, class_rank=0), 55.0)
    pool.want("t", wanting("a", 0, class_rank=2), 56.0)

    assert order_of(pool, now=70.0) == ["b/0", "a/0"]


def test_unknown_orderings_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownOrdering, match=r"'lifo'.*fcfs, gang-shortest"):
        parse_ordering("lifo")


# --- forecasts and placement


def test_a_program_without_samples_is_forecast_by_history() -> None:
    pool = pool_with(2, ordering="gang-shortest")
    pool.want("t", wanting("first", 0), 0.0)
    (grant,) = pool.grants(0.0)
    pool.ended(grant.call, CallEnd.FINISHED, 1000)

    pool.want("t", wanting("unknown", 0, knob=2, mean_tokens=0), 1.0)
    pool.want("t", wanting("known", 0, knob=2, mean_tokens=400), 1.0)

    assert granted(pool) == ["known/0", "unknown/0"]
    assert worker(pool).work == 2 * (400 + 1000)


def test_calls_go_where_the_least_work_is_and_not_the_fewest_calls() -> None:
    pool = pool_with(8, 8)
    pool.want("t", wanting("long", 0, mean_tokens=1000), 0.0)
    pool.want("t", wanting("short", 0, 1, 2, mean_tokens=200), 0.0)

    placed = [(grant.call.program, grant.worker) for grant in pool.grants(0.0)]

    assert placed == [("long", "w0"), ("short", "w1"), ("short", "w1"), ("short", "w1")]
    assert [worker(pool, name).work for name in ("w0", "w1")] == [2 * 1000, 3 * 2 * 200]


def test_no_worker_gets_more_than_its_places() -> None:
    pool = pool_with(1, 2)
    pool.want("t", wanting("a", *range(9)), 0.0)

    assert Counter(grant.worker for grant in pool.grants(0.0)) == {"w0": 1, "w1": 2}
    assert granted(pool) == []
    assert (pool.waiting_calls, pool.running_calls) == (6, 3)


def test_a_worker_that_fails_calls_in_a_row_gets_none_until_it_is_well() -> None:
    pool = pool_with(1, 1)
    for number in range(FAILURES_TO_QUARANTINE):
        pool.want("t", wanting("a", 0, attempt=f"1.{number}"), 0.0)
        pool.want("t", wanting("b", 0, attempt=f"1.{number}"), 0.0)
        for grant in pool.grants(0.0):
            pool.ended(grant.call, CallEnd.WORKER_FAILED if grant.worker == "w0" else CallEnd.FINISHED, 10)

    assert worker(pool, "w0").state is WorkerState.QUARANTINED
    assert "in a row" in worker(pool, "w0").message
    assert worker(pool, "w1").state is WorkerState.READY
    pool.want("t", wanting("c", 0, 1), 0.0)
    assert [grant.worker for grant in pool.grants(0.0)] == ["w1"]

    pool.worker_health("w0", healthy=True)

    assert [grant.worker for grant in pool.grants(0.0)] == ["w0"]
    assert worker(pool, "w0").message == ""


@pytest.mark.parametrize("end", [CallEnd.FINISHED, CallEnd.CANCELLED, CallEnd.REFUSED, CallEnd.NOT_STARTED])
def test_other_ends_are_not_the_workers_fault(end: CallEnd) -> None:
    pool = pool_with(1)
    for number in range(2 * FAILURES_TO_QUARANTINE):
        pool.want("t", wanting("a", 0, attempt=f"1.{number}"), 0.0)
        for grant in pool.grants(0.0):
            pool.ended(grant.call, end, 0)

    assert worker(pool).state is WorkerState.READY


def test_a_sick_or_starting_worker_gets_nothing() -> None:
    pool = Pool(parse_ordering("fcfs"), NO_PROMISES)
    pool.add_worker("w0", "http://w0", "replay", 4)
    pool.want("t", wanting("a", 0), 0.0)
    assert granted(pool) == []

    pool.worker_health("w0", healthy=False, message="cannot be reached")
    assert granted(pool) == []
    assert worker(pool).message == "cannot be reached"

    pool.worker_health("w0", healthy=True)
    assert granted(pool) == ["a/0"]


def test_a_draining_worker_finishes_its_calls_and_gets_no_more() -> None:
    pool = pool_with(4)
    pool.want("t", wanting("a", 0, 1), 0.0)
    first, second = pool.grants(0.0)

    assert pool.drain_worker("w0") == 2
    pool.worker_health("w0", healthy=True)
    pool.want("t", wanting("b", 0), 0.0)
    assert granted(pool) == []
    pool.ended(first.call, CallEnd.FINISHED, 10)
    pool.ended(second.call, CallEnd.FINISHED, 10)
    assert pool.drain_worker("w0") == 0
    assert pool.drain_worker("nobody") == 0

    pool.add_worker("w0", "http://w0", "replay", 4)
    assert granted(pool) == []
    pool.worker_health("w0", healthy=True)
    assert granted(pool) == ["b/0"]


def test_a_drained_worker_is_forgotten_once_no_tracker_can_restate_its_calls() -> None:
    pool = pool_with(4)
    pool.want("t", wanting("a", 0), 0.0)
    (grant,) = pool.grants(0.0)
    pool.drain_worker("w0")

    pool.forget_drained(1000.0)
    assert [each.name for each in pool.workers] == ["w0"], "it still has a call"
    pool.tracker_gone("t")
    pool.forget_drained(1001.0)
    pool.restate_running("t", grant.call, "w0")
    pool.forget_drained(2000.0)
    assert pool.drain_worker("w0") == 1, "the restated call counts"
    pool.ended(grant.call, CallEnd.FINISHED, 10)
    pool.forget_drained(2001.0)
    pool.forget_drained(2001.0 + FORGET_DRAINED_SECONDS + 1)
    assert list(pool.workers) == []


def test_a_worker_at_another_address_is_another_engine() -> None:
    pool = pool_with(4)

    pool.add_worker("w0", "http://elsewhere", "replay", 2)

    assert worker(pool).state is WorkerState.STARTING
    assert (worker(pool).url, worker(pool).max_in_flight) == ("http://elsewhere", 2)


# --- trackers come, go and restate


def test_what_is_wanted_replaces_what_was() -> None:
    pool = pool_with(1)
    pool.want("t", wanting("a", 0, 1, 2), 0.0)
    pool.want("t", wanting("a", 1), 1.0)

    assert pool.waiting_calls == 1
    assert order_of(pool) == ["a/1"]


def test_a_call_that_runs_is_not_granted_again() -> None:
    pool = pool_with(8)
    for _ in range(3):
        pool.want("t", wanting("a", 0, 1), 0.0)
        pool.grants(0.0)

    assert pool.running_calls == 2
    assert pool.waiting_calls == 0


def test_a_tracker_that_is_gone_takes_its_wants_and_calls_with_it() -> None:
    pool = pool_with(2)
    pool.want("one", wanting("a", 0, 1, 2), 0.0)
    pool.want("two", wanting("b", 0), 0.0)
    grants = pool.grants(0.0)

    gone = pool.tracker_gone("one")

    assert gone == [grant.call for grant in grants]
    assert order_of(pool) == ["b/0"]
    assert pool.tracker_gone("one") == []


def test_a_former_owner_does_not_withdraw_what_the_next_one_wants() -> None:
    pool = pool_with(4)
    pool.want("former", wanting("a", 0, 1, attempt="1.1"), 0.0)
    pool.want("next", wanting("a", 0, 1, attempt="2.1"), 1.0)
    pool.want("former", wanting("a", 2, attempt="1.2"), 2.0)
    pool.withdraw("former", "a")

    grants = pool.grants(3.0)

    assert {grant.tracker for grant in grants} == {"next"}
    assert {grant.call.attempt for grant in grants} == {"2.1"}


def test_restated_calls_take_their_places_again() -> None:
    """A scheduler that has just become active learns what runs from the trackers."""
    pool = pool_with(2)
    pool.restate_running("t", CallId("a", 0, "1.1"), "w0")
    pool.restate_running("t", CallId("a", 1, "1.1"), "w0")
    pool.want("t", wanting("a", 0, 1, 2), 0.0)

    assert granted(pool) == []
    pool.ended(CallId("a", 0, "1.1"), CallEnd.FINISHED, 10)
    assert granted(pool) == ["a/2"]


def test_a_restatement_said_twice_counts_once() -> None:
    pool = pool_with(2, 2)
    for name in ("w0", "w0", "w1"):
        pool.restate_running("t", CallId("a", 0, "1.1"), name)

    assert pool.running_calls == 1
    assert [len(worker(pool, name).in_flight) for name in ("w0", "w1")] == [0, 1]


def test_a_restated_call_no_longer_waits() -> None:
    pool = pool_with(2)
    pool.want("t", wanting("a", 0), 0.0)
    pool.restate_running("t", CallId("a", 0, "1.1"), "w0")

    assert (pool.waiting_calls, pool.running_calls) == (0, 1)
    assert granted(pool) == []


def test_a_worker_that_is_known_late_finds_its_restated_calls() -> None:
    pool = Pool(parse_ordering("fcfs"), NO_PROMISES)
    pool.restate_running("t", CallId("a", 0, "1.1"), "w0")
    pool.want("t", wanting("b", 0), 0.0)
    pool.add_worker("w0", "http://w0", "replay", 1)
    pool.worker_health("w0", healthy=True)

    assert granted(pool) == []
    pool.ended(CallId("a", 0, "1.1"), CallEnd.FINISHED, 10)
    assert granted(pool) == ["b/0"]


def test_the_end_of_an_unknown_call_changes_nothing() -> None:
    pool = pool_with(1)
    pool.ended(CallId("a", 0, "1.1"), CallEnd.FINISHED, 10)
    pool.withdraw("t", "a")

    assert (pool.waiting_calls, pool.running_calls, pool.queue_entries) == (0, 0, 0)


def test_wants_that_are_restated_for_ever_do_not_pile_up() -> None:
    pool = pool_with(1)
    for round_number in range(10_000):
        pool.want("t", wanting("a", *range(4), knob=round_number), float(round_number))

    assert pool.queue_entries < 200


class CountedKey(float):
    """A key that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: float) -> bool:
        CountedKey.comparisons += 1
        return float(self) < float(other)

    def __eq__(self, other: object) -> bool:
        CountedKey.comparisons += 1
        return float(self) == other

    __hash__ = float.__hash__


@dataclass(frozen=True, slots=True)
class Counting:
    """An ordering whose keys count their comparisons."""

    name: str = "counting"
    tenants_share: bool = False

    def key(self, want: Want, arrival: int, tokens_per_branch: float, position: int = 0) -> float:
        return CountedKey(want.remaining_knob)

    def engine_priority(self, want: Want, tokens_per_branch: float) -> int:
        return 0


@pytest.mark.parametrize("programs", [64, 4096])
def test_a_decision_costs_logarithmically_many_comparisons(programs: int) -> None:
    pool = Pool(Counting(), Fairness())
    pool.add_worker("w0", "http://w0", "replay", 1)
    pool.worker_health("w0", healthy=True)
    for number in range(programs):
        pool.want("t", wanting(str(number), 0, knob=number * 7919 % programs, class_rank=number % 3), 0.0)
    CountedKey.comparisons = 0

    assert len(order_of(pool)) == programs

    # Taking the smallest from a heap of n compares about 2 log2 n entries, of which each compares keys twice.
    assert CountedKey.comparisons <= programs * 4 * (programs.bit_length() + 2)


# --- any history


@dataclass(slots=True)
class Tracked:
    """What a tracker would know of one program."""

    tracker: str
    started: set[CallId] = field(default_factory=set)


class AnyHistory(RuleBasedStateMachine):
    """Trackers want, end, withdraw, leave and restate in any order, and workers come and go."""

    ordering = "gang-shortest"
    programs = Bundle("programs")

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_with(2, 3, ordering=self.ordering, fairness=Fairness(longest_wait_seconds=50))
        self.now = 0.0
        self.names = 0
        self.tracked: dict[str, Tracked] = {}
        self.attempts = Counter[str]()

    @rule(target=programs, tracker=st.sampled_from(["t0", "t1"]))
    def program(self, tracker: str) -> str:
        self.names += 1
        name = f"program {self.names}"
        self.tracked[name] = Tracked(tracker)
        return name

    @rule(
        name=programs,
        branches=st.sets(st.integers(0, 5), max_size=4),
        knob=st.integers(0, 9),
        mean_tokens=st.sampled_from([0.0, 50.0, 500.0]),
        class_rank=st.integers(0, 2),
        tenant=st.sampled_from(["one", "another"]),
        speculative=st.integers(0, 4),
        shares_prefixes=st.booleans(),
    )
    def want(
        self,
        name: str,
        branches: set[int],
        knob: int,
        mean_tokens: float,
        class_rank: int,
        tenant: str,
        speculative: int,
        shares_prefixes: bool,
    ) -> None:
        program = self.tracked[name]
        want = wanting(
            name,
            *sorted(branches),
            knob=knob,
            mean_tokens=mean_tokens,
            class_rank=class_rank,
            attempt=f"1.{self.attempts[name]}",
            tenant=tenant,
        )
        want = replace(want, speculative=speculative, shares_prefixes=shares_prefixes)
        self.pool.want(program.tracker, want, self.now)

    @rule(seconds=st.one_of(st.floats(0, 30), st.sampled_from([-100.0, 1e9])))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def grant(self) -> None:
        for grant in self.pool.grants(self.now):
            self.check(grant)
            self.tracked[grant.call.program].started.add(grant.call)

    def check(self, grant: Grant) -> None:
        program = self.tracked[grant.call.program]
        assert grant.tracker == program.tracker
        assert grant.call not in program.started, "a call was granted twice"
        assert grant.waited_seconds >= 0
        assert worker(self.pool, grant.worker).state is WorkerState.READY

    @rule(name=programs, end=st.sampled_from(CallEnd), data=st.data())
    def end(self, name: str, end: CallEnd, data: st.DataObject) -> None:
        started = sorted(self.tracked[name].started)
        if started:
            call = data.draw(st.sampled_from(started))
            self.tracked[name].started.discard(call)
            self.attempts[name] += 1  # whatever is wanted next is another attempt
            for _ in range(data.draw(st.integers(1, 2))):
                self.pool.ended(call, end, 100)

    @rule(name=consumes(programs))
    def finish(self, name: str) -> None:
        program = self.tracked.pop(name)
        for call in program.started:
            self.pool.ended(call, CallEnd.CANCELLED, 0)
        self.pool.withdraw(program.tracker, name)

    @rule(tracker=st.sampled_from(["t0", "t1"]))
    def reconnect(self, tracker: str) -> None:
        where = {call: each.name for each in self.pool.workers for call in each.in_flight}
        self.pool.tracker_gone(tracker)
        for program in self.tracked.values():
            if program.tracker == tracker:
                for call in program.started:
                    self.pool.restate_running(tracker, call, where[call])

    @rule(name=st.sampled_from(["w0", "w1", "w2"]), healthy=st.booleans())
    def check_health(self, name: str, healthy: bool) -> None:
        self.pool.worker_health(name, healthy)

    @rule(name=st.sampled_from(["w0", "w1"]), drain=st.booleans())
    def drain(self, name: str, drain: bool) -> None:
        if drain:
            self.pool.drain_worker(name)
        else:
            each = worker(self.pool, name)
            self.pool.add_worker(name, each.url, each.engine, each.max_in_flight)

    @invariant()
    def no_worker_is_over_its_places(self) -> None:
        for each in self.pool.workers:
            assert len(each.in_flight) <= each.max_in_flight
            assert each.work == sum(each.in_flight.values())

    @invariant()
    def running_calls_are_those_that_were_granted(self) -> None:
        started = {call for program in self.tracked.values() for call in program.started}
        assert {call for each in self.pool.workers for call in each.in_flight} == started
        assert self.pool.running_calls == len(started)

    @invariant()
    def queues_stay_small(self) -> None:
        assert self.pool.queue_entries <= 6 * self.pool.waiting_calls + 128

    @precondition(lambda self: self.tracked)
    @rule()
    def every_wanted_call_is_granted_when_places_free_up(self) -> None:
        for each in self.pool.workers:
            self.pool.add_worker(each.name, each.url, each.engine, each.max_in_flight)
            self.pool.worker_health(each.name, healthy=True)
        for program in self.tracked.values():
            for call in program.started:
                self.pool.ended(call, CallEnd.CANCELLED, 0)
            program.started.clear()
        self.pool.add_worker("w2", "http://w2", "replay", 2)
        self.pool.worker_health("w2", healthy=True)
        waiting, served = self.pool.waiting_calls, 0
        while grants := self.pool.grants(self.now):
            for grant in grants:
                self.check(grant)
                self.pool.ended(grant.call, CallEnd.CANCELLED, 0)
            served += len(grants)
        for name in self.tracked:
            self.attempts[name] += 1
        assert served == waiting
        assert self.pool.waiting_calls == self.pool.running_calls == 0

    def teardown(self) -> None:
        for name in list(self.tracked):
            self.finish(name)
        assert self.pool.waiting_calls == self.pool.running_calls == 0
        assert all(not each.in_flight for each in self.pool.workers)
        self.pool.withdraw("t0", "nobody")
        assert self.pool.queue_entries == 0, "what has ended is remembered"
        self.pool.ignored.take()
        assert b"program " not in pickle.dumps(self.pool), "what has ended is remembered"


class AnyHistoryOfTenants(AnyHistory):
    """The same where tenants take turns."""

    ordering = "fair-virtual-time"


class AnyHistoryOfCalls(AnyHistory):
    """The same where a program's calls have keys of their own."""

    ordering = "fcfs"


TestAnyHistory = AnyHistory.TestCase
TestAnyHistoryOfCalls = AnyHistoryOfCalls.TestCase
TestAnyHistoryOfTenants = AnyHistoryOfTenants.TestCase


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 2)), min_size=1, max_size=12), st.integers(1, 4))
def test_gangs_are_served_whole_before_longer_ones(programs: list[tuple[int, int]], places: int) -> None:
    pool = pool_with(places, ordering="gang-shortest")
    for number, (knob, class_rank) in enumerate(programs):
        pool.want("t", wanting(str(number), 0, 1, 2, knob=knob, class_rank=class_rank), 0.0)

    order = [int(call.partition("/")[0]) for call in order_of(pool)]

    expected = sorted(range(len(programs)), key=lambda number: (programs[number][1], programs[number][0], number))
    assert order == [number for number in expected for _ in range(3)]
