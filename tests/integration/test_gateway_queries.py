"""The gateway's internal call with a real Redis and real gRPC: what is refused, counted and repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.gateway.admission import Admission, AdmissionRules
from dynasor_serve.gateway.batches import Batches
from dynasor_serve.gateway.follower import LogFollower
from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.live_text import TrackerChannels
from dynasor_serve.gateway.pool_directory import PoolDirectory
from dynasor_serve.gateway.queries import Queries
from dynasor_serve.gateway.servicer import ReasoningServicer
from dynasor_serve.programs.query import Query, QueryId
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import ProgramLog
from dynasor_serve.state.redis_client import connect
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

from fakes.redis_process import running_redis
from fakes.scripted_scheduler import ScriptedScheduler, pool_message, scripted_scheduler

QUERY = Query(model="", rule="beta-posterior", prompt="What is it?", idempotency_key="k")
RULES = AdmissionRules(
    live_queries_per_tenant=100, live_programs_per_pool=100, queued_programs_per_shard=100, idempotency_ttl_seconds=60
)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Its inner parts."""

    queries: Queries
    pools: PoolDirectory
    scheduler: ScriptedScheduler
    metrics: Metrics

    def rejected(self) -> dict[str, float]:
        """Refusals counted so far, by reason."""
        name = catalogue.QUERIES_REJECTED.name
        families = self.metrics.registry.collect()
        return {
            each.labels["reason"]: each.value for family in families for each in family.samples if each.name == name
        }

    async def lose_workers(self) -> None:
        """The pool's workers are ready no more, and the gateway has heard of it."""
        self.scheduler.pools = [pool_message("pool", ready=0)]
        with contextlib.suppress(ServiceError):
            await self.pools.pool_for("no such model")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_redis(tmp_path) as server, scripted_scheduler() as scheduler:
        scheduler.pools = [pool_message("pool")]
        redis = connect(server.url)
        log = ProgramLog(redis, final_ttl_seconds=60)
        pools, metrics = PoolDirectory([scheduler.address], refresh_seconds=3600), Metrics("gateway")
        refreshing = asyncio.create_task(pools.run())
        admission = Admission(RULES, LivePrograms(log, refresh_seconds=3600))
        yield Gateway(Queries(log, LogFollower(redis, log), pools, metrics, admission), pools, scheduler, metrics)
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await redis.aclose()


async def reason_of(gateway: Gateway, query: Query) -> Reason:
    with pytest.raises(ServiceError) as refused:
        await gateway.queries.accept(query)
    return refused.value.reason


async def test_a_retry_finds_its_query_though_no_worker_is_ready_now(gateway: Gateway) -> None:
    first = await gateway.queries.accept(QUERY)
    await gateway.lose_workers()

    again = await gateway.queries.accept(replace(QUERY, deadline_seconds=5.0))

    assert (again.query_id, again.already_accepted) == (first.query_id, True)
    assert gateway.rejected() == {}


async def test_without_a_worker_another_query_is_refused_whatever_its_key(gateway: Gateway) -> None:
    await gateway.queries.accept(QUERY)
    await gateway.lose_workers()

    for other in (
        replace(QUERY, idempotency_key=""),
        replace(QUERY, idempotency_key="other"),
        replace(QUERY, prompt="And this?"),
        replace(QUERY, tenant="other"),
    ):
        assert await reason_of(gateway, other) is Reason.NO_READY_WORKER
    assert gateway.rejected() == {"NO_READY_WORKER": 4}


async def test_a_retry_finds_its_query_though_its_model_is_served_no_more(gateway: Gateway) -> None:
    query = replace(QUERY, model="model")
    first = await gateway.queries.accept(query)
    gateway.scheduler.pools = [pool_message("pool", model="newer")]
    assert await reason_of(gateway, replace(query, model="older", idempotency_key="")) is Reason.UNKNOWN_MODEL

    again = await gateway.queries.accept(query)

    assert again.query_id == first.query_id


async def test_only_refused_queries_count_as_rejected(gateway: Gateway) -> None:
    unknown = keys.new_query_id("default")
    for call in (
        gateway.queries.get(unknown),
        gateway.queries.get(QueryId("nonsense")),
        gateway.queries.cancel(unknown, ""),
        anext(gateway.queries.watch(unknown, 0)),
    ):
        with pytest.raises(ServiceError, match="no query"):
            await call
    assert gateway.rejected() == {}

    assert await reason_of(gateway, replace(QUERY, model="other")) is Reason.UNKNOWN_MODEL
    with pytest.raises(ServiceError, match="rule"):
        await anext(gateway.queries.run(replace(QUERY, rule="no-such-rule")))

    assert gateway.rejected() == {"UNKNOWN_MODEL": 1, "INVALID_RULE": 1}


class Context:
    """Of a call whose deadline has passed."""

    def time_remaining(self) -> float:
        return 0.0


async def test_a_caller_out_of_time_gets_no_time_of_ours(gateway: Gateway) -> None:
    batches = Batches(gateway.queries, most_in_flight=1, most_bytes_in_flight=1, patience_seconds=0.0)
    servicer = ReasoningServicer(
        gateway.queries, batches, TrackerChannels(), default_rule="even", default_deadline_seconds=600.0
    )
    request = pb.RunRequest(query=pb.Query(prompt="What is it?"))

    with pytest.raises(ServiceError) as refused:
        await anext(servicer.Run(request, Context()))  # type: ignore[arg-type]

    assert refused.value.field == "deadline"


async def test_channels_of_trackers_that_are_gone_are_closed() -> None:
    channels = TrackerChannels(most=2)
    async with channels.to("127.0.0.1:1"):
        for port in range(2, 8):
            async with channels.to(f"127.0.0.1:{port}"):
                pass
        assert len(channels) == 2, "the one in use, and the last"
    async with channels.to("127.0.0.1:1"), channels.to("127.0.0.1:2"), channels.to("127.0.0.1:3"):
        assert len(channels) >= 3, "what carries a stream stays open"
    assert len(channels) == 2
    await channels.close()
    assert len(channels) == 0
