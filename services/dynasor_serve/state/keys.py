"""Every Redis key and channel, built in one place.

All keys that one atomic step touches share a hash tag, the tenant's *shard*, so they live in one slot of a Redis
Cluster. A query's id begins with its shard, so its keys follow from the id alone.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from typing import NewType

from dynasor_serve.programs.query import QueryId

Shard = NewType("Shard", str)

SHARD_COUNT = 16
SHARDS: tuple[Shard, ...] = tuple(Shard(f"{number:02x}") for number in range(SHARD_COUNT))
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_QUERY_ID = re.compile(rf"(?:{'|'.join(SHARDS)})-[{_ALPHABET}]{{26}}")


def shard_of_tenant(tenant: str) -> Shard:
    """Where all keys of a tenant live."""
    return SHARDS[zlib.crc32(tenant.encode()) % SHARD_COUNT]


def new_query_id(tenant: str) -> QueryId:
    """A unique id that sorts by time within its shard: shard, 48 bits of Unix milliseconds, 80 random bits."""
    number = (int(time.time() * 1000) << 80) | int.from_bytes(os.urandom(10))
    digits = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
    return QueryId(f"{shard_of_tenant(tenant)}-{digits}")


def is_query_id(text: str) -> bool:
    """Whether the text has the form of a query id."""
    return _QUERY_ID.fullmatch(text) is not None


def shard_of(query_id: QueryId) -> Shard:
    """The shard that the id carries."""
    return Shard(query_id[:2])


def log(query_id: QueryId) -> str:
    """List: the program's records, JSON, index = sequence number."""
    return f"{prefix(shard_of(query_id))}log:{query_id}"


def program(query_id: QueryId) -> str:
    """Hash: tenant, pool, phase, owner, process, address, epoch, running_tokens, booked_tokens; samples, certaindex.

    Also urgent, where trackers keep places for it; reserved [tokens] and window_ms, where its tenant has a budget.
    """
    return f"{prefix(shard_of(query_id))}program:{query_id}"


def queue(shard: Shard) -> str:
    """Sorted set: unclaimed programs by when they are due to be claimed, in Unix milliseconds."""
    return f"{prefix(shard)}queue"


def urgent(shard: Shard) -> str:
    """Sorted set: those programs of the queue for which trackers keep places."""
    return f"{prefix(shard)}urgent"


def live(shard: Shard) -> str:
    """Hash: pool -> its programs of this shard that are not final."""
    return f"{prefix(shard)}live"


def leases(shard: Shard) -> str:
    """Sorted set: claimed programs by when their lease ends, in Redis' own Unix milliseconds."""
    return f"{prefix(shard)}leases"


def receipt(shard: Shard, process: str, number: int) -> str:
    """List: what one claim of a tracker's process claimed, for a while."""
    return f"{prefix(shard)}receipt:{process}:{number}"


def tenant(shard: Shard, name: str) -> str:
    """Hash: live, the tenant's queries that are not final.

    Where the tenant has a budget, in completion tokens: spent by the queries that ended in the window until
    window_ends_ms (Redis' own Unix milliseconds), reserved for the live ones, and mean_tokens, a query's lately.
    """
    return f"{prefix(shard)}tenant:{name}"


def tenant_index(shard: Shard, name: str) -> str:
    """Sorted set: the tenant's queries by acceptance, in Unix milliseconds."""
    return f"{prefix(shard)}index:{name}"


def idempotency(shard: Shard, tenant_name: str, key: str) -> str:
    """Hash: query_id and fingerprint of the first query under this key. The length tells (a:b, c) from (a, b:c)."""
    return f"{prefix(shard)}idempotency:{len(tenant_name)}:{tenant_name}:{key}"


def appended_channel(shard: Shard) -> str:
    """Every append: query id, first sequence number and the records, a line each."""
    return f"{prefix(shard)}appended"


def work_channel(shard: Shard) -> str:
    """Ids of programs that a tracker should look at: queued, or asked to cancel, with a line more that says so."""
    return f"{prefix(shard)}work"


def group_lease(group: str) -> str:
    """Hash: holder, process, address, epoch, renewals, lease_ms of a group's active scheduler."""
    return f"dynasor:{{group-{group}}}:lease"


def prefix(shard: Shard) -> str:
    """What every key of a shard begins with; the braces are Redis' hash tag."""
    return f"dynasor:{{{shard}}}:"
