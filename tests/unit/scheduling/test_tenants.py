"""Who is served next where tenants share, also when classes and tiers go before shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from dynasor_serve.scheduling.demand import CallEnd
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.pool import Pool
from unit.scheduling.pools import NO_PROMISES, pool_with, wanting

TOKENS = {"quick": 100, "slow": 8000, "late": 100, "busy": 100, "low": 100, "peer": 100}
STANDARD, BATCH = 1, 2


def flood(pool: Pool, tenant: str, class_rank: int, programs: int = 600) -> None:
    """Many programs of one call each."""
    for number in range(programs):
        name = f"{tenant}-{class_rank}-{number}"
        pool.want("t", wanting(name, 0, tenant=tenant, class_rank=class_rank, mean_tokens=TOKENS[tenant]), 0.0)


def serve(pool: Pool, grants: int) -> Counter[str]:
    """Grants so many calls, one after the other; returns how many each tenant got."""
    served = Counter[str]()
    for _ in range(grants):
        for grant in pool.grants(0.0):
            tenant = grant.call.program.partition("-")[0]
            served[tenant] += 1
            pool.ended(grant.call, CallEnd.FINISHED, TOKENS[tenant])
    return served


def test_a_tenant_that_comes_late_shares_with_those_of_its_class() -> None:
    """A trickle serves the slow tenant beyond its share; where it stands is no present for the class above."""
    pool = pool_with(1, ordering="fair-virtual-time", fairness=Fairness())
    flood(pool, "quick", STANDARD)
    flood(pool, "slow", BATCH)
    serve(pool, 400)

    flood(pool, "late", STANDARD)
    served = serve(pool, 200)

    assert abs(served["late"] - served["quick"]) <= 10, served


def test_a_tenant_whose_calls_change_tier_has_not_ceased_to_wait() -> None:
    pool = pool_with(1, ordering="fair-virtual-time", fairness=NO_PROMISES)
    flood(pool, "peer", STANDARD)
    low = wanting("low-0", 0, 1, tenant="low", class_rank=BATCH)
    pool.want("t", low, 0.0)
    flood(pool, "busy", 0, programs=50)
    serve(pool, 50)

    pool.want("t", replace(low, speculative=2), 0.0)
    flood(pool, "low", STANDARD)
    served = serve(pool, 20)

    assert abs(served["low"] - served["peer"]) <= 1, served


def test_a_tenant_that_comes_and_goes_is_not_owed_what_others_took_meanwhile() -> None:
    pool = pool_with(1, ordering="fair-virtual-time", fairness=NO_PROMISES)
    flood(pool, "peer", STANDARD)
    serve(pool, 100)

    flood(pool, "late", STANDARD)
    served = serve(pool, 100)

    assert abs(served["late"] - served["peer"]) <= 1, served
