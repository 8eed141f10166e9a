"""Which pools exist, as the active scheduler says; remembered, so that a scheduler's fail-over refuses no query."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import grpc

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.engines.probe import EngineKind
from dynasor_serve.gateway.pool_load import PoolLoad, load_from
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

_REWARD_KINDS = frozenset(kind.value for kind in EngineKind if kind.is_reward)
_CALL_SECONDS = 3.0
_SHORTEST_REFRESH_SECONDS = 0.2
# Workers that failed calls are in quarantine until they answer the next health check; what is down for longer is dead.
_DEAD_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class KnownPool:
    """A pool as the gateway needs it."""

    name: str
    model: str
    ready_workers: int
    workers: int
    max_model_len: int  # tokens; 0 where unknown
    trouble: str  # what the workers say that are not ready
    is_down: bool  # no worker is ready, and none is about to be
    gives_rewards: bool | None  # it serves a reward model; None where no worker of it was ever seen
    load: PoolLoad | None = None  # None where the scheduler does not tell


class PoolDirectory:
    """The scheduler's pools, refreshed in the background and, when a model is unknown or has no worker, at once."""

    def __init__(self, schedulers: Sequence[str], refresh_seconds: float) -> None:
        self._channels = [open_channel(address) for address in schedulers]
        self._refresh_seconds = refresh_seconds
        self._pools: dict[str, KnownPool] = {}  # model -> pool
        self._reward_pools: dict[str, KnownPool] = {}  # reward model -> pool
        self._untold_pools: dict[str, KnownPool] = {}  # model -> pool of which it is not known what it gives
        self._gives_rewards: dict[str, bool | None] = {}  # pool name -> as its latest workers told
        self._down_since: dict[str, float] = {}  # name of a pool that is down -> since when that is known [s]
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
        """The reward pool, where exactly one is deployed; one whose workers are all gone is not.

        Raises:
            ServiceError: NO_READY_WORKER where it is dead: whatever it is to judge would wait for it.
        """
        deployed = [pool for pool in self._reward_pools.values() if pool.workers]
        if len(deployed) != 1:
            return None
        down_since = self._down_since.get(deployed[0].name)
        if down_since is not None and time.monotonic() - down_since >= _DEAD_AFTER_SECONDS:
            raise _not_ready(deployed[0], "; to do without the reward model, ask with reward.source own")
        return deployed[0]

    async def _ready(self, known: Callable[[], dict[str, KnownPool]], model: str, field: str) -> KnownPool:
        pool = self._found(known(), model)
        if pool is None or not pool.ready_workers:
            await self._refresh()
            pool = self._found(known(), model)
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
            raise _not_ready(pool)
        return pool

    def _found(self, pools: dict[str, KnownPool], model: str) -> KnownPool | None:
        if model:
            return pools.get(model) or self._untold_pools.get(model)
        candidates = list((pools or self._untold_pools).values())
        return candidates[0] if len(candidates) == 1 else None

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
        pools.sort(key=lambda pool: (pool.model, not pool.ready_workers, not pool.workers, pool.name))
        pools = [
            pool if pool.workers else replace(pool, gives_rewards=self._gives_rewards.get(pool.name)) for pool in pools
        ]
        self._gives_rewards = {pool.name: pool.gives_rewards for pool in pools}
        now = time.monotonic()
        self._down_since = {pool.name: self._down_since.get(pool.name, now) for pool in pools if pool.is_down}
        self._pools, self._reward_pools, self._untold_pools = {}, {}, {}
        of_its_kind = {True: self._reward_pools, False: self._pools, None: self._untold_pools}
        for pool in pools:
            first = of_its_kind[pool.gives_rewards].setdefault(pool.model, pool)
            if first is not pool and pool.model not in self._contested:
                self._contested.add(pool.model)
                extra = {"model": pool.model, "pools": f"{first.name}, {pool.name}", "chosen": first.name}
                logger.warning("two pools serve one model; one with ready workers gets its queries", extra=extra)
        self._is_known = True


def _not_ready(pool: KnownPool, remedy: str = "") -> ServiceError:
    if pool.workers:
        wrong = f"none of the {pool.workers} workers of pool {pool.name!r} is ready: {pool.trouble or 'starting'}"
    else:
        wrong = f"pool {pool.name!r} has no worker"
    return ServiceError(Reason.NO_READY_WORKER, wrong + remedy, retry_after_seconds=2.0)


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
    told_at = time.monotonic()
    return [_known(pool, told_at) for pool in response.pools]


def _known(pool: pb.Pool, told_at: float) -> KnownPool:
    states = {worker.state for worker in pool.workers}
    return KnownPool(
        name=pool.name,
        model=pool.model,
        ready_workers=sum(worker.state == pb.WORKER_STATE_READY for worker in pool.workers),
        workers=len(pool.workers),
        max_model_len=pool.max_model_len,
        trouble="; ".join(worker.message for worker in pool.workers if worker.message)[:500],
        is_down=not states & {pb.WORKER_STATE_READY, pb.WORKER_STATE_STARTING},
        gives_rewards=any(worker.engine in _REWARD_KINDS for worker in pool.workers) if pool.workers else None,
        load=load_from(pool.demand, told_at) if pool.HasField("demand") else None,
    )
