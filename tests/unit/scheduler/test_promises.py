"""The scheduler's settings for fairness: read, refused where they cannot be, and kept by every pool that it serves."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduler.pools import Pools
from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.telemetry.metrics import Metrics


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty command line."""
    monkeypatch.setattr(sys, "argv", ["process"])


def test_promises_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_SCHEDULER_TRICKLE_GRANTS", "20")
    monkeypatch.setenv("DYNASOR_SCHEDULER_LONGEST_WAIT_SHARES", "4.5")
    monkeypatch.setenv("DYNASOR_SCHEDULER_LONGEST_WAIT_SECONDS", "90")
    monkeypatch.setenv("DYNASOR_SCHEDULER_TENANT_WEIGHTS", '{"paying": 3, "trying": 0.5}')

    fairness = SchedulerSettings.read().fairness

    assert fairness == Fairness(
        longest_wait_seconds=90.0,
        longest_wait_shares=4.5,
        trickle_grants=20,
        tenant_weights={"paying": 3.0, "trying": 0.5},
    )


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("TRICKLE_GRANTS", "7", "greater than or equal to 8"),
        ("LONGEST_WAIT_SHARES", "0.5", "greater than or equal to 1"),
        ("LONGEST_WAIT_SHARES", "nan", "greater than or equal to 1"),
        ("LONGEST_WAIT_SECONDS", "0", "greater than 0"),
        ("TENANT_WEIGHTS", '{"free": 0}', "greater than or equal to 0.001"),
        ("TENANT_WEIGHTS", '{"all": Infinity}', "less than or equal to 1000"),
        ("TENANT_WEIGHTS", '{"odd": NaN}', "less than or equal to 1000"),
    ],
)
def test_promises_that_cannot_be_kept_are_refused(
    name: str, value: str, right: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"DYNASOR_SCHEDULER_{name}", value)

    with pytest.raises(SystemExit):
        SchedulerSettings.read()

    said = capsys.readouterr().err
    assert name.lower() in said
    assert right in said


def test_a_pool_shares_its_places_by_the_tenants_weights() -> None:
    fairness = Fairness(tenant_weights={"paying": 3.0})
    pools = Pools(ordering="fair-virtual-time", fairness=fairness, metrics=Metrics("scheduler"))
    pools.epoch = 1
    pools.register("pool", "model", "w0", "http://w0", "replay", 8)
    pools.health("pool", "w0", True, "")
    session = pools.open_session("t")

    wants = [
        pb.ProgramWant(
            query_id=tenant,
            pool="pool",
            calls=[pb.WantedCall(branch=branch, attempt="1.1") for branch in range(20)],
            query_class=2,
            tenant=tenant,
            mean_tokens_per_branch=100,
        )
        for tenant in ("trying", "paying")
    ]
    pools.hear(session, pb.CoordinateRequest(tracker="t", wants=wants))

    assert Counter(grant.query_id for grant in session.grants) == {"paying": 6, "trying": 2}
