"""The gateway's internal call, behind every face: accept a query, follow it, read it, cancel it.

Works on domain values; `servicer` is its gRPC face. Raises `ServiceError` and nothing else that a caller should see.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace

import msgspec

from dynasor_serve.certaindex.rules.registry import parse_chain_rule, parse_rule
from dynasor_serve.certaindex.rules.rule import ChainRule, InvalidRule
from dynasor_serve.gateway.admission import Admission
from dynasor_serve.gateway.follower import LogFollower, Tail
from dynasor_serve.gateway.pool_directory import KnownPool, PoolDirectory
from dynasor_serve.programs.algorithm import AlgorithmParameters
from dynasor_serve.programs.events import Accepted, Finished, Phase
from dynasor_serve.programs.query import (
    TOKENS_OF_THE_POOL,
    InvalidQuery,
    Query,
    QueryId,
    RewardParameters,
    RewardSource,
    validated,
)
from dynasor_serve.programs.registry import parse_algorithm
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state import keys
from dynasor_serve.state.program_log import AcceptStatus, ProgramLog, Snapshot
from dynasor_serve.state.records import CorruptRecord, Record
from dynasor_serve.state.redis_client import StateFull, StateUnavailable
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Receipt:
    """An accepted query."""

    query_id: QueryId
    first: Record | None  # of its log, where it is a new one

    @property
    def already_accepted(self) -> bool:
        """Whether it was accepted before, under the same idempotency key."""
        return self.first is None


class Queries:
    """All queries, as clients see them."""

    def __init__(
        self, log: ProgramLog, follower: LogFollower, pools: PoolDirectory, metrics: Metrics, admission: Admission
    ) -> None:
        self._log = log
        self._follower = follower
        self._pools = pools
        self._metrics = metrics
        self._admission = admission

    async def accept(self, query: Query) -> Receipt:
        """Accepts a query; once this returns, nothing loses it."""
        return await self._accepted(keys.new_query_id(query.tenant), query)

    async def run(self, query: Query) -> AsyncIterator[tuple[QueryId, int, Record]]:
        """Accepts a query and follows it: (id, sequence, record) up to the final record."""
        query_id = keys.new_query_id(query.tenant)
        with self._tail(query_id, 1) as tail:
            receipt = await self._accepted(query_id, query)
            if receipt.first is not None:
                yield query_id, 0, receipt.first
                async for sequence, record in self._followed(tail, query, read_first=False):
                    yield query_id, sequence, record
                return
        async for sequence, record in self.watch(receipt.query_id, 0):
            yield receipt.query_id, sequence, record

    async def watch(self, query_id: QueryId, from_sequence: int) -> AsyncIterator[tuple[int, Record]]:
        """Follows a query from a sequence number to its final record."""
        snapshot = await self.get(query_id)
        if not 0 <= from_sequence <= snapshot.length:
            message = f"from_sequence is {from_sequence}; the query has {snapshot.length} events so far; give 0 to that"
            raise ServiceError(Reason.INVALID_QUERY, message, field="from_sequence")
        if snapshot.phase.is_final and from_sequence == snapshot.length:
            return
        with self._tail(query_id, from_sequence) as tail:
            async for sequence, record in self._followed(tail, _query_of(snapshot.first), read_first=True):
                yield sequence, record

    async def get(self, query_id: QueryId) -> Snapshot:
        """The query as it stands."""
        with _typed():
            if not keys.is_query_id(query_id):
                raise _unknown(query_id)
            (snapshot,) = await self._log.snapshots([query_id])
            if snapshot is None:
                raise _unknown(query_id)
            if isinstance(snapshot, CorruptRecord):
                raise snapshot
            return snapshot

    async def tracker_address(self, query_id: QueryId) -> str:
        """Where the owner of a running query listens; empty where it has none."""
        with _typed():
            entry = await self._log.entry(query_id)
        return entry.address if entry is not None and entry.phase is Phase.RUNNING else ""

    async def list(self, tenant: str, offset: int, count: int) -> tuple[list[Snapshot], bool]:
        """A tenant's queries, newest first, without those that have expired, and whether there are more."""
        with _typed():
            ids = await self._log.list_tenant(tenant, offset, count + 1)
            found = await self._log.snapshots(ids[:count])
        for query_id, snapshot in zip(ids, found, strict=False):
            if isinstance(snapshot, CorruptRecord):
                logger.error("a query's log cannot be read", extra={"query_id": query_id, "cause": str(snapshot)})
        return [snapshot for snapshot in found if isinstance(snapshot, Snapshot)], len(ids) > count

    async def cancel(self, query_id: QueryId, reason: str) -> Phase:
        """Asks a query to end. Returns its phase after that; asking again changes nothing."""
        with _typed():
            phase = await self._log.cancel(query_id, reason[:256], _now_ms()) if keys.is_query_id(query_id) else None
        if phase is None:
            raise _unknown(query_id)
        return phase

    # --- steps ---

    async def _accepted(self, query_id: QueryId, query: Query) -> Receipt:
        """Accepts a query under this id, or finds the one that its idempotency key stands for. Counts refusals."""
        try:
            with _typed():
                fingerprint = _fingerprint(query) if query.idempotency_key else ""
                try:
                    admitted, pool, calls = await self._admitted(query)
                    self._admission.check_deadline(admitted, pool, time.monotonic())
                except (ServiceError, InvalidQuery):
                    # What would be refused now may have been accepted before, and have an answer.
                    earlier = await self._log.find_idempotent(query.tenant, query.idempotency_key, fingerprint)
                    if earlier is None:
                        raise
                    return Receipt(earlier, first=None)
                return await self._accept(query_id, admitted, pool, calls, fingerprint)
        except ServiceError as error:
            self._metrics.increment(catalogue.QUERIES_REJECTED, reason=error.reason.value)
            raise

    async def _admitted(self, query: Query) -> tuple[Query, KnownPool, int]:
        """The query as it will run, its pool, and how many calls it begins with."""
        parameters = parse_algorithm(query.algorithm)
        chosen = query.sampling.max_tokens != TOKENS_OF_THE_POOL
        if not chosen:
            query = _with_max_tokens(query, parameters.tokens_of(query))
        validated(query)
        pool = await self._pools.pool_for(query.model)
        tokens, context = query.sampling.max_tokens, pool.max_model_len
        if context and tokens >= context:
            if chosen:
                right = f"model {pool.model!r} has a context of {context} tokens, prompt included; ask for fewer"
                raise InvalidQuery("sampling.max_tokens", f"is {tokens}", right)
            query = _with_max_tokens(query, max(1, context // 2))
        query = replace(query, model=pool.model, reward=await self._reward(query, parameters))
        chain_rule = query.chain_rule and str(_chain_rule(query.chain_rule))
        program = parameters.start(query)  # refuses what does not fit
        wanted = program.wanted(frozenset())
        calls = len(wanted) - program.speculative(wanted)
        return replace(query, rule=str(parse_rule(query.rule)), chain_rule=chain_rule), pool, calls

    async def _reward(self, query: Query, parameters: AlgorithmParameters) -> RewardParameters | None:
        """Who judges: as asked for; else the only reward model that is deployed; else the model itself."""
        reward = query.reward
        if not parameters.needs_reward:
            if reward is not None:
                raise InvalidQuery("reward", f"is set, and {parameters.name} judges no paths", "leave it out")
            return None
        if reward is None:
            pool = self._pools.only_reward_pool
            if pool is None:
                return RewardParameters()
            return RewardParameters(RewardSource.MODEL, pool=pool.name, model=pool.model)
        if reward.source is not RewardSource.MODEL:
            return reward
        pool = await self._pools.reward_pool_for(reward.model)
        return replace(reward, pool=pool.name, model=pool.model)

    async def _accept(self, query_id: QueryId, query: Query, pool: KnownPool, calls: int, fingerprint: str) -> Receipt:
        event = Accepted(query=query, pool=pool.name, accepted_at_ms=_now_ms())
        shard, status = keys.shard_of(query_id), None
        limits = self._admission.limits(query, pool, shard)
        self._admission.enter(query, pool, shard, calls)
        try:
            acceptance = await self._log.accept(query_id, event, fingerprint, limits)
            status = acceptance.status
        finally:
            if status is not AcceptStatus.ACCEPTED:
                self._admission.leave(query, pool, shard, calls)
        match status:
            case AcceptStatus.ACCEPTED:
                self._metrics.increment(
                    catalogue.QUERIES_ACCEPTED, algorithm=_name(query), query_class=query.query_class.value
                )
            case AcceptStatus.CONFLICT:
                message = (
                    f"the idempotency key {query.idempotency_key!r} belongs to another query, {acceptance.query_id}; "
                    "use a new key"
                )
                raise ServiceError(Reason.IDEMPOTENCY_CONFLICT, message, field="idempotency_key")
            case AcceptStatus.DUPLICATE:
                pass
            case _:
                raise self._admission.refusal(acceptance, query, pool, shard)
        first = None if status is AcceptStatus.DUPLICATE else Record(event, event.accepted_at_ms)
        return Receipt(acceptance.query_id, first)

    async def _followed(self, tail: Tail, query: Query, *, read_first: bool) -> AsyncIterator[tuple[int, Record]]:
        async for sequence, record in tail.records(read_first=read_first):
            if isinstance(record.event, Finished):
                self._metrics.observe(
                    catalogue.QUERY_SECONDS,
                    record.event.outcome.latency_seconds,
                    algorithm=_name(query),
                    query_class=query.query_class.value,
                )
            yield sequence, record

    @contextlib.contextmanager
    def _tail(self, query_id: QueryId, from_sequence: int) -> Iterator[Tail]:
        tail = self._follower.open(query_id, from_sequence)
        self._metrics.set(catalogue.WATCHERS, self._follower.watchers)
        try:
            yield tail
        finally:
            self._follower.close(query_id, tail)
            self._metrics.set(catalogue.WATCHERS, self._follower.watchers)


@contextlib.contextmanager
def _typed() -> Iterator[None]:
    """Turns what may go wrong into the one error that faces know."""
    try:
        yield
    except InvalidQuery as error:
        raise ServiceError(Reason.INVALID_QUERY, str(error), field=error.field) from error
    except InvalidRule as error:
        raise ServiceError(Reason.INVALID_RULE, str(error), field=f"policy.{error.field}") from error
    except StateFull as error:
        raise ServiceError(Reason.STATE_FULL, str(error), retry_after_seconds=_TRY_AGAIN_SECONDS) from error
    except StateUnavailable as error:
        raise ServiceError(Reason.STATE_UNAVAILABLE, str(error), retry_after_seconds=_TRY_AGAIN_SECONDS) from error
    except CorruptRecord as error:
        raise ServiceError(Reason.INTERNAL, f"the query's log cannot be read: {error}") from error


def _chain_rule(type_string: str) -> ChainRule:
    """The rule for chains. Raises `InvalidRule` under its own name."""
    try:
        return parse_chain_rule(type_string)
    except InvalidRule as error:
        raise InvalidRule(f"chain_{error.field}", error.problem, error.remedy) from error


def _fingerprint(query: Query) -> str:
    """What makes two queries the same, as they are asked. Not the deadline: a retry has less of the caller's own."""
    content = msgspec.json.encode(replace(query, deadline_seconds=0.0), order="deterministic")
    return hashlib.sha256(content).hexdigest()


def _with_max_tokens(query: Query, max_tokens: int) -> Query:
    return replace(query, sampling=replace(query.sampling, max_tokens=max_tokens))


def _name(query: Query) -> str:
    """The algorithm's, as metrics carry it."""
    return query.algorithm.partition(":")[0]


def _query_of(first: Record) -> Query:
    assert isinstance(first.event, Accepted)
    return first.event.query


def _unknown(query_id: str) -> ServiceError:
    message = f"no query {query_id[:64]!r} is known; it may have expired, or the id is mistyped"
    return ServiceError(Reason.UNKNOWN_QUERY, message, field="query_id")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
