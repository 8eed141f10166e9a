"""Programs in Redis: accepted by gateways, claimed and written by trackers, followed by anyone.

Each method is one atomic step (a Lua script) that may be sent twice. Raises `StateUnavailable` and `StateFull`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis
from redis.exceptions import RedisError

from dynasor_serve.programs.budget import tokens_of_one
from dynasor_serve.programs.events import Accepted, CancelRequested, Finished, Phase, StopReason
from dynasor_serve.programs.program import ended_without_evidence
from dynasor_serve.programs.query import QueryClass, QueryId
from dynasor_serve.state import keys, records
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.records import CorruptRecord, Record
from dynasor_serve.state.redis_client import Script, translated
from dynasor_serve.state.shared_connection import SharedConnection

# How much later than a standard query a class is claimed when trackers are short. A delay, not a rank, so that none
# starves.
CLASS_DELAY_MS = {QueryClass.INTERACTIVE: -60_000, QueryClass.STANDARD: 0, QueryClass.BATCH: 120_000}

# Of logs that one claim brings, or one log more. All of a tracker's commands wait behind the reply, lease renewals too.
MOST_CLAIMED_BYTES = 32 << 20


class AcceptStatus(StrEnum):
    """What became of a query offered for acceptance."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the idempotency key's first query, with the same content
    CONFLICT = "conflict"  # the same key with other content
    TENANT_FULL = "tenant-full"
    QUEUE_FULL = "queue-full"
    POOL_FULL = "pool-full"
    BUDGET_SPENT = "budget-spent"


