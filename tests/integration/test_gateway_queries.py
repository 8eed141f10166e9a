"""The gateway's internal call with a real Redis and real gRPC: what is refused, counted and repeated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb_scheduler
from dynasor_serve.gateway.admission import Admission, AdmissionRules
from dynasor_serve.gateway.batches import Batches
from dynasor_serve.gateway.follower import LogFollower
from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.live_text import TrackerChannels
from dynasor_serve.gateway.pool_directory import PoolDirectory
from dynasor_serve.gateway.queries import Queries
from dynasor_serve.gateway.servicer import ReasoningServicer
from dynasor_serve.programs.query import Query, QueryClass, QueryId
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


@contextlib.asynccontextmanager
async def gateway_of(tmp_path: Path, rules: AdmissionRules) -> AsyncIterator[Gateway]:
    async with running_redis(tmp_path) as server, scripted_scheduler() as scheduler:
        scheduler.pools = [pool_message("pool")]
        redis = connect(server.url)
        log = ProgramLog(redis, final_ttl_seconds=60)
        pools, metrics = PoolDirectory([scheduler.address], refresh_seconds=3600), Metrics("gateway")
        refreshing = asyncio.create_task(pools.run())
        admission = Admission(rules, LivePrograms(log, refresh_seconds=3600))
        yield Gateway(Queries(log, LogFollower(redis, log), pools, metrics, admission), pools, scheduler, metrics)
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await redis.aclose()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway_of(tmp_path, RULES) as running:
        yield running


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


# --- overload


def busy(**demand: float) -> pb_scheduler.Pool:
    """A pool whose only place runs a call, each of which takes 2 s."""
    fields: dict[str, float] = {"tokens_per_second_per_worker": 50, "ready_workers": 1, "places": 1, "running_calls": 1}
    fields |= {"arrivals_per_second": 1, "arriving_tokens_per_second": 100, "seconds_per_call": 2, **demand}
    pool = pool_message("pool")
    pool.demand.CopyFrom(pb_scheduler.PoolDemand(**fields))  # type: ignore[arg-type]
    return pool


async def told(gateway: Gateway, pool: pb_scheduler.Pool) -> None:
    """The gateway has heard of it."""
    gateway.scheduler.pools = [pool]
    with contextlib.suppress(ServiceError):
        await gateway.pools.pool_for("no such model")


async def test_what_cannot_end_in_time_is_refused_and_a_repetition_is_not(gateway: Gateway) -> None:
    query = replace(QUERY, deadline_seconds=5.0)
    first = await gateway.queries.accept(query)
    await told(gateway, busy(predicted_wait_seconds=9.0, predicted_wait_interactive_seconds=1.0))

    with pytest.raises(ServiceError) as refused:
        await gateway.queries.accept(replace(query, idempotency_key="another"))
    again = await gateway.queries.accept(query)
    urgent = await gateway.queries.accept(replace(query, query_class=QueryClass.INTERACTIVE, idempotency_key="urgent"))

    assert refused.value.reason is Reason.DEADLINE_UNREACHABLE
    assert refused.value.retry_after_seconds == pytest.approx(9.0 + 2.0 - 5.0)
    assert (again.query_id, again.already_accepted) == (first.query_id, True)
    assert not urgent.already_accepted
    assert gateway.rejected() == {"DEADLINE_UNREACHABLE": 1}


async def test_a_burst_between_two_looks_is_admitted_as_far_as_it_can_end_in_time(gateway: Gateway) -> None:
    await told(gateway, busy())
    query = replace(QUERY, idempotency_key="", deadline_seconds=20.0)

    results = await asyncio.gather(*(gateway.queries.accept(query) for _ in range(20)), return_exceptions=True)

    refused = [result for result in results if isinstance(result, ServiceError)]
    # Each begins with four calls: three of them take 24 s.
    assert (len(results) - len(refused), {error.reason for error in refused}) == (3, {Reason.DEADLINE_UNREACHABLE})
    snapshots, _ = await gateway.queries.list(query.tenant, 0, 50)
    assert len(snapshots) == 3


async def test_a_refusal_leaves_no_trace_in_what_is_predicted(gateway: Gateway) -> None:
    await told(gateway, busy())
    conflicting = replace(QUERY, prompt="Something else?")
    await gateway.queries.accept(replace(QUERY, query_class=QueryClass.BATCH))
    for _ in range(50):
        assert await reason_of(gateway, conflicting) is Reason.IDEMPOTENCY_CONFLICT

    accepted = await gateway.queries.accept(replace(QUERY, idempotency_key="", deadline_seconds=3.5))

    assert not accepted.already_accepted


async def test_a_full_pool_leaves_room_for_urgent_queries_of_any_tenant(gateway: Gateway) -> None:
    """The bound is 100: batch queries fill 80, standard ones 90."""

    refused: list[ServiceError] = []

    async def accepted(query_class: QueryClass) -> int:
        number = 0
        while True:
            query = replace(QUERY, idempotency_key="", query_class=query_class, tenant=f"tenant-{number % 7}")
            try:
                await gateway.queries.accept(query)
            except ServiceError as error:
                refused.append(error)
                return number
            number += 1

    assert [await accepted(each) for each in (QueryClass.BATCH, QueryClass.STANDARD, QueryClass.INTERACTIVE)] == [
        80, 10, 10,
    ]  # fmt: skip
    assert {error.reason for error in refused} == {Reason.POOL_FULL}
    assert [str(error).partition(";")[0] for error in refused] == [
        f"pool 'pool' has {number} live queries" for number in (80, 90, 100)
    ]


async def test_a_tenant_without_tokens_is_told_when_its_window_ends(tmp_path: Path) -> None:
    rules = replace(RULES, tenant_budgets={"poor": 600}, budget_window_seconds=3600)
    async with gateway_of(tmp_path, rules) as gateway:
        poor = replace(QUERY, idempotency_key="", tenant="poor")
        for _ in range(2):
            await gateway.queries.accept(poor)  # each may take a call of 512 tokens

        with pytest.raises(ServiceError) as refused:
            await gateway.queries.accept(poor)
        await gateway.queries.accept(replace(poor, tenant="rich"))

    assert refused.value.reason is Reason.TENANT_BUDGET_SPENT
    assert refused.value.retry_after_seconds is not None
    assert 0 < refused.value.retry_after_seconds <= 3600
    assert "1024 completion tokens of its 600 per 3600 s" in str(refused.value)


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
