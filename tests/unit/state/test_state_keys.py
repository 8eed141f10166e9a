"""Redis keys: what belongs together shares a slot, and what does not never collides."""

from __future__ import annotations

import re
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dynasor_serve.programs.query import QueryId
from dynasor_serve.state import keys

names = st.text(max_size=20)


@given(names)
def test_a_query_id_carries_its_tenants_shard(tenant: str) -> None:
    query_id = keys.new_query_id(tenant)

    assert keys.is_query_id(query_id)
    assert keys.shard_of(query_id) == keys.shard_of_tenant(tenant)


@given(names, names)
def test_all_keys_of_one_step_share_the_hash_tag(tenant: str, key: str) -> None:
    query_id = keys.new_query_id(tenant)
    shard = keys.shard_of(query_id)

    built = [
        keys.log(query_id),
        keys.program(query_id),
        keys.queue(shard),
        keys.leases(shard),
        keys.tenant(shard, tenant),
        keys.tenant_index(shard, tenant),
        keys.idempotency(shard, tenant, key),
    ]

    # The first {…} decides the slot, whatever braces a tenant's name holds.
    assert {re.search(r"\{(.*?)\}", each)[1] for each in built} == {shard}  # type: ignore[index]
    assert len(set(built)) == len(built)


def test_idempotency_keys_of_different_tenants_differ() -> None:
    shard = keys.SHARDS[0]
    pairs = [("a", "b:c"), ("a:b", "c"), ("", "a:b:c"), ("1:a", "b:c"), ("a:b:c", "")]

    for left, right in combinations(pairs, 2):
        assert keys.idempotency(shard, *left) != keys.idempotency(shard, *right)


def test_what_is_no_query_id_is_refused() -> None:
    good = keys.new_query_id("default")

    for text in ("", "q", good[:-1], good + "0", good.upper(), good.replace("-", "_"), "zz" + good[2:], good + "\n"):
        assert not keys.is_query_id(QueryId(text)), repr(text)


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    made = [keys.new_query_id("default") for _ in range(1000)]

    assert len(set(made)) == len(made)
    assert made[0][:12] <= made[-1][:12]
