"""The pools of one scheduler and the trackers that it grants to.

`servicer` feeds it what trackers say, `health` what workers say; `dispatch` hands the grants that follow to the
trackers' outboxes. It carries no tokens and keeps no log: a new active scheduler learns everything from restatements.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field

from dynasor_serve.api.scheduler.v1 import scheduler_pb2 as pb
from dynasor_serve.scheduler.conversion import (
    call_end_from,
    demand_message,
    grant_message,
    program_ends_from,
    want_from,
    worker_message,
)
from dynasor_serve.scheduling.demand import CallId
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.ignored import Ignored, IgnoredLog, IgnoredReason
from dynasor_serve.scheduling.load import PoolLoad
from dynasor_serve.scheduling.orderings.registry import parse_ordering
from dynasor_serve.scheduling.placement import WorkerState
from dynasor_serve.scheduling.pool import Pool
from dynasor_serve.scheduling.pool_demand import Demand
from dynasor_serve.telemetry import metrics as catalogue
from dynasor_serve.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_DEMAND_GAUGES = {  # metric -> field of `Demand`
    catalogue.OUTSTANDING_TOKENS: "outstanding_tokens",
    catalogue.ARRIVING_TOKENS: "arriving_tokens_per_second",
    catalogue.DRAINED_TOKENS: "drained_tokens_per_second",
    catalogue.WORKER_TOKENS: "tokens_per_second_per_worker",
    catalogue.PREDICTED_WAIT: "predicted_wait_seconds",
    catalogue.SLO_ATTAINMENT: "slo_attainment",
    catalogue.MISSES_TO_COME: "misses_to_come",
}
_MOST_TIME_FOR_DEMAND = 0.05  # share of the time, however many programs are live and however many ask


@dataclass(slots=True)
class ServedPool:
    """A pool, what is asked of it, and what is known of its model."""

    model: str
    pool: Pool
    load: PoolLoad
    max_model_len: int = 0  # tokens; 0 where unknown
    demand: Demand | None = None  # the latest
    demand_until: float = 0.0  # seconds; when it is too old


@dataclass(slots=True)
class TrackerSession:
    """One tracker's open conversation: grants not yet sent."""

    tracker: str
    grants: list[pb.Grant] = field(default_factory=list)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    def end(self) -> None:
        """The tracker hung up, or another scheduler takes over."""
        self.is_over = True
        self.wakeup.set()


