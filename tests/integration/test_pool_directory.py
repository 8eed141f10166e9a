"""The gateway's directory of pools, with schedulers over real gRPC."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.gateway import pool_directory
from dynasor_serve.gateway.pool_directory import PoolDirectory
from dynasor_serve.local.ports import free_port
from dynasor_serve.rpc.errors import Reason, ServiceError

from fakes.scripted_scheduler import pool_message, scripted_scheduler


@asynccontextmanager
async def directory_of(*addresses: str) -> AsyncIterator[PoolDirectory]:
    """A directory that has heard of its schedulers once and will not ask again by itself."""
    directory = PoolDirectory(addresses, refresh_seconds=3600)
    task = asyncio.create_task(directory.run())
    try:
        yield directory
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def reason_for(directory: PoolDirectory, model: str) -> Reason:
    with pytest.raises(ServiceError) as refused:
        await directory.pool_for(model)
    return refused.value.reason


async def test_many_requests_for_an_unknown_model_share_a_look_at_the_schedulers() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool")]
        await directory.pool_for("model")
        scheduler.asked = 0

        began = time.monotonic()
        reasons = await asyncio.gather(*(reason_for(directory, "other") for _ in range(60)))

        assert set(reasons) == {Reason.UNKNOWN_MODEL}
        assert scheduler.asked <= 2
        assert time.monotonic() - began < 2.0


async def test_a_model_that_comes_up_is_found_at_once() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool", ready=0)]
        assert await reason_for(directory, "model") is Reason.NO_READY_WORKER

        scheduler.pools = [pool_message("pool", ready=1)]

        assert (await directory.pool_for("model")).ready_workers == 1
        assert (await directory.pool_for("")).name == "pool"


async def test_a_scheduler_that_is_gone_delays_no_answer_of_another() -> None:
    gone = f"127.0.0.1:{free_port()}"
    async with (
        scripted_scheduler() as standby,
        scripted_scheduler() as slow,
        scripted_scheduler() as active,
        directory_of(gone, standby.address, slow.address, active.address) as directory,
    ):
        standby.pools, slow.delay_seconds, active.pools = None, 2.5, [pool_message("pool")]

        began = time.monotonic()
        pool = await directory.pool_for("model")

        assert pool.name == "pool"
        assert time.monotonic() - began < 1.5


async def test_what_is_known_outlives_the_schedulers() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool")]
        await directory.pool_for("model")
        scheduler.pools = None

        assert (await directory.pool_for("model")).name == "pool"
        assert await reason_for(directory, "other") is Reason.UNKNOWN_MODEL


async def test_nothing_known_yet() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = None

        assert await reason_for(directory, "model") is Reason.SCHEDULER_UNAVAILABLE


async def test_of_two_pools_of_a_model_one_with_ready_workers_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("c"), pool_message("b"), pool_message("a", ready=0)]
        with caplog.at_level(logging.WARNING):
            chosen = [(await directory.pool_for("model")).name]
            scheduler.pools = [pool_message("c"), pool_message("b", ready=0), pool_message("a", ready=0)]
            await reason_for(directory, "other")  # looks again
            chosen.append((await directory.pool_for("model")).name)

    assert chosen == ["b", "c"]
    assert [record.getMessage() for record in caplog.records] == [
        "two pools serve one model; one with ready workers gets its queries"
    ]


# --- what a pool is


def reward_pool(*states: pb.WorkerState.ValueType, name: str = "judges") -> pb.Pool:
    """A pool of a reward model, a worker in each state."""
    workers = [
        pb.Worker(name=f"w{number}", state=state, engine="vllm-classify", message="it is gone")
        for number, state in enumerate(states)
    ]
    return pb.Pool(name=name, model="judge", workers=workers)


async def looked_again(directory: PoolDirectory) -> None:
    assert await reason_for(directory, "other") is Reason.UNKNOWN_MODEL


async def test_a_pool_stays_what_its_last_workers_were() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_READY)]
        assert (await directory.reward_pool_for("")).name == "judges"

        scheduler.pools = [pool_message("pool"), reward_pool()]
        for _ in range(2):  # the second time it is known from memory alone
            await looked_again(directory)

            assert (await directory.pool_for("")).name == "pool"
            assert await reason_for(directory, "judge") is Reason.UNKNOWN_MODEL
            with pytest.raises(ServiceError, match="pool 'judges' has no worker") as refused:
                await directory.reward_pool_for("judge")
            assert refused.value.reason is Reason.NO_READY_WORKER


async def test_a_pool_that_never_had_a_worker_generates_nothing_and_judges_nothing() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool()]

        assert (await directory.pool_for("")).name == "pool"
        assert await reason_for(directory, "judge") is Reason.NO_READY_WORKER, "whoever names it is told to wait"
        assert directory.only_reward_pool is None

        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_READY)]

        assert await reason_for(directory, "judge") is Reason.UNKNOWN_MODEL
        assert (await directory.reward_pool_for("judge")).name == "judges"


async def test_the_only_pool_may_wait_for_its_first_worker() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pb.Pool(name="pool", model="model")]

        assert await reason_for(directory, "") is Reason.NO_READY_WORKER


@pytest.mark.parametrize(
    "states",
    [
        (pb.WORKER_STATE_READY,),
        (pb.WORKER_STATE_STARTING,),
        (pb.WORKER_STATE_QUARANTINED, pb.WORKER_STATE_STARTING),
    ],
)
async def test_the_only_reward_pool_judges_by_default_while_it_can(
    states: tuple[pb.WorkerState.ValueType, ...],
) -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_READY, name="a"), reward_pool(*states)]
        await directory.pool_for("model")
        scheduler.pools = [pool_message("pool"), reward_pool(name="a"), reward_pool(*states)]
        await looked_again(directory)

        assert directory.only_reward_pool is not None
        assert directory.only_reward_pool.name == "judges"


@pytest.mark.parametrize("state", [pb.WORKER_STATE_QUARANTINED, pb.WORKER_STATE_DRAINING])
async def test_a_default_judge_that_is_dead_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, state: pb.WorkerState.ValueType
) -> None:
    monkeypatch.setattr(pool_directory, "_DEAD_AFTER_SECONDS", 0.0)
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool(state)]
        await directory.pool_for("model")

        with pytest.raises(ServiceError, match=r"pool 'judges' is ready: it is gone; .* reward\.source own") as refused:
            _ = directory.only_reward_pool

    assert refused.value.reason is Reason.NO_READY_WORKER


async def test_a_default_judge_may_be_in_quarantine_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_directory, "_DEAD_AFTER_SECONDS", 3600.0)
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_QUARANTINED)]
        await directory.pool_for("model")
        assert directory.only_reward_pool is not None

        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_READY)]
        await looked_again(directory)
        monkeypatch.setattr(pool_directory, "_DEAD_AFTER_SECONDS", 0.0)
        assert directory.only_reward_pool is not None, "what was before its recovery counts no longer"


async def test_a_reward_pool_that_is_removed_judges_no_longer_by_default() -> None:
    async with scripted_scheduler() as scheduler, directory_of(scheduler.address) as directory:
        scheduler.pools = [pool_message("pool"), reward_pool(pb.WORKER_STATE_READY)]
        await directory.pool_for("model")
        scheduler.pools = [pool_message("pool"), reward_pool()]
        await looked_again(directory)

        assert directory.only_reward_pool is None
