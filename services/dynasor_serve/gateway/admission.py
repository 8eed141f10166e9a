"""Who may come in: the bounds of everything that a query can wait in, by class, and whether it can end in time.

`Queries.accept` asks before it offers a query to the state, whose script enforces the bounds. docs/overload.md tells
clients the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dynasor_serve.gateway.live_programs import LivePrograms
from dynasor_serve.gateway.pool_directory import KnownPool
from dynasor_serve.gateway.pool_load import PoolLoad
from dynasor_serve.programs.query import Query, QueryClass
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.state.keys import Shard
from dynasor_serve.state.program_log import Acceptance, AcceptStatus, Limits, TokenBudget

ALL_OTHERS = "*"
"""Stands for every tenant that has no budget of its own."""

_SHORTEST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 300.0
_URGENCY = {QueryClass.INTERACTIVE: 0, QueryClass.STANDARD: 1, QueryClass.BATCH: 2}
_NOBODY: Mapping[QueryClass, int] = {}


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What a gateway admits.

    Attributes:
        urgent_share: of each bound the share that queries of the class `interactive` have to themselves, and that
            those of the classes `interactive` and `standard` have before `batch`: at most 0.4.
        tenant_budgets: tenant -> completion tokens per window; `ALL_OTHERS` for those who are not named.
        by_deadline: whether a query is refused that is predicted to miss its deadline.
        default_deadline_seconds: of queries that set none.
        stale_seconds: age of a pool's figures above which nothing is predicted from them.
    """

    live_queries_per_tenant: int
    live_programs_per_pool: int
    queued_programs_per_shard: int
    idempotency_ttl_seconds: int
    urgent_share: float = 0.1
    tenant_budgets: Mapping[str, int] = field(default_factory=dict)
    budget_window_seconds: int = 3600
    by_deadline: bool = True
    default_deadline_seconds: float = 600.0
    stale_seconds: float = 6.0

    def bound(self, most: int, query_class: QueryClass) -> int:
        """The part of a bound that a class may fill."""
        return math.ceil(most * (1 - self.urgent_share * _URGENCY[query_class]))


class _Admitted(NamedTuple):
    """What this gateway has let into a pool since its figures were told."""

    told_at: float
    calls: Counter[QueryClass]  # that programs begin with