class AppendStatus(StrEnum):
    """What became of an append."""

    OK = "ok"
    FENCED = "fenced"  # another tracker has the program, or it is final
    BEHIND = "behind"  # somebody appended in between


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """What a tenant may spend: completion tokens in each window of so many seconds."""

    tokens: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that acceptance enforces."""

    live_queries_per_tenant: int
    queued_programs_per_shard: int
    idempotency_ttl_seconds: int
    live_programs_of_pool: int = 1_000_000_000  # in the query's shard
    budget: TokenBudget | None = None  # of the tenant


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What became of a query offered for acceptance.

    Attributes:
        query_id: of the query, or of the earlier one under its idempotency key; empty where it is refused.
        present: of a refusal, the figure that has reached its bound.
        window_seconds_left: of BUDGET_SPENT, until the tenant's next window.
    """

    status: AcceptStatus
    query_id: QueryId
    present: int = 0
    window_seconds_left: float = 0.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A program that a tracker has taken, with its log up to the claim itself."""

    query_id: QueryId
    epoch: int
    lines: tuple[bytes, ...]

    def records(self) -> list[Record]:
        """The log. Raises `CorruptRecord`; one unreadable program must not stop the claim of others."""
        return [records.decode(line) for line in self.lines]


def is_full(claims: Sequence[Claim], most_bytes: int = MOST_CLAIMED_BYTES) -> bool:
    """Whether a claim ended because its logs are as large as one may bring: there may be more to claim."""
    return sum(len(line) for claim in claims for line in claim.lines) >= most_bytes


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an append; `newer` holds the records to fold first when it is behind."""

    status: AppendStatus
    newer: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """A program that a tracker holds, as it tells Redis.

    The difference of the two sums is lost with the tracker. The scripts take it from what the log tells of by then, so
    that an append which was on its way when this was said is not counted twice.

    Attributes:
        generated_tokens: completion tokens of the program, those of running calls and of earlier owners included.
        booked_tokens: those of them that the log tells of, as far as the tracker knows.
    """

    query_id: QueryId
    epoch: int
    generated_tokens: int = 0
    booked_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ProgramEntry:
    """The index entry of a program."""

    phase: Phase
    tracker: str
    address: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A program at one moment."""

    query_id: QueryId
    phase: Phase
    first: Record
    last: Record
    length: int  # records
    samples: int  # that count
    certaindex: float


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """How many programs are not final."""

    by_pool: dict[Shard, dict[str, int]]  # shard -> pool -> how many
    queued: int  # of all pools, those that no tracker has


class ProgramLog:
    """All programs, in one Redis."""

    def __init__(self, redis: Redis, *, final_ttl_seconds: int) -> None:
        self._redis = redis
        self._final_ttl_seconds = final_ttl_seconds
        shared = SharedConnection(redis)
        self._accept = Script(redis, "accept_query", shared)
        self._claim = Script(redis, "claim_programs", shared)
        self._append = Script(redis, "append_records", shared)
        self._finish = Script(redis, "finish_program", shared)
        self._cancel = Script(redis, "cancel_program", shared)
        self._renew = Script(redis, "renew_leases", shared)
        self._release = Script(redis, "release_programs", shared)

    async def accept(self, query_id: QueryId, event: Accepted, fingerprint: str, limits: Limits) -> Acceptance:
        """Accepts a query; from then on nothing loses it. Nobody is told of its first record: the caller has it.

        Where its tenant has a budget, the mean cost of the tenant's queries is reserved until it ends, or what one call
        may take while none has ended; of a query with a budget of its own no more than that.

        Args:
            fingerprint: of the query's content, compared under its idempotency key.
        """
        query = event.query
        shard = keys.shard_of(query_id)
        tenant = keys.tenant(shard, query.tenant)
        key = query.idempotency_key
        budget = limits.budget
        status, found, present, left_ms = await self._accept(
            [
                keys.log(query_id),
                keys.program(query_id),
                keys.queue(shard),
                tenant,
                keys.tenant_index(shard, query.tenant),
                keys.idempotency(shard, query.tenant, key) if key else tenant,
                keys.live(shard),
                keys.urgent(shard),
            ],
            [
                query_id,
                records.encode(Record(event, event.accepted_at_ms)),
                query.tenant,
                event.pool,
                event.accepted_at_ms,
                event.accepted_at_ms + CLASS_DELAY_MS[query.query_class],
                limits.live_queries_per_tenant,
                limits.queued_programs_per_shard,
                fingerprint if key else "",
                limits.idempotency_ttl_seconds,
                keys.work_channel(shard),
                limits.live_programs_of_pool,
                "1" if query.query_class is QueryClass.INTERACTIVE else "0",
                budget.tokens if budget else "",
                budget.window_seconds * 1000 if budget else "",
                tokens_of_one(query) if budget else "",
                query.max_tokens,
            ],
        )
        return Acceptance(AcceptStatus(status.decode()), QueryId(found.decode()), int(present), int(left_ms) / 1000)

    async def claim(
        self,
        shard: Shard,
        *,
        tracker: str,
        process: str,
        address: str,
        limit: int,
        lease_ms: int,
        number: int,
        adopt_own: bool = False,
        further_urgent: int = 0,
        most_bytes: int = MOST_CLAIMED_BYTES,
    ) -> list[Claim]:
        """Takes up to `limit` programs of a shard, and so many further ones of the class `interactive`.

        Fewer, where their logs have `most_bytes` by then: `is_full` says so.

        Args:
            tracker, process: who claims, and which process under that name.
            number: of the process's claim in this shard. A claim that failed is sent again under its number: if it had
                succeeded after all, that returns what it took.
            adopt_own: whether also those that an earlier process of this name holds.
        """
        entries = await self._claim(
            [keys.leases(shard), keys.queue(shard), keys.receipt(shard, process, number), keys.urgent(shard)],
            [
                tracker,
                address,
                limit,
                lease_ms,
                keys.prefix(shard),
                keys.appended_channel(shard),
                process,
                "1" if adopt_own else "0",
                2 * lease_ms,
                further_urgent,
                most_bytes,
            ],
        )
        return [Claim(QueryId(query_id.decode()), int(epoch), tuple(lines)) for query_id, epoch, *lines in entries]

    async def append(self, holding: Holding, tracker: str, expected_length: int, new: Sequence[Record]) -> Appended:
        """Appends records.

        Args:
            holding: as it is once the records are in the log.
            expected_length: of the log, as the writer knows it.
        """
        query_id = holding.query_id
        reply = await self._append(
            [keys.log(query_id), keys.program(query_id)],
            [
                query_id,
                tracker,
                holding.epoch,
                expected_length,
                keys.appended_channel(keys.shard_of(query_id)),
                holding.generated_tokens,
                holding.booked_tokens,
                *_summary(new),
                *map(records.encode, new),
            ],
        )
        return _appended(reply)

    async def finish(
        self, holding: Holding, tracker: str, tenant: str, expected_length: int, new: Sequence[Record], phase: Phase
    ) -> Appended:
        """Appends the last records, at their end the final one, and settles lease and quota."""
        final = new[-1].event
        assert isinstance(final, Finished)
        query_id = holding.query_id
        shard = keys.shard_of(query_id)
        reply = await self._finish(
            [
                keys.log(query_id),
                keys.program(query_id),
                keys.leases(shard),
                keys.tenant(shard, tenant),
                keys.live(shard),
            ],
            [
                query_id,
                tracker,
                holding.epoch,
                expected_length,
                keys.appended_channel(shard),
                phase.value,
                self._final_ttl_seconds,
                *_summary(new),
                final.outcome.ledger.spent,
                *map(records.encode, new),
            ],
        )
        return _appended(reply)

    async def cancel(self, query_id: QueryId, reason: str, now_ms: int) -> Phase | None:
        """Records a wish to cancel. Returns the phase after it, None where the query is unknown."""
        first = await self.read(query_id, 0, 0)
        if not first or not isinstance(accepted := first[0].event, Accepted):
            return None
        shard = keys.shard_of(query_id)
        detail = reason or "cancelled by the user"
        unclaimed = ended_without_evidence(accepted, Phase.CANCELLED, StopReason.CANCELLED, detail, now_ms)
        phase = await self._cancel(
            [
                keys.log(query_id),
                keys.program(query_id),
                keys.queue(shard),
                keys.tenant(shard, accepted.query.tenant),
                keys.live(shard),
                keys.urgent(shard),
            ],
            [
                query_id,
                records.encode(Record(CancelRequested(reason), now_ms)),
                records.encode(Record(Finished(unclaimed), now_ms)),
                keys.appended_channel(shard),
                keys.work_channel(shard),
                self._final_ttl_seconds,
            ],
        )
        return None if phase == b"unknown" else Phase(phase.decode())

    async def renew(self, shard: Shard, tracker: str, lease_ms: int, held: Sequence[Holding]) -> list[int]:
        """Renews leases of one shard. Returns each log's length, -1 where the program is another's by now."""
        lengths = await self._renew([keys.leases(shard)], [tracker, lease_ms, keys.prefix(shard), *_flat(held)])
        return [int(length) for length in lengths]

    async def release(self, shard: Shard, tracker: str, held: Sequence[Holding]) -> int:
        """Gives programs of one shard back to the head of the queue."""
        arguments: list[str | bytes | int] = [tracker, keys.prefix(shard), keys.work_channel(shard), *_flat(held)]
        return int(await self._release([keys.leases(shard), keys.queue(shard), keys.urgent(shard)], arguments))

    async def read(self, query_id: QueryId, first: int = 0, last: int = -1) -> list[Record]:
        """Records `first` to `last`, both included; negative numbers count from the end."""
        try:
            lines = await self._redis.lrange(keys.log(query_id), first, last)
        except RedisError as error:
            raise translated(error, "reading a log") from error
        return [records.decode(_bytes(line)) for line in lines]

    async def entry(self, query_id: QueryId) -> ProgramEntry | None:
        """Where the program is; None where the query is unknown or has expired."""
        try:
            values = await self._redis.hmget(keys.program(query_id), ["phase", "owner", "address"])
        except RedisError as error:
            raise translated(error, "reading a program") from error
        phase, tracker, address = (_bytes(value or b"").decode() for value in values)
        return ProgramEntry(Phase(phase), tracker, address) if phase else None

    async def find_idempotent(self, tenant: str, key: str, fingerprint: str) -> QueryId | None:
        """The query that was accepted under an idempotency key with this content; None where there is none."""
        if not key:
            return None
        shard = keys.shard_of_tenant(tenant)
        try:
            found = await self._redis.hmget(keys.idempotency(shard, tenant, key), ["query_id", "fingerprint"])
        except RedisError as error:
            raise translated(error, "looking up an idempotency key") from error
        query_id, known = (_bytes(value or b"").decode() for value in found)
        return QueryId(query_id) if query_id and known == fingerprint else None

    async def live_programs(self) -> LiveCounts:
        """Counts the programs that are not final, in one round trip."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for shard in keys.SHARDS:
                    pipeline.hgetall(keys.live(shard))
                    pipeline.zcard(keys.queue(shard))
                replies = await pipeline.execute()
        except RedisError as error:
            raise translated(error, "counting live programs") from error
        by_pool = {
            shard: {_bytes(pool).decode(): int(number) for pool, number in reply.items()}
            for shard, reply in zip(keys.SHARDS, replies[::2], strict=True)
        }
        return LiveCounts(by_pool, queued=sum(map(int, replies[1::2])))

    async def snapshots(self, query_ids: Sequence[QueryId]) -> list[Snapshot | CorruptRecord | None]:
        """Programs of one tenant, all at the same moment and in one round trip.

        Returns:
            In the order asked: the program, None where it is unknown or has expired, the error where it cannot be read.
        """
        try:
            async with self._redis.pipeline(transaction=True) as pipeline:
                for query_id in query_ids:
                    log = keys.log(query_id)
                    pipeline.hmget(keys.program(query_id), ["phase", "samples", "certaindex"])
                    pipeline.lindex(log, 0)
                    pipeline.lindex(log, -1)
                    pipeline.llen(log)
                replies = await pipeline.execute()
        except RedisError as error:
            raise translated(error, "reading programs") from error
        return [_snapshot(query_id, *replies[4 * i : 4 * i + 4]) for i, query_id in enumerate(query_ids)]

    async def length(self, query_id: QueryId) -> int:
        """Records in the log."""
        try:
            return int(await self._redis.llen(keys.log(query_id)))
        except RedisError as error:
            raise translated(error, "reading a log") from error

    async def list_tenant(self, tenant: str, offset: int, count: int) -> list[QueryId]:
        """Ids of a tenant's queries, newest first, expired ones included."""
        shard = keys.shard_of_tenant(tenant)
        try:
            found = await self._redis.zrevrange(keys.tenant_index(shard, tenant), offset, offset + count - 1)
        except RedisError as error:
            raise translated(error, "listing queries") from error
        return [QueryId(_bytes(query_id).decode()) for query_id in found]


