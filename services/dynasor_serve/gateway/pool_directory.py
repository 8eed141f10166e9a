"""Which pools exist, as the active scheduler says; remembered, so that a scheduler's fail-over refuses no query."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

_REWARD_KINDS = frozenset(kind.value for kind in EngineKind if kind.is_reward)
_CALL_SECONDS = 3.0
_SHORTEST_REFRESH_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class KnownPool:
    """A pool as the gateway needs it."""

    name: str
    model: str
    ready_workers: int
    workers: int
    max_model_len: int  # tokens; 0 where unknown
    trouble: str  # what the workers say that are not ready
    gives_rewards: bool = False  # it serves a reward model


class PoolDirectory:
    """The scheduler's pools, refreshed in the background and, when a model is unknown or has no worker, at once."""

    def __init__(self, schedulers: Sequence[str], refresh_seconds: float) -> None:
        self._channels = [open_channel(address) for address in schedulers]
        self._refresh_seconds = refresh_seconds
        self._pools: dict[str, KnownPool] = {}  # model -> pool
        self._reward_pools: dict[str, KnownPool] = {}  # reward model -> pool
        self._refreshed_at = float("-inf")
        self._is_known = False
        self._contested: set[str] = set()  # models of more than one pool, as far as that has been logged
        self._refreshing = asyncio.Lock()

    async def run(self) -> None:
        """Refreshes until cancelled."""
        try:
            while True:
                await self._refresh()
                await asyncio.sleep(self._refresh_seconds)
        finally:
            for channel in self._channels:
                await channel.close()

    async def pool_for(self, model: str) -> KnownPool:
        """The pool of a model; the only pool where the model is empty.

        Raises:
            ServiceError: UNKNOWN_MODEL, NO_READY_WORKER, or SCHEDULER_UNAVAILABLE where nothing is known yet.
        """
        return await self._ready(lambda: self._pools, model, "model")

    async def reward_pool_for(self, model: str) -> KnownPool:
        """The pool of a reward model; the only one where the model is empty. Raises as `pool_for`."""
        return await self._ready(lambda: self._reward_pools, model, "reward.model")

    @property
    def only_reward_pool(self) -> KnownPool | None:
        """The reward pool, where there is exactly one."""
        return next(iter(self._reward_pools.values())) if len(self._reward_pools) == 1 else None

    async def _ready(self, known: Callable[[], dict[str, KnownPool]], model: str, field: str) -> KnownPool:
        pool = _find(known(), model)
        if pool is None or not pool.ready_workers:
            await self._refresh()
            pool = _find(known(), model)
        if not self._is_known:
            message = "no scheduler has answered yet, so no pool is known; try again"
            raise ServiceError(Reason.SCHEDULER_UNAVAILABLE, message, retry_after_seconds=1.0)
        if pool is None:
            served = ", ".join(sorted(known())) or "none yet"
            wrong = (
                f"no pool serves the model {model!r}" if model else "the model is not named and there is not one pool"
            )
            raise ServiceError(Reason.UNKNOWN_MODEL, f"{wrong}; served are: {served}", field=field)
        if not pool.ready_workers:
            message = f"none of the {pool.workers} workers of pool {pool.name!r} is ready: {pool.trouble or 'starting'}"
            raise ServiceError(Reason.NO_READY_WORKER, message, retry_after_seconds=2.0)
        return pool

    async def _refresh(self) -> None:
        """Asks the schedulers; those who ask while that goes on share its result."""
        asked_at = time.monotonic()
        async with self._refreshing:
            if self._refreshed_at > asked_at:
                return
            await asyncio.sleep(self._refreshed_at + _SHORTEST_REFRESH_SECONDS - time.monotonic())
            asking = [asyncio.create_task(_listed(channel)) for channel in self._channels]
            try:
                for answer in asyncio.as_completed(asking):
                    pools = await answer
                    if pools is not None:
                        self._take(pools)
                        break
            finally:
                for task in asking:
                    task.cancel()
                self._refreshed_at = time.monotonic()

    def _take(self, pools: list[KnownPool]) -> None:
        pools.sort(key=lambda pool: (pool.model, not pool.ready_workers, pool.name))
        self._pools, self._reward_pools = {}, {}
        for pool in pools:
            of_its_kind = self._reward_pools if pool.gives_rewards else self._pools
            first = of_its_kind.setdefault(pool.model, pool)
            if first is not pool and pool.model not in self._contested:
                self._contested.add(pool.model)
                extra = {"model": pool.model, "pools": f"{first.name}, {pool.name}", "chosen": first.name}
                logger.warning("two pools serve one model; one with ready workers gets its queries", extra=extra)
        self._is_known = True


def _find(pools: dict[str, KnownPool], model: str) -> KnownPool | None:
    if not model and len(pools) == 1:
        return next(iter(pools.values()))
    return pools.get(model)


async def _listed(channel: grpc.aio.Channel) -> list[KnownPool] | None:
    """The pools that a scheduler lists; None where it does not."""
    try:
        # A scheduler that starts or restarts is waited for: a refusal would be the caller's trouble.
        response = await SchedulerServiceStub(channel).ListPools(
            pb.ListPoolsRequest(), timeout=_CALL_SECONDS, wait_for_ready=True
        )
    except grpc.aio.AioRpcError as error:
        logger.debug("a scheduler does not list pools", extra={"cause": error.details()})
        return None
    return list(map(_known, response.pools))


def _known(pool: pb.Pool) -> KnownPool:
    return KnownPool(
        name=pool.name,
        model=pool.model,
        ready_workers=sum(worker.state == pb.WORKER_STATE_READY for worker in pool.workers),
        workers=len(pool.workers),
        max_model_len=pool.max_model_len,
        trouble="; ".join(worker.message for worker in pool.workers if worker.message)[:500],
        gives_rewards=any(worker.engine in _REWARD_KINDS for worker in pool.workers),
    )
