"""A scheduler that has just become active lets trackers restate what runs before it grants anything."""

from __future__ import annotations

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduler.pools import Pools, TrackerSession
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.telemetry.metrics import Metrics

PLACES = 4


def standby() -> Pools:
    pools = Pools(ordering="fcfs", fairness=Fairness(), metrics=Metrics("scheduler"))
    pools.register("pool", "model", "w0", "http://w0", "replay", PLACES)
    pools.health("pool", "w0", True, "")
    return pools


def restated(pools: Pools, tracker: str, *, running: int, wanted: int) -> TrackerSession:
    """The session of a tracker that says at once what it has and what it wants."""
    session = pools.open_session(tracker)
    message = pb.CoordinateRequest(
        tracker=tracker,
        running=[
            pb.RunningCall(query_id=tracker, branch=branch, attempt="1.1", worker="w0", pool="pool")
            for branch in range(running)
        ],
        wants=[
            pb.ProgramWant(
                query_id=tracker,
                pool="pool",
                calls=[pb.WantedCall(branch=running + number, attempt="1.1") for number in range(wanted)],
                query_class=2,
                mean_tokens_per_branch=100,
            )
        ],
    )
    pools.hear(session, message)
    return session


def test_nothing_is_granted_until_all_trackers_had_the_time_to_restate() -> None:
    pools = standby()
    pools.activate(7)

    first = restated(pools, "first", running=1, wanted=PLACES)
    assert not first.grants, "the places of the other tracker's calls were given away"
    second = restated(pools, "second", running=2, wanted=PLACES)
    pools.settle()

    grants = [*first.grants, *second.grants]
    assert len(grants) == PLACES - 3
    assert {grant.epoch for grant in grants} == {7}


def test_who_was_active_before_settles_again() -> None:
    pools = standby()
    pools.activate(7)
    pools.settle()
    pools.resign()
    pools.activate(8)

    session = restated(pools, "first", running=0, wanted=1)

    assert not session.grants
    pools.settle()
    assert [grant.epoch for grant in session.grants] == [8]