def _bytes(value: object) -> bytes:
    """What Redis sends, as this client is set up: never decoded."""
    assert isinstance(value, bytes)
    return value


def _summary(new: Sequence[Record]) -> tuple[int, str]:
    return new[-1].samples, repr(new[-1].certaindex)


def _appended(reply: list[bytes]) -> Appended:
    return Appended(AppendStatus(reply[0].decode()), tuple(map(records.decode, reply[1:])))


def _snapshot(
    query_id: QueryId, values: list[bytes | None], first: bytes | None, last: bytes | None, length: int
) -> Snapshot | CorruptRecord | None:
    phase, samples, certaindex = values
    if phase is None or first is None or last is None:
        return None
    try:
        first_record, last_record = records.decode(first), records.decode(last)
    except CorruptRecord as error:
        return error
    return Snapshot(
        query_id=query_id,
        phase=Phase(phase.decode()),
        first=first_record,
        last=last_record,
        length=length,
        # Before the first evidence nobody has written them; releases before this one never did.
        samples=last_record.samples if samples is None else int(samples),
        certaindex=last_record.certaindex if certaindex is None else float(certaindex),
    )


def _flat(held: Sequence[Holding]) -> list[str | int]:
    return [value for each in held for value in (each.query_id, each.epoch, each.generated_tokens, each.booked_tokens)]