class Pools:
    """All pools, and the sessions of the trackers."""

    def __init__(self, *, ordering: str, fairness: Fairness, metrics: Metrics) -> None:
        self._ordering = ordering
        self._fairness = fairness
        self._metrics = metrics
        self._served: dict[str, ServedPool] = {}  # pool name -> pool
        self._sessions: dict[str, TrackerSession] = {}  # tracker -> its newest session
        self._pool_of: dict[CallId, str] = {}  # granted call -> pool name
        self._ignored = IgnoredLog()  # what is of no pool
        self._reported: set[tuple[str, str]] = set()  # (pool, worker) with a series of its own
        self._is_settling = False  # trackers are about to restate what runs
        self._resignation = asyncio.Event()
        self.epoch = 0  # 0 while not active

    # --- workers ---

    def register(self, pool: str, model: str, name: str, url: str, engine: str, max_in_flight: int) -> None:
        """Adds or changes a worker; the pool's model follows its newest worker."""
        served = self._pool(pool)
        served.model = model
        served.pool.add_worker(name, url, engine, max_in_flight)

    def drain(self, pool: str, worker: str) -> int:
        """Running calls of the draining worker; it is forgotten after the last, so 0 also where there is none."""
        return self._served[pool].pool.drain_worker(worker) if pool in self._served else 0

    def health(self, pool: str, worker: str, healthy: bool, message: str, max_model_len: int = 0) -> None:
        """The result of a health check."""
        served = self._served[pool]
        served.pool.worker_health(worker, healthy, message)
        served.max_model_len = max_model_len or served.max_model_len

    def endpoints(self) -> list[tuple[str, str, str, str]]:
        """(pool, model, worker, url) of every worker that is not draining."""
        return [
            (name, served.model, worker.name, worker.url)
            for name, served in self._served.items()
            for worker in served.pool.workers
            if worker.state is not WorkerState.DRAINING
        ]

    def messages(self) -> list[pb.Pool]:
        """All pools by name."""
        return [
            pb.Pool(
                name=name,
                model=served.model,
                workers=[worker_message(worker) for worker in served.pool.workers],
                waiting_calls=served.pool.waiting_calls,
                max_model_len=served.max_model_len,
                epoch=self.epoch,
                demand=demand_message(name, self._demand(served)),
            )
            for name, served in sorted(self._served.items())
            if served.model
        ]

    def demands(self) -> list[pb.PoolDemand]:
        """The demands of all pools by name, those included that have never had a worker."""
        return [demand_message(name, self._demand(served)) for name, served in sorted(self._served.items())]

    # --- trackers ---

    def open_session(self, tracker: str) -> TrackerSession:
        """Begins a conversation; what was known of the tracker is forgotten, since it restates everything."""
        if tracker in self._sessions:
            self._sessions[tracker].end()
        self._forget(tracker)
        session = self._sessions[tracker] = TrackerSession(tracker)
        return session

    def activate(self, epoch: int) -> None:
        """Active from now on; grants wait for `settle`, so that running calls find their places still theirs."""
        self.epoch = epoch
        self._is_settling = True
        self._resignation.clear()

    def settle(self) -> None:
        """Trackers had the time to restate: grants what is possible by now."""
        self._is_settling = False
        self.dispatch()

    def resign(self) -> None:
        """No longer active: trackers turn to whoever is next. No stream of theirs to an engine is cut."""
        self.epoch = 0
        self._resignation.set()
        for session in self._sessions.values():
            session.end()

    async def resigned(self, timeout_seconds: float) -> None:
        """Returns when this scheduler is no longer active, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._resignation.wait()

    def close_session(self, session: TrackerSession) -> None:
        """Ends a conversation. A newer one of the same tracker stays."""
        if self._sessions.get(session.tracker) is session:
            del self._sessions[session.tracker]
            self._forget(session.tracker)
            self.dispatch()

    def hear(self, session: TrackerSession, message: pb.CoordinateRequest) -> None:
        """Takes a tracker's news and grants what follows."""
        if self._sessions.get(session.tracker) is not session:
            return
        now = time.monotonic()
        for ended in message.ended:
            call, end, tokens = call_end_from(ended)
            pool = self._pool_of.pop(call, None)
            if pool is None:
                why = "it runs in no pool: its end was told before, or it was never granted"
                self._ignored.add(Ignored(IgnoredReason.UNKNOWN_CALL, f"the end of {call}", why))
            else:
                self._served[pool].pool.ended(call, end, tokens)
                self._served[pool].load.ended(call, end, tokens, now)
        unix_ms = time.time_ns() // 1_000_000
        for program, program_end in program_ends_from(message).items():
            for served in self._served.values():
                served.pool.withdraw(session.tracker, program)
                served.load.withdrawn(session.tracker, program, program_end, now, unix_ms)
        restated_ms = unix_ms if message.tracker else None  # the first message of a conversation states everything
        for want in map(want_from, message.wants):
            served = self._pool(want.pool)
            served.pool.want(session.tracker, want, now)
            served.load.want(session.tracker, want, now, restated_ms)
        for running in message.running:  # of programs that are known by now
            call = CallId(running.query_id, running.branch, running.attempt)
            served = self._pool(running.pool)
            served.pool.restate_running(session.tracker, call, running.worker)
            served.load.restated(call, running.worker, now)
            self._pool_of[call] = running.pool
        self.dispatch()

    def dispatch(self) -> None:
        """Hands out every grant that is possible now."""
        if not self.epoch or self._is_settling:
            return
        now = time.monotonic()
        for name, served in self._served.items():
            for grant in served.pool.grants(now):
                self._pool_of[grant.call] = name
                served.load.granted(grant.call, grant.worker, now)
                session = self._sessions[grant.tracker]
                session.grants.append(grant_message(grant, name, self.epoch))
                session.wakeup.set()
                self._metrics.increment(catalogue.GRANTS, pool=name)
                self._metrics.observe(catalogue.GRANT_WAIT_SECONDS, grant.waited_seconds, pool=name)

    def report(self) -> None:
        """Forgets drained workers, brings the gauges up to date and says what was ignored."""
        now = time.monotonic()
        for served in self._served.values():
            served.pool.forget_drained(now)
        self._report_ignored("", self._ignored)
        for name, served in self._served.items():
            self._report_ignored(name, served.pool.ignored)
        workers = {(name, worker.name) for name, served in self._served.items() for worker in served.pool.workers}
        for name, worker_name in self._reported - workers:
            self._metrics.remove(catalogue.RUNNING_CALLS, pool=name, worker=worker_name)
        self._reported = workers
        for name, served in self._served.items():
            self._metrics.set(catalogue.ACTIVE, 1 if self.epoch else 0, pool=name)
            self._metrics.set(catalogue.WAITING_CALLS, served.pool.waiting_calls, pool=name)
            states = dict.fromkeys(WorkerState, 0)
            for worker in served.pool.workers:
                states[worker.state] += 1
                self._metrics.set(catalogue.RUNNING_CALLS, len(worker.in_flight), pool=name, worker=worker.name)
            for state, number in states.items():
                self._metrics.set(catalogue.WORKERS, number, pool=name, state=state.value)
            # A scheduler that stands by knows nothing of the demand; what it knew before would mislead.
            demand = self._demand(served) if self.epoch else None
            for spec, field_name in _DEMAND_GAUGES.items():
                if demand is None:
                    self._metrics.remove(spec, pool=name)
                else:
                    self._metrics.set(spec, getattr(demand, field_name), pool=name)

    def _report_ignored(self, pool: str, ignored: IgnoredLog) -> None:
        counts, newest = ignored.take()
        for reason, number in counts.items():
            self._metrics.increment(catalogue.IGNORED, number, pool=pool, reason=reason.value)
        for each in newest:
            logger.warning("something was ignored", extra={"pool": pool, "what": each.what, "why": each.why})

    def _demand(self, served: ServedPool) -> Demand:
        """The demand of a pool; a little old where telling it takes long, so that it never takes much of the time."""
        now = time.monotonic()
        if served.demand is None or now >= served.demand_until:
            pool = served.pool
            unix_ms = time.time_ns() // 1_000_000
            served.demand = served.load.demand(pool.workers, pool.longest_wait(now), now, unix_ms)
            served.demand_until = now + (time.monotonic() - now) / _MOST_TIME_FOR_DEMAND
        return served.demand

    def _pool(self, name: str) -> ServedPool:
        served = self._served.get(name)
        if served is None:
            # A want for a pool that nobody has registered yet waits: after a fail-over trackers may come first.
            ordering = parse_ordering(self._ordering)
            pool = Pool(ordering, self._fairness)
            served = self._served[name] = ServedPool(model="", pool=pool, load=PoolLoad(ordering))
        return served

    def _forget(self, tracker: str) -> None:
        now = time.monotonic()
        for served in self._served.values():
            calls = served.pool.tracker_gone(tracker)
            served.load.tracker_gone(tracker, calls, now)
            for call in calls:
                self._pool_of.pop(call, None)
