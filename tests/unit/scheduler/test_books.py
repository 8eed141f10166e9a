"""The scheduler's book: what comes back when a tracker goes, what is restated, and what is said of the rest."""

from __future__ import annotations

import logging

import pytest

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduler.pools import Pools
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.ignored import IgnoredReason
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics


def active_pools(*places: int) -> tuple[Pools, Metrics]:
    """An active scheduler with workers `w0`, `w1`… of so many places."""
    metrics = Metrics("scheduler")
    pools = Pools(ordering="gang-shortest", fairness=Fairness(), metrics=metrics)
    pools.epoch = 1
    for number, max_in_flight in enumerate(places):
        pools.register("pool", "model", f"w{number}", f"http://w{number}", "replay", max_in_flight)
        pools.health("pool", f"w{number}", True, "")
    return pools, metrics


def wants(query_id: str, *branches: int, mean_tokens: float = 100) -> pb.ProgramWant:
    return pb.ProgramWant(
        query_id=query_id,
        pool="pool",
        calls=[pb.WantedCall(branch=branch, attempt="1.1") for branch in branches],
        query_class=2,
        mean_tokens_per_branch=mean_tokens,
    )


def test_grants_that_a_tracker_never_answered_return_when_its_conversation_ends() -> None:
    """It starts each or returns it on the same stream: only its end leaves one open, and no clock is needed."""
    pools, _ = active_pools(2)
    silent, other = pools.open_session("silent"), pools.open_session("other")
    pools.hear(silent, pb.CoordinateRequest(tracker="silent", wants=[wants("a", 0, 1)]))
    pools.hear(other, pb.CoordinateRequest(tracker="other", wants=[wants("b", 0, 1)]))
    assert (len(silent.grants), len(other.grants)) == (2, 0)

    pools.close_session(silent)

    assert [grant.query_id for grant in other.grants] == ["b", "b"]


def test_a_grant_that_comes_back_unused_goes_to_the_next() -> None:
    pools, _ = active_pools(1)
    session = pools.open_session("t")
    pools.hear(session, pb.CoordinateRequest(tracker="t", wants=[wants("a", 0), wants("b", 0)]))
    back = pb.EndedCall(query_id="a", branch=0, attempt="1.1", end=pb.CALL_END_NOT_STARTED)
    pools.hear(session, pb.CoordinateRequest(ended=[back]))

    assert [grant.query_id for grant in session.grants] == ["a", "b"]


def test_restated_calls_weigh_what_their_program_forecasts() -> None:
    pools, _ = active_pools(2, 2)
    session = pools.open_session("t")
    running = pb.RunningCall(query_id="long", branch=0, attempt="1.1", worker="w0", pool="pool")
    restatement = pb.CoordinateRequest(tracker="t", running=[running], wants=[wants("long", mean_tokens=9000)])
    pools.hear(session, restatement)
    pools.hear(session, pb.CoordinateRequest(wants=[wants("short", 0, 1, mean_tokens=100)]))

    assert [grant.worker for grant in session.grants] == ["w1", "w1"]


def test_what_is_ignored_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    pools, metrics = active_pools(1)
    session = pools.open_session("t")
    pools.hear(session, pb.CoordinateRequest(tracker="t", wants=[wants("a", 0, mean_tokens=float("nan"))]))
    end = pb.EndedCall(query_id="a", branch=0, attempt="1.1", end=pb.CALL_END_FINISHED, tokens=7)
    pools.hear(session, pb.CoordinateRequest(ended=[end, end]))

    with caplog.at_level(logging.WARNING):
        pools.report()

    for pool, reason in (("pool", IgnoredReason.IMPOSSIBLE_NUMBER), ("", IgnoredReason.UNKNOWN_CALL)):
        labels = {"pool": pool, "reason": reason.value}
        assert metrics.registry.get_sample_value(catalogue.IGNORED.name, labels) == 1
    said = [f"{vars(record)['what']}: {vars(record)['why']}" for record in caplog.records]
    assert said[0].startswith("the end of CallId(program='a', branch=0, attempt='1.1'): it runs in no pool")
    assert said[1] == "mean_tokens_per_branch nan of a: no program has that"
    pools.report()
    assert len(caplog.records) == 2, "once is enough"
