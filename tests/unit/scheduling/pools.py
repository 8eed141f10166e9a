"""Pools and wants to test with, every part of them defaulted."""

from __future__ import annotations

from dynasor_serve.scheduling.demand import CallEnd, CallId, Want
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.placement import Worker
from dynasor_serve.scheduling.pool import Pool

LONG = 1e9  # seconds; no call ages


# Lets the ordering decide alone.
NO_PROMISES = Fairness(longest_wait_seconds=LONG, longest_wait_shares=LONG, trickle_grants=10**9)


def pool_with(*places: int, ordering: str = "fcfs", fairness: Fairness = NO_PROMISES) -> Pool:
    """A pool of ready workers `w0`, `w1`… with so many places each."""
    pool = Pool(parse_ordering(ordering), fairness)
    for number, max_in_flight in enumerate(places):
        pool.add_worker(f"w{number}", f"http://w{number}", "replay", max_in_flight)
        pool.worker_health(f"w{number}", healthy=True)
    return pool


def wanting(
    program: str,
    *branches: int,
    knob: int = 8,
    mean_tokens: float = 100.0,
    class_rank: int = 1,
    attempt: str = "1.1",
    tenant: str = "default",
    accepted_at_ms: int = 0,
    deadline_ms: int = 1_000_000,
    tokens_spent: int = 0,
    gain_per_token: float = 0.0,
    samples: int = 0,
) -> Want:
    """What a program wants: these branches."""
    return Want(
        program=program,
        pool="pool",
        algorithm="self-consistency",
        calls=tuple(CallId(program, branch, attempt) for branch in branches),
        class_rank=class_rank,
        tenant=tenant,
        remaining_knob=knob,
        mean_tokens_per_branch=mean_tokens,
        accepted_at_ms=accepted_at_ms,
        deadline_ms=deadline_ms,
        tokens_spent=tokens_spent,
        gain_per_token=gain_per_token,
        samples=samples,
    )


def granted(pool: Pool, now: float = 0.0) -> list[str]:
    """The calls granted now, as `program/branch`."""
    return [f"{grant.call.program}/{grant.call.branch}" for grant in pool.grants(now)]


def order_of(pool: Pool, now: float = 0.0) -> list[str]:
    """The order in which one place after the other is given away."""
    order = []
    while grants := pool.grants(now):
        for grant in grants:
            order.append(f"{grant.call.program}/{grant.call.branch}")
            pool.ended(grant.call, CallEnd.CANCELLED, 0)
    return order


def worker(pool: Pool, name: str = "w0") -> Worker:
    """One of its workers."""
    return next(each for each in pool.workers if each.name == name)