class Admission:
    """Decides for one gateway."""

    def __init__(self, rules: AdmissionRules, live: LivePrograms) -> None:
        self._rules = rules
        self._live = live
        self._admitted: dict[str, _Admitted] = {}  # pool name -> since its latest figures

    def check_deadline(self, query: Query, pool: KnownPool, now: float) -> None:
        """Refuses a query whose first call is predicted to end after its deadline.

        A `batch` query that has no deadline of its own, so one not below the default, waits instead: nobody waits
        for it.

        Args:
            now: monotonic seconds.

        Raises:
            ServiceError: DEADLINE_UNREACHABLE.
        """
        rules, load = self._rules, pool.load
        is_patient = query.query_class is QueryClass.BATCH and query.deadline_seconds >= rules.default_deadline_seconds
        if not rules.by_deadline or is_patient or load is None or now - load.told_at > rules.stale_seconds:
            return
        admitted = self._admitted.get(pool.name)
        since = admitted.calls if admitted is not None and admitted.told_at == load.told_at else _NOBODY
        wait_seconds = predicted_wait_seconds(load, query.query_class, since, self._live.unclaimed(pool.name))
        late_seconds = wait_seconds + load.seconds_per_call - query.deadline_seconds
        if wait_seconds > 0 and late_seconds > 0:
            retry_seconds = _bounded(late_seconds)
            message = (
                f"a query of the class {query.query_class} is predicted to wait {wait_seconds:.1f} s in pool "
                f"{pool.name!r}, and one call takes {load.seconds_per_call:.1f} s; its deadline is in "
                f"{query.deadline_seconds:.1f} s; try again in {retry_seconds:.0f} s, or give it a later deadline"
            )
            raise ServiceError(
                Reason.DEADLINE_UNREACHABLE, message, field="deadline", retry_after_seconds=retry_seconds
            )

    def limits(self, query: Query, pool: KnownPool, shard: Shard) -> Limits:
        """The bounds that hold for a query in its shard."""
        rules, query_class = self._rules, query.query_class
        budgets = rules.tenant_budgets
        tokens = budgets.get(query.tenant, budgets.get(ALL_OTHERS)) if budgets else None
        elsewhere = self._live.elsewhere(pool.name, shard)
        return Limits(
            live_queries_per_tenant=rules.bound(rules.live_queries_per_tenant, query_class),
            queued_programs_per_shard=rules.bound(rules.queued_programs_per_shard, query_class),
            idempotency_ttl_seconds=rules.idempotency_ttl_seconds,
            live_programs_of_pool=max(0, rules.bound(rules.live_programs_per_pool, query_class) - elsewhere),
            budget=None if tokens is None else TokenBudget(tokens, rules.budget_window_seconds),
        )

    def enter(self, query: Query, pool: KnownPool, shard: Shard, calls: int) -> None:
        """Counts a query that is about to be accepted and the calls that it begins with.

        Many may come between two looks at the pool.
        """
        self._live.add(pool.name, shard, 1)
        if pool.load is None:
            return
        admitted = self._admitted.get(pool.name)
        if admitted is None or admitted.told_at != pool.load.told_at:
            admitted = self._admitted[pool.name] = _Admitted(pool.load.told_at, Counter())
        admitted.calls[query.query_class] += calls

    def leave(self, query: Query, pool: KnownPool, shard: Shard, calls: int) -> None:
        """Takes back an `enter`: the query was not accepted."""
        self._live.add(pool.name, shard, -1)
        admitted = self._admitted.get(pool.name)
        if admitted is not None and pool.load is not None and admitted.told_at == pool.load.told_at:
            admitted.calls[query.query_class] -= calls

    def refusal(self, acceptance: Acceptance, query: Query, pool: KnownPool, shard: Shard) -> ServiceError:
        """The error for a status that refuses: the bound, the present figure, and when it pays to come back."""
        rules, query_class, present = self._rules, query.query_class, acceptance.present
        of_pool = max(1, self._live.of_pool(pool.name))
        seconds_per_program = pool.load.seconds_per_program if pool.load else 0.0
        match acceptance.status:
            case AcceptStatus.TENANT_FULL:
                reason, most = Reason.TENANT_FULL, rules.live_queries_per_tenant
                who = f"tenant {query.tenant!r} has {present} live queries"
                # The pool ends its programs at one rate; the tenant's share of them is its share of the live ones.
                retry_seconds = seconds_per_program * max(1.0, of_pool / max(1, present))
            case AcceptStatus.POOL_FULL:
                reason, most = Reason.POOL_FULL, rules.live_programs_per_pool
                present += self._live.elsewhere(pool.name, shard)
                who = f"pool {pool.name!r} has {present} live queries"
                retry_seconds = seconds_per_program * (present - rules.bound(most, query_class) + 1)
            case AcceptStatus.QUEUE_FULL:
                reason, most = Reason.QUEUE_FULL, rules.queued_programs_per_shard
                who = f"{present} programs wait for a tracker in shard {shard}"
                retry_seconds = seconds_per_program * max(1.0, of_pool / max(1, present))
            case _:
                tokens = rules.tenant_budgets.get(query.tenant, rules.tenant_budgets.get(ALL_OTHERS, 0))
                message = (
                    f"tenant {query.tenant!r} has spent, or reserved for its live queries, {present} completion tokens "
                    f"of its {tokens} per {rules.budget_window_seconds} s; the next window begins in "
                    f"{acceptance.window_seconds_left:.0f} s"
                )
                return ServiceError(
                    Reason.TENANT_BUDGET_SPENT, message, retry_after_seconds=acceptance.window_seconds_left
                )
        retry_seconds = _bounded(retry_seconds)
        message = (
            f"{who}; at most {rules.bound(most, query_class)} while another of the class {query_class} is accepted (of "
            f"{most} in all); try again in {retry_seconds:.0f} s"
        )
        return ServiceError(reason, message, retry_after_seconds=retry_seconds)


def predicted_wait_seconds(
    load: PoolLoad, query_class: QueryClass, admitted: Mapping[QueryClass, int], unclaimed: float
) -> float:
    """How long a program of a class that arrived now would wait for its first call.

    What the scheduler predicted when it was asked, and what came since: calls of the same or a more urgent class fill
    the places that were free, and the rest of them are ahead. They are those that programs begin with: what follows
    them is seen at the next look. Programs without a tracker wait until so many others have ended.

    Args:
        admitted: class -> calls that programs began with which were admitted since.
        unclaimed: programs that wait for a tracker. Trackers keep places for interactive ones, which pass them.
    """
    urgency = _URGENCY[query_class]
    ahead = sum(number for each, number in admitted.items() if _URGENCY[each] <= urgency)
    wait_seconds = load.wait_seconds[query_class]
    if load.places:
        wait_seconds += max(0, ahead - load.free_places) * load.seconds_per_call / load.places
    if query_class is not QueryClass.INTERACTIVE:
        wait_seconds += unclaimed * load.seconds_per_program
    return wait_seconds


def _bounded(seconds: float) -> float:
    return min(_LONGEST_RETRY_SECONDS, max(_SHORTEST_RETRY_SECONDS, seconds))
