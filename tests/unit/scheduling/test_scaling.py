"""The control law: it follows what is asked, calmly, and does nothing where it knows nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.scheduling.scaling import ScalingCause, ScalingDecision, desired_workers
from dynasor_serve.scheduling.scaling_history import Observation
from dynasor_serve.scheduling.scaling_settings import InvalidScaling, ScalingSettings

SPEED = 100.0  # tokens per second and worker
_DECIDE_SECONDS = 10.0
CALM = ScalingSettings(max_workers=20, start_up_seconds=60.0, most_added=20, most_removed=20)


def demand(workers: float = 1.0, **changes: float) -> Demand:
    """What so many workers at the target utilisation are called for by."""
    asked = Demand(
        at_ms=0,
        live_programs=10,
        running_calls=10,
        places=8,
        ready_workers=1,
        arriving_tokens_per_second=workers * SPEED * CALM.target_utilisation,
        tokens_per_second_per_worker=SPEED,
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


NOTHING = demand(0.0, live_programs=0, running_calls=0)


@dataclass
class Operator:
    """Observes every second and does what the law says every ten; workers start at once."""

    settings: ScalingSettings
    current: int
    now: float = 0.0
    history: list[Observation] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)  # (when, to how many)
    latest: ScalingDecision = field(default_factory=lambda: ScalingDecision(0, ScalingCause.STEADY, ""))

    def run(self, seconds: float, asked: Callable[[float], Demand | None], *, freshly: bool = True) -> Operator:
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            told = asked(self.now)
            if told is not None and freshly:
                told = replace(told, at_ms=round(self.now * 1000))
            self.history.append(Observation(self.now, told, self.current, self.current))
            if self.now % _DECIDE_SECONDS:
                continue
            self.latest = desired_workers(self.history, self.settings, self.now)
            assert self.settings.min_workers <= self.latest.workers <= self.settings.max_workers
            if self.latest.workers != self.current:
                self.current = self.latest.workers
                self.changes.append((self.now, self.current))
            oldest = self.now - self.settings.history_seconds
            while self.history[0].at_seconds < oldest:
                del self.history[0]
        return self


def noisy(base: Demand, seed: int) -> Callable[[float], Demand]:
    """The demand with every measured figure off by up to 40 %, each by itself."""
    draw = random.Random(seed)

    def asked(now: float) -> Demand:
        factor = lambda: draw.uniform(0.6, 1.4)  # noqa: E731
        return replace(
            base,
            live_programs=round(base.live_programs * factor()),
            waiting_calls=round(base.waiting_calls * factor()),
            waiting_tokens=base.waiting_tokens * factor(),
            outstanding_tokens=base.outstanding_tokens * factor(),
            arriving_tokens_per_second=base.arriving_tokens_per_second * factor(),
            tokens_per_second_per_worker=base.tokens_per_second_per_worker * factor(),
        )

    return asked


@hypothesis_settings(max_examples=15)
@given(
    ideal=st.integers(1, 12),
    start=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_constant_demand_under_noise_is_met_within_a_worker_and_changed_once_per_window_at_most(
    ideal: int, start: int, seed: int
) -> None:
    operator = Operator(CALM, start).run(2000, noisy(demand(ideal - 0.3), seed))

    assert abs(operator.current - ideal) <= 1
    times = [at for at, _ in operator.changes]
    before = start
    for place, (at, workers) in enumerate(operator.changes):
        window = CALM.up_window_seconds if workers > before else CALM.down_window_seconds
        assert place == 0 or at - times[place - 1] >= window
        before = workers
    late = [change for change in operator.changes if change[0] > 1000]
    assert len(late) <= 1, f"it goes on changing: {operator.changes}"


@given(figures=st.lists(st.one_of(st.none(), st.floats(0, 50)), min_size=1, max_size=60), start=st.integers(0, 25))
def test_no_history_leads_out_of_bounds(figures: list[float | None], start: int) -> None:
    settings = replace(CALM, min_workers=2, max_workers=7)
    history = [
        Observation(10.0 * at, None if each is None else demand(each, at_ms=at), start, start)
        for at, each in enumerate(figures)
    ]

    decision = desired_workers(history, settings, 10.0 * len(figures))

    assert 2 <= decision.workers <= 7
    assert decision.reason


@pytest.mark.parametrize(
    "figures",
    [
        {"waiting_tokens": math.nan},
        {"waiting_tokens": math.inf},
        {"waiting_tokens": -1.0},
        {"arriving_tokens_per_second": 1e308},
        {"outstanding_tokens": 1e300},
        {"tokens_per_second_per_worker": 1e-320},
        {"places": 10**400},
    ],
)
def test_a_demand_that_cannot_be_is_missing(figures: dict[str, float]) -> None:
    operator = Operator(CALM, 3).run(400, lambda _: demand(9.0, **figures))
    assert operator.current == 3
    assert operator.latest.cause is ScalingCause.MISSING

    asleep = [Observation(0.0, demand(9.0, **figures), 0, 0)]
    assert desired_workers(asleep, ZERO, 0.0).cause is ScalingCause.MISSING


FIGURES = st.one_of(st.sampled_from([0.0, 1.0, 1e15]), st.floats(0, 1e15))


@given(
    demands=st.lists(
        st.builds(
            demand,
            tokens_per_second_per_worker=st.one_of(st.sampled_from([0.0, 1e-3, 1e9]), st.floats(1e-3, 1e9)),
            arriving_tokens_per_second=FIGURES,
            waiting_tokens=FIGURES,
            outstanding_tokens=FIGURES,
            live_programs=st.integers(0, 10**15),
            waiting_calls=st.integers(0, 10**15),
            misses_to_come=st.integers(0, 10**15),
            places=st.integers(0, 10**15),
            ready_workers=st.integers(0, 10**15),
        ),
        min_size=1,
        max_size=8,
    ),
    start=st.integers(0, 20),
)
def test_every_demand_that_can_be_leads_to_a_number(demands: list[Demand], start: int) -> None:
    history = [
        Observation(10.0 * at, replace(demands[at % len(demands)], at_ms=at), start, start, start) for at in range(60)
    ]

    assert 0 <= desired_workers(history, ZERO, 590.0).workers <= ZERO.max_workers


def test_one_huge_figure_leaves_nothing_behind_in_the_averages() -> None:
    operator = Operator(CALM, 3).run(600, lambda now: demand(2.7, waiting_tokens=1e15 if now == 560 else 0.0))

    assert "2.7 called for" in operator.latest.reason


def test_a_step_up_is_followed_after_a_window_and_a_step_down_after_a_longer_one() -> None:
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7))
    assert operator.changes == []

    operator.run(120, lambda _: demand(4.4))
    assert operator.current >= 5
    assert operator.changes[0][0] - 600 >= CALM.up_window_seconds

    down_from = operator.now
    operator.run(900, lambda _: demand(1.6))
    assert operator.current == 2
    first_down = operator.changes[-1][0]
    assert first_down - down_from >= CALM.down_window_seconds


def test_a_demand_of_more_than_twice_the_workers_is_followed_within_the_window() -> None:
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7)).run(CALM.up_window_seconds, lambda _: demand(9.7))

    assert operator.current >= 9
    assert operator.changes[0][0] - 600 < CALM.up_window_seconds


def test_after_a_burst_most_workers_go_at_once_and_not_one_first() -> None:
    """A first step as soon as the window allows one would put off the rest for another window."""
    operator = Operator(CALM, 12).run(1200, lambda _: demand(11.7))
    operator.run(300 + CALM.down_window_seconds + CALM.slow_average_seconds, lambda _: demand(2.7))

    assert operator.changes[0][1] <= 7, operator.changes
    assert operator.current == 3
    assert len(operator.changes) <= 3


def test_a_spike_shorter_than_the_window_changes_nothing() -> None:
    operator = Operator(CALM, 3).run(600, lambda now: demand(15.0 if 300 < now <= 303 else 2.7))

    assert operator.changes == []


def test_changes_are_no_larger_than_allowed() -> None:
    settings = replace(CALM, most_added=2, most_removed=1)
    operator = Operator(settings, 4).run(60, lambda _: demand(15.0))
    assert operator.changes[0][1] == 6

    operator.run(600, lambda _: demand(15.0)).run(1000, lambda _: demand(0.5))
    steps = [after - before for (_, before), (_, after) in zip(operator.changes, operator.changes[1:], strict=False)]
    assert max(steps) <= 2
    assert min(steps) == -1


@pytest.mark.parametrize("missing", [1.0, 0.9])
def test_missing_data_holds(missing: float) -> None:
    draw = random.Random(1)
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7))

    operator.run(2000, lambda _: None if draw.random() < missing else demand(12.0))

    assert operator.current == 3
    assert operator.latest.cause is ScalingCause.MISSING


@pytest.mark.parametrize("then", [demand(12.0, at_ms=900_000), demand(0.5, at_ms=900_000)])
def test_one_look_after_a_pause_is_no_window(then: Demand) -> None:
    """An operator that stood still knows what was before, and what is now; nothing of the time between."""
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7))

    decision = desired_workers([*operator.history, Observation(900.0, then, 3, 3)], CALM, 900.0)

    assert (decision.workers, decision.cause) == (3, ScalingCause.MISSING)


@pytest.mark.parametrize("observe_seconds", [1.0, 5.0, 20.0])
def test_observations_may_be_rare(observe_seconds: float) -> None:
    history = [
        Observation(at * observe_seconds, demand(6.0, at_ms=at), 3, 3) for at in range(round(600 / observe_seconds))
    ]

    assert desired_workers(history, CALM, history[-1].at_seconds).cause is ScalingCause.MORE


def test_a_demand_that_never_changes_is_stale() -> None:
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7))

    operator.run(600, lambda _: demand(5.0, at_ms=1), freshly=False)

    assert operator.current == 3
    assert "not known" in operator.latest.reason


def test_an_operator_that_stopped_observing_holds() -> None:
    operator = Operator(CALM, 3).run(600, lambda _: demand(2.7))

    decision = desired_workers(operator.history, CALM, operator.now + CALM.stale_seconds + 1)

    assert decision == ScalingDecision(3, ScalingCause.MISSING, "the demand was last heard of 31 s ago: 3 workers stay")


def test_nothing_observed_yields_the_fewest_workers_allowed() -> None:
    assert desired_workers([], replace(CALM, min_workers=2), 0.0).workers == 2


def test_a_restarted_operator_waits_for_a_window_before_it_changes_anything() -> None:
    operator = Operator(CALM, 10).run(CALM.up_window_seconds - 1, lambda _: demand(19.0))
    assert operator.changes == []

    operator = Operator(CALM, 10).run(CALM.down_window_seconds - 1, lambda _: demand(1.0))
    assert operator.changes == []


ZERO = replace(CALM, min_workers=0)


def test_one_program_wakes_a_pool_at_once_before_any_speed_is_known() -> None:
    asleep = [Observation(0.0, Demand(at_ms=0), 0, 0), Observation(1.0, Demand(at_ms=1, live_programs=1), 0, 0)]

    decision = desired_workers(asleep, ZERO, 1.0)

    assert decision.workers == 1
    assert decision.cause is ScalingCause.WOKEN


def test_many_programs_wake_as_many_workers_as_they_need_where_the_speed_is_known() -> None:
    asked = Demand(at_ms=1, live_programs=50, waiting_tokens=24_000.0, tokens_per_second_per_worker=SPEED)

    assert desired_workers([Observation(1.0, asked, 0, 0)], ZERO, 1.0).workers == 5


def test_the_last_worker_goes_only_after_an_idle_window_without_a_gap() -> None:
    operator = Operator(ZERO, 1).run(300, lambda _: demand(0.5)).run(ZERO.idle_seconds - 5, lambda _: NOTHING)
    assert operator.current == 1

    operator.run(1, lambda _: None).run(ZERO.idle_seconds - 5, lambda _: NOTHING)
    assert operator.current == 1, "what is missing is no sign of idleness"

    operator.run(10, lambda _: NOTHING)
    assert operator.current == 0
    assert operator.latest.cause in {ScalingCause.IDLE, ScalingCause.STEADY}


def test_nobody_knows_whether_a_pool_was_idle_while_nobody_looked() -> None:
    looks = [0.0, 1.0, ZERO.idle_seconds, ZERO.idle_seconds + 2.0]
    history = [Observation(at, replace(NOTHING, at_ms=round(at)), 1, 1) for at in looks]

    assert desired_workers(history, ZERO, looks[-1]).workers == 1


def test_a_pool_that_may_not_be_empty_keeps_its_last_worker() -> None:
    assert Operator(CALM, 1).run(2000, lambda _: NOTHING).current == 1


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 2**32), gap=st.floats(5.0, 500.0))
def test_a_pool_with_a_program_now_and_then_never_flips_between_none_and_one(seed: int, gap: float) -> None:
    """Programs come one by one, each live for five seconds, less than an idle window apart."""
    operator = Operator(ZERO, 1)

    def asked(now: float) -> Demand:
        return noisy(demand(0.2, live_programs=3), seed + int(now))(now) if now % gap < 5 else NOTHING

    operator.run(1500, asked)

    assert operator.changes == []


def test_a_woken_pool_does_not_fall_asleep_before_an_idle_window_is_over() -> None:
    operator = Operator(ZERO, 0).run(100, lambda _: NOTHING).run(10, lambda _: demand(0.1))
    assert operator.current == 1

    operator.run(ZERO.idle_seconds - 10, lambda _: NOTHING)
    assert operator.current == 1
    operator.run(20, lambda _: NOTHING)
    assert operator.current == 0


def test_workers_that_start_are_not_added_again() -> None:
    """All that is called for is starting: however long it takes, nothing more is asked for."""
    history = [Observation(float(at), demand(3.0, at_ms=at), 3, 3) for at in range(400)]
    history += [Observation(float(at), demand(6.0, at_ms=at), 6, 3, 3) for at in range(400, 460)]

    decision = desired_workers(history, replace(CALM, start_up_seconds=0.0), 459.0)

    assert decision.workers == 6


def test_what_arrives_while_workers_start_is_planned_for() -> None:
    slow = replace(CALM, start_up_seconds=180.0)
    history = [Observation(float(at), demand(8.0, at_ms=at), 3, 3) for at in range(100)]

    prompt = desired_workers(history, replace(CALM, start_up_seconds=0.0), 99.0)
    ahead = desired_workers(history, slow, 99.0)

    assert prompt.workers == 8
    assert ahead.workers > prompt.workers


def test_work_that_waits_and_misses_to_come_call_for_more() -> None:
    def after(**changes: float) -> int:
        return Operator(CALM, 3).run(200, lambda _: demand(2.9, **changes)).current

    assert after() == 3
    assert after(waiting_calls=10, waiting_tokens=20_000) > 3
    assert after(waiting_calls=10, misses_to_come=5) > 3
    assert after(outstanding_tokens=40_000) > 3
    assert after(waiting_calls=0, misses_to_come=5) == 3, "no worker helps a deadline that is too short"


def test_no_worker_is_taken_away_while_the_slo_is_missed_and_calls_wait() -> None:
    missed = Operator(CALM, 6).run(1000, lambda _: demand(2.5, slo_attainment=0.5, waiting_calls=3))
    assert missed.current == 6
    assert "only 50% end in time" in missed.latest.reason

    assert Operator(CALM, 6).run(1000, lambda _: demand(2.5, slo_attainment=0.5)).current == 3


def test_calls_stand_in_before_any_speed_is_known() -> None:
    unmeasured = demand(0.0, tokens_per_second_per_worker=0.0, running_calls=8, waiting_calls=24)
    assert Operator(CALM, 1).run(100, lambda _: unmeasured).current == 5

    none_ready = replace(unmeasured, ready_workers=0, places=0)
    operator = Operator(CALM, 1).run(100, lambda _: none_ready)
    assert operator.current == 1
    assert operator.latest.cause is ScalingCause.UNMEASURED


def test_reasons_are_sentences_with_the_figures() -> None:
    operator = Operator(CALM, 3).run(40, lambda _: demand(2.5, waiting_tokens=120.0))

    assert operator.latest.reason == (
        "3 workers do: 2.5 called for (200 tokens/s arrive, 120 wait, 0 are outstanding, "
        "a worker generates 100 tokens/s, 0 misses to come)"
    )


@pytest.mark.parametrize(
    ("changes", "field_name"),
    [
        ({"min_workers": -1}, "min_workers"),
        ({"min_workers": 9, "max_workers": 8}, "min_workers"),
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": True}, "max_workers"),
        ({"most_added": 0}, "most_added"),
        ({"most_removed": 1.5}, "most_removed"),
        ({"target_utilisation": 0.0}, "target_utilisation"),
        ({"target_utilisation": math.nan}, "target_utilisation"),
        ({"least_attainment": 1.1}, "least_attainment"),
        ({"hysteresis": 0.9}, "hysteresis"),
        ({"drain_seconds": 0.0}, "drain_seconds"),
        ({"start_up_seconds": -1.0}, "start_up_seconds"),
        ({"up_window_seconds": math.inf}, "up_window_seconds"),
        ({"down_window_seconds": 10.0}, "down_window_seconds"),
        ({"idle_seconds": math.nan}, "idle_seconds"),
        ({"stale_seconds": 0.0}, "stale_seconds"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(changes: dict[str, float], field_name: str) -> None:
    with pytest.raises(InvalidScaling, match=field_name) as caught:
        ScalingSettings(**changes)  # type: ignore[arg-type]

    assert caught.value.field == field_name
    assert caught.value.remedy
