"""A pool in virtual time under laws: the play is fair, and the law keeps deadlines for less than a fixed pool costs."""

from __future__ import annotations

from dynasor_serve.scheduling.scaling_history import Observation
from dynasor_serve.scheduling.scaling_settings import ScalingSettings
from dynasor_serve.simulation.autoscaling import (
    START_UP_SECONDS,
    DynasorLaw,
    FixedLaw,
    QueueLaw,
    ScaledPool,
    ScalingOutcome,
    bursty,
    compare_laws,
    diurnal,
)


def test_a_day_is_followed_with_fewer_worker_hours_than_a_fixed_pool_and_deadlines_are_kept() -> None:
    load = diurnal(1.0, 1500.0)
    settings = ScalingSettings(max_workers=6, start_up_seconds=START_UP_SECONDS, most_added=6, most_removed=6)

    followed = ScaledPool(DynasorLaw(settings), load, workers=1, seed=3).run(1500.0)
    fixed = ScaledPool(FixedLaw(6), load, workers=6, seed=3).run(1500.0)
    starved = ScaledPool(FixedLaw(1), load, workers=1, seed=3).run(1500.0)

    assert followed.attainment > 0.97
    assert followed.worker_hours < 0.9 * fixed.worker_hours
    assert starved.attainment < 0.7, "the load needs more than one worker"
    assert fixed.changes == 0


def test_the_same_programs_come_under_every_law() -> None:
    def outcome(workers: int) -> ScalingOutcome:
        load = lambda now: 2.0 if now < 100 else 0.0  # noqa: E731
        return ScaledPool(FixedLaw(workers), load, workers=workers, seed=1).run(400.0)

    assert outcome(1).programs == outcome(8).programs > 150
    assert outcome(1).attainment < outcome(8).attainment
    assert outcome(3) == outcome(3)


def test_all_laws_are_compared_on_all_loads() -> None:
    outcomes = compare_laws(100.0)

    assert {load: list(laws) for load, laws in outcomes.items()} == {
        load: ["dynasor 0.6", "dynasor 0.8", "queue 0.4", "queue 0.6", "queue 0.8", "fixed 12"]
        for load in ("diurnal", "bursty")
    }


def test_workers_take_their_time_to_start() -> None:
    class Recording:
        def __init__(self) -> None:
            self.ready: dict[float, int] = {}

        def workers(self, history: list[Observation], now: float) -> int:
            self.ready[now] = history[-1].ready_workers
            return 3

    law = Recording()
    ScaledPool(law, lambda _: 0.0, workers=1, seed=0).run(START_UP_SECONDS + 10)

    assert law.ready[START_UP_SECONDS - 5] == 1
    assert law.ready[START_UP_SECONDS + 5] == 3


def test_queue_law_is_that_of_the_hpa() -> None:
    law = QueueLaw(target_share=0.5, most=12)
    idle = ScaledPool(law, lambda _: 0.0, workers=4, seed=0).run(600.0)
    assert idle.changes == 1, "down to one, five minutes after the last recommendation of more"

    assert bursty(1.0, 5.0, 4000.0, seed=0)(0.0) == 1.0
