"""What a pool's meter makes of wants, grants and ends: counts, rates, predictions, and nothing absurd."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.scheduling.demand import CallEnd, CallId, ProgramEnd, Want
from dynasor_serve.scheduling.history import UNKNOWN_TOKENS_PER_BRANCH
from dynasor_serve.scheduling.load import ATTAINMENT_SECONDS, RATE_SECONDS, PoolLoad
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.placement import Worker, WorkerState
from dynasor_serve.scheduling.pool_demand import Demand

TRACKER = "t"
FAR_MS = 10_000_000  # a deadline, in Unix milliseconds
UNIX_MS = 1_000_000  # at second 0


def wanting(
    program: str,
    calls: int = 1,
    *,
    first: int = 0,
    knob: int = 8,
    mean_tokens: float = 0.0,
    class_rank: int = 1,
    deadline_ms: int = FAR_MS,
    certaindex: float = 0.0,
    samples: int = 0,
    speculative: int = 0,
    accepted_at_ms: int = UNIX_MS,
) -> Want:
    return Want(
        program=program,
        pool="pool",
        algorithm="self-consistency",
        calls=tuple(CallId(program, first + branch, "1.1") for branch in range(calls)),
        class_rank=class_rank,
        tenant="default",
        remaining_knob=knob,
        mean_tokens_per_branch=mean_tokens,
        accepted_at_ms=accepted_at_ms,
        deadline_ms=deadline_ms,
        tokens_spent=0,
        certaindex=certaindex,
        samples=samples,
        speculative=speculative,
    )


class Bench:
    """A meter with workers of four places, and the time."""

    def __init__(self, workers: int = 1) -> None:
        self.load = PoolLoad(parse_ordering("fcfs"))
        self.workers = [Worker(f"w{number}", "", "replay", 4, WorkerState.READY) for number in range(workers)]
        self.now = 0.0

    def want(self, want: Want) -> None:
        self.load.want(TRACKER, want, self.now)

    def grant(self, program: str, branch: int = 0, worker: int = 0) -> CallId:
        call = CallId(program, branch, "1.1")
        self.load.granted(call, f"w{worker}", self.now)
        self.workers[worker].in_flight[call] = 1
        return call

    def end(self, call: CallId, tokens: int, end: CallEnd = CallEnd.FINISHED) -> None:
        self.load.ended(call, end, tokens, self.now)
        for worker in self.workers:
            worker.in_flight.pop(call, None)

    def withdraw(self, program: str, end: ProgramEnd | None = ProgramEnd.COMPLETED, after_ms: int = 0) -> None:
        self.load.withdrawn(TRACKER, program, end, self.now, self.unix_ms + after_ms)

    def measure(self, seconds_per_token: float = 0.02, tokens: int = 100) -> None:
        """One program of one call at a time, so that speed and length are known."""
        for number in range(5):
            self.want(wanting(f"measured-{number}", knob=1, mean_tokens=float(tokens)))
            call = self.grant(f"measured-{number}")
            self.now += tokens * seconds_per_token
            self.end(call, tokens)
            self.withdraw(f"measured-{number}")

    @property
    def unix_ms(self) -> int:
        return UNIX_MS + round(self.now * 1000)

    @property
    def demand(self) -> Demand:
        return self.load.demand(self.workers, 0.0, self.now, self.unix_ms)


def test_programs_and_calls_are_counted_through_their_lives() -> None:
    bench = Bench()
    bench.want(wanting("a", 3))
    bench.want(wanting("b", 2))
    assert (bench.demand.live_programs, bench.demand.waiting_programs, bench.demand.waiting_calls) == (2, 2, 5)

    call = bench.grant("a")
    demand = bench.demand
    assert (demand.waiting_programs, demand.waiting_calls, demand.running_calls, demand.places) == (1, 4, 1, 4)

    bench.end(call, 10)
    bench.want(wanting("a", 0))
    bench.withdraw("b")
    demand = bench.demand
    assert (demand.live_programs, demand.waiting_calls, demand.running_calls) == (1, 0, 0)


def test_a_want_that_crossed_its_grant_counts_the_call_as_running() -> None:
    bench = Bench()
    bench.want(wanting("a", 2))
    bench.grant("a")
    bench.want(wanting("a", 2))

    assert (bench.demand.waiting_calls, bench.demand.running_calls) == (1, 1)


def test_speculation_is_no_waiting_call() -> None:
    bench = Bench()
    bench.want(wanting("a", 4, speculative=3))
    assert bench.demand.waiting_calls == 1

    bench.grant("a")
    assert bench.demand.waiting_calls == 0


def test_outstanding_work_is_the_cap_until_programs_have_ended_and_what_these_spent_after() -> None:
    bench = Bench()
    bench.want(wanting("a", 1, knob=10, mean_tokens=50.0))
    assert bench.demand.outstanding_tokens == bench.demand.outstanding_tokens_at_cap == 500.0
    bench.withdraw("a", ProgramEnd.CANCELLED)

    for number in range(100):  # each ends after 2 of 10 samples
        program = f"p{number}"
        for branch in range(2):
            bench.want(wanting(program, 1, first=branch, knob=10 - branch, samples=branch, mean_tokens=50.0))
            call = bench.grant(program, branch)
            bench.now += 1
            bench.end(call, 50)
        bench.withdraw(program)
    bench.want(wanting("a", 1, knob=10, mean_tokens=50.0))

    assert bench.demand.outstanding_tokens_at_cap == 500.0
    assert bench.demand.outstanding_tokens == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize(
    "end", [ProgramEnd.DEADLINE, ProgramEnd.CANCELLED, ProgramEnd.FAILED, ProgramEnd.RELEASED, None]
)
def test_nothing_is_learned_of_programs_that_others_ended(end: ProgramEnd | None) -> None:
    """Otherwise a pool that is too small for its deadlines would look as if less were asked of it."""
    bench = Bench()
    for number in range(50):
        bench.want(wanting(f"p{number}", knob=10, mean_tokens=50.0))
        bench.withdraw(f"p{number}", end)
    bench.want(wanting("a", knob=10, mean_tokens=50.0))

    assert bench.demand.outstanding_tokens >= 500.0


def test_what_a_running_call_has_generated_is_not_outstanding_any_more() -> None:
    bench = Bench()
    bench.measure(seconds_per_token=0.02)
    bench.want(wanting("a", 1, knob=1, mean_tokens=1000.0))
    bench.grant("a")
    before = bench.demand.outstanding_tokens
    bench.now += 10

    assert before - bench.demand.outstanding_tokens == pytest.approx(500, rel=0.05)


def test_rates_of_arrival_and_drain() -> None:
    bench = Bench()
    for second in range(300):
        bench.now = float(second)
        bench.want(wanting(f"p{second}", knob=2, mean_tokens=0))
        for branch in range(2):
            bench.end(bench.grant(f"p{second}", branch), 100)
        bench.withdraw(f"p{second}")
    demand = bench.demand

    assert demand.arrivals_per_second == pytest.approx(1.0, rel=0.05)
    assert demand.drained_tokens_per_second == pytest.approx(200.0, rel=0.05)
    assert demand.arriving_tokens_per_second == pytest.approx(200.0, rel=0.1)

    bench.now += 1200
    assert bench.demand.arrivals_per_second < 0.001


def test_a_worker_is_worth_what_its_streams_generate_on_all_its_places() -> None:
    bench = Bench()
    assert bench.demand.tokens_per_second_per_worker == 0.0

    bench.measure(seconds_per_token=0.02)
    assert bench.demand.tokens_per_second_per_worker == pytest.approx(4 / 0.02, rel=0.01)
    assert bench.demand.seconds_per_call == pytest.approx(2.0)

    bench.workers[0].state = WorkerState.QUARANTINED
    assert bench.demand.places == 0
    assert bench.demand.tokens_per_second_per_worker == pytest.approx(4 / 0.02, rel=0.01), "it is remembered"


def test_a_new_program_waits_for_nothing_while_places_are_free_and_for_the_queue_after() -> None:
    bench = Bench()
    bench.measure(seconds_per_token=0.02, tokens=100)
    for number in range(4):
        assert bench.demand.predicted_wait_seconds == 0.0
        bench.want(wanting(f"running-{number}", 1, knob=1, mean_tokens=100.0))
        bench.grant(f"running-{number}")
    assert bench.demand.predicted_wait_seconds == pytest.approx(2.0 / 4, rel=0.1), "until the next place is free"

    for number in range(20):
        bench.want(wanting(f"waiting-{number}", 1, knob=1, mean_tokens=100.0))
    bench.want(wanting("batch", 1, knob=8, mean_tokens=100.0, class_rank=2))
    demand = bench.demand
    assert demand.waiting_tokens == pytest.approx(2800, rel=0.05)
    assert demand.predicted_wait_interactive_seconds == pytest.approx(0.5, rel=0.1)
    assert demand.predicted_wait_seconds == pytest.approx(2000 / 200 + 0.5, rel=0.1)
    assert demand.predicted_wait_batch_seconds == pytest.approx(2800 / 200 + 0.5, rel=0.1)


def test_misses_are_foreseen_in_the_queue_and_of_what_runs() -> None:
    bench = Bench()
    bench.measure(seconds_per_token=0.02, tokens=100)
    for number in range(4):
        bench.want(wanting(f"running-{number}", 1, knob=1, mean_tokens=100.0))
        bench.grant(f"running-{number}")
    soon = bench.unix_ms + 6_000
    for number in range(20):  # the nth starts after n / 2 seconds and takes 2
        bench.want(wanting(f"waiting-{number}", 1, knob=1, mean_tokens=100.0, deadline_ms=soon))
    assert bench.demand.misses_to_come == pytest.approx(11, abs=1)

    bench.want(wanting("too-long", 1, knob=1, mean_tokens=1000.0, deadline_ms=soon))
    bench.want(wanting("without-deadline", 1, knob=1, mean_tokens=1e6, deadline_ms=0))
    before = bench.demand.misses_to_come
    bench.grant("too-long")
    assert bench.demand.misses_to_come == before, "it starts now, and still takes 20 seconds"


def test_attainment_counts_what_ended_in_time_within_the_window() -> None:
    bench = Bench()
    assert (bench.demand.slo_attainment, bench.demand.deadlines_ended) == (1.0, 0)
    ends = [ProgramEnd.COMPLETED] * 3 + [ProgramEnd.DEADLINE, ProgramEnd.CANCELLED, ProgramEnd.FAILED]
    for number, end in enumerate(ends):
        bench.want(wanting(f"p{number}"))
        bench.withdraw(f"p{number}", end)
    assert (bench.demand.slo_attainment, bench.demand.deadlines_ended) == (0.75, 4)

    bench.want(wanting("late"))
    bench.withdraw("late", None, after_ms=FAR_MS)
    assert bench.demand.slo_attainment == 0.6

    bench.now += ATTAINMENT_SECONDS + 20
    assert (bench.demand.slo_attainment, bench.demand.deadlines_ended) == (1.0, 0)


def test_a_tracker_that_hangs_up_takes_its_demand_along_and_brings_it_back_without_arrivals() -> None:
    bench = Bench()
    bench.want(wanting("a", 2))
    bench.grant("a")
    arrivals = bench.demand.arrivals_per_second
    bench.load.tracker_gone(TRACKER, [CallId("a", 0, "1.1")], bench.now)
    assert (bench.demand.live_programs, bench.demand.running_calls) == (0, 0)

    bench.load.want("another", wanting("a", 1, first=1), bench.now, restated_ms=bench.unix_ms)
    bench.load.restated(CallId("a", 0, "1.1"), "w0", bench.now)
    demand = bench.demand
    assert (demand.live_programs, demand.running_calls, demand.waiting_calls) == (1, 1, 1)
    assert demand.arrivals_per_second == arrivals


def test_calls_of_a_tracker_that_hangs_up_after_another_took_its_program_over_run_no_more() -> None:
    bench = Bench()
    bench.want(wanting("a", 2))
    call = bench.grant("a")
    bench.load.want("newer", wanting("a", 2, first=2), bench.now)
    bench.load.tracker_gone(TRACKER, [call], bench.now)

    assert (bench.demand.live_programs, bench.demand.running_calls, bench.demand.waiting_calls) == (1, 0, 2)


def test_a_new_scheduler_hears_of_arrivals_that_it_did_not_see() -> None:
    bench = Bench()
    for age in range(120):
        want = wanting(f"p{age}", accepted_at_ms=UNIX_MS - age * 1000)
        bench.load.want(TRACKER, want, 0.0, restated_ms=UNIX_MS)

    assert bench.demand.arrivals_per_second == pytest.approx(1.0, rel=0.05)


def test_two_trackers_that_want_one_program_ask_for_it_once_and_the_older_cannot_withdraw_it() -> None:
    bench = Bench()
    bench.want(wanting("a", 2))
    bench.load.want("newer", wanting("a", 2), bench.now)
    bench.withdraw("a")

    assert (bench.demand.live_programs, bench.demand.waiting_calls) == (1, 2)


def test_calls_that_end_after_their_program_still_free_their_place() -> None:
    bench = Bench()
    bench.want(wanting("a", 2))
    calls = [bench.grant("a", branch) for branch in range(2)]
    bench.now += 10
    bench.withdraw("a")
    for call in calls:
        bench.end(call, 50, CallEnd.CANCELLED)

    assert bench.demand.running_calls == 0
    assert bench.demand.drained_tokens_per_second > 0


def test_the_first_program_of_an_algorithm_is_no_rush() -> None:
    """Nothing of it arrived before, as long as the others were watched."""
    bench = Bench()
    for second in range(600):
        bench.now = float(second)
        bench.want(wanting(f"p{second}", knob=1))
        bench.withdraw(f"p{second}", ProgramEnd.CANCELLED)
    before = bench.demand.arriving_tokens_per_second
    bench.want(replace(wanting("tree", knob=60), algorithm="mcts"))

    more = bench.demand.arriving_tokens_per_second - before
    assert more == pytest.approx(60 * UNKNOWN_TOKENS_PER_BRANCH / RATE_SECONDS, rel=0.05)


def test_a_call_generates_no_faster_for_idle_workers_elsewhere() -> None:
    def generated(workers: int) -> float:
        bench = Bench(workers)
        for number in range(100):  # they slow each other down
            beside = 1 + number % 4
            calls = [CallId(f"p{number}", branch, "1.1") for branch in range(beside)]
            bench.want(wanting(f"p{number}", beside))
            for call in calls:
                bench.grant(call.program, call.branch)
            bench.now += 100 * 0.01 * beside
            for call in calls:
                bench.end(call, 100)
            bench.withdraw(f"p{number}", ProgramEnd.CANCELLED)
        bench.want(wanting("a", 1, knob=1, mean_tokens=1000.0))
        bench.grant("a")
        before = bench.demand.outstanding_tokens
        bench.now += 2
        return before - bench.demand.outstanding_tokens

    assert generated(workers=20) == pytest.approx(generated(workers=1))


@pytest.mark.parametrize("clock", [-1e6, math.nan, math.inf, 1e300])
def test_a_clock_that_jumps_back_or_beyond_all_time_changes_no_rate(clock: float) -> None:
    bench = Bench()
    bench.measure()
    before = bench.demand
    bench.load.want(TRACKER, wanting("a"), clock)
    bench.load.withdrawn(TRACKER, "a", ProgramEnd.CANCELLED, clock, UNIX_MS)

    after = bench.load.demand(bench.workers, 0.0, clock, before.at_ms)
    assert after.drained_tokens_per_second == before.drained_tokens_per_second
    assert after.tokens_per_second_per_worker == before.tokens_per_second_per_worker

    _ = bench.demand
    bench.now += 1200
    assert bench.demand.drained_tokens_per_second < 0.001, "it goes on when the clock does"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["want", "grant", "end", "withdraw", "restate", "gone", "demand"]),
        st.integers(0, 3),  # program
        st.integers(0, 3),  # branch
        st.integers(-(2**62), 2**62),  # knob, samples, tokens, deadline
        st.floats(allow_nan=True, allow_infinity=True),  # certainty, mean, clock
        st.sampled_from([None, *ProgramEnd]),
    ),
    max_size=40,
)


@given(events=EVENTS)
def test_no_news_however_absurd_yields_a_figure_that_cannot_be(
    events: list[tuple[str, int, int, int, float, ProgramEnd | None]],
) -> None:
    load = PoolLoad(parse_ordering("gang-shortest"))
    worker = Worker("w0", "", "replay", 4, WorkerState.READY)
    for kind, program, branch, number, clock, end in events:
        name, call = f"p{program}", CallId(f"p{program}", branch, "1.1")
        match kind:
            case "want":
                want = wanting(
                    name, branch, knob=number, samples=number, mean_tokens=clock, certaindex=clock, deadline_ms=number
                )
                load.want(TRACKER, want, clock, restated_ms=number if branch else None)
            case "grant":
                load.granted(call, "w0", clock)
            case "end":
                load.ended(call, CallEnd.FINISHED, number, clock)
            case "withdraw":
                load.withdrawn(TRACKER, name, end, clock, number)
            case "restate":
                load.restated(call, "w0", clock)
            case "gone":
                load.tracker_gone(TRACKER, [CallId(f"p{each}", branch, "1.1") for each in range(2)], clock)
        demand = load.demand([worker], 0.0, clock, number)
        figures = {each.name: getattr(demand, each.name) for each in fields(Demand) if each.name != "at_ms"}
        assert all(0 <= figure < math.inf for figure in figures.values()), figures
        assert demand.slo_attainment <= 1
