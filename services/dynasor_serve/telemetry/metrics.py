"""What each process counts, and how it is served to Prometheus.

`METRICS` is the catalogue: one `MetricSpec` per metric, of all processes. A process's `app.py` builds `Metrics` for its
own part of it, passes it on by keyword, and starts the server; the code that acts calls `metrics.increment(CALLS, …)`.
`docs/metrics.md` shows the catalogue to people, and `tests/contract/test_metrics_catalogue.py` holds the two equal.

Label values are words from closed sets (algorithms, rules, states, pools, workers). Query ids, tenants and prompts are
never labels: they belong in logs (`telemetry.logs`) and in the program's ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from typing import Literal, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    start_http_server,
)

Process = Literal["gateway", "tracker", "evaluator", "scheduler"]
Kind = Literal["counter", "gauge", "histogram"]
T = TypeVar("T")

# Seconds. A local step: a Redis script is below 1 ms, a fsync of a slow disk tens of ms.
STEP_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
# Seconds. A verdict closes its calls within 0.1 at p99, hence the bounds around it.
CLOSE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0)
# Seconds. From a short vote on an idle pool to a long chain behind a queue.
QUERY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
# Certaindex is in [0, 1]; the thresholds in use crowd towards 1.
CERTAINDEX_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True, eq=False)  # each is itself alone: found by identity, at every count
class MetricSpec:
    """One metric of the catalogue: what it is called, what it means, and who counts it."""

    name: str
    """The series name: `dynasor_<process>_…`, with the unit at its end, and `_total` on counters."""
    kind: Kind
    """Whether it only grows (`counter`), goes up and down (`gauge`) or is a distribution (`histogram`)."""
    help: str
    """One sentence: what it measures, and the values that its labels take."""
    labels: tuple[str, ...]
    """Names of its labels; their values come from closed sets."""
    process: Process
    """The process that exposes it."""
    buckets: tuple[float, ...] | None = None
    """Upper bounds of a histogram's buckets, in its unit; `None` for the other kinds."""


QUERIES_ACCEPTED = MetricSpec(
    name="dynasor_gateway_queries_accepted_total",
    kind="counter",
    help="Queries accepted: from this moment they cannot be lost.",
    labels=("algorithm", "query_class"),
    process="gateway",
)
QUERIES_REJECTED = MetricSpec(
    name="dynasor_gateway_queries_rejected_total",
    kind="counter",
    help="Queries refused before they were accepted, by the machine-readable reason the client was given.",
    labels=("reason",),
    process="gateway",
)
QUERY_SECONDS = MetricSpec(
    name="dynasor_gateway_query_seconds",
    kind="histogram",
    help="Seconds from acceptance to the final record, of queries that somebody followed to the end.",
    labels=("algorithm", "query_class"),
    process="gateway",
    buckets=QUERY_BUCKETS,
)
WATCHERS = MetricSpec(
    name="dynasor_gateway_watchers",
    kind="gauge",
    help="Clients that follow a program at this moment.",
    labels=(),
    process="gateway",
)

PROGRAMS = MetricSpec(
    name="dynasor_tracker_programs",
    kind="gauge",
    help="Programs this tracker owns, by state.",
    labels=("state",),
    process="tracker",
)
CALLS = MetricSpec(
    name="dynasor_tracker_calls_total",
    kind="counter",
    help="Engine calls that ended, by outcome: finished, cancelled or lost.",
    labels=("outcome",),
    process="tracker",
)
PROBES = MetricSpec(
    name="dynasor_tracker_probes_total",
    kind="counter",
    help="Probes of running chains, by outcome: answered, hesitant, empty or failed.",
    labels=("outcome",),
    process="tracker",
)
TOKENS = MetricSpec(
    name="dynasor_tracker_tokens_total",
    kind="counter",
    help=(
        "Completion tokens of closed ledgers, by kind: spent, cancelled, lost and probes (all parts of spent), "
        "saved_estimate, and exceeded_estimate (of programs that cost more than their caps would have)."
    ),
    labels=("kind",),
    process="tracker",
)
VERDICTS = MetricSpec(
    name="dynasor_tracker_verdicts_total",
    kind="counter",
    help="Verdicts that ended a program or pruned branches, by the rule that gave them.",
    labels=("rule", "verdict"),
    process="tracker",
)
CERTAINDEX_AT_STOP = MetricSpec(
    name="dynasor_tracker_certaindex_at_stop",
    kind="histogram",
    help="Certaindex, in [0, 1], of programs when a rule stopped them.",
    labels=(),
    process="tracker",
    buckets=CERTAINDEX_BUCKETS,
)
VERDICT_TO_CLOSE_SECONDS = MetricSpec(
    name="dynasor_tracker_verdict_to_close_seconds",
    kind="histogram",
    help="Seconds from a stopping verdict until the last of the program's engine connections is closed.",
    labels=(),
    process="tracker",
    buckets=CLOSE_BUCKETS,
)
APPEND_SECONDS = MetricSpec(
    name="dynasor_tracker_append_seconds",
    kind="histogram",
    help="Seconds that one append to a program's log takes.",
    labels=(),
    process="tracker",
    buckets=STEP_BUCKETS,
)
LEASE_LOSSES = MetricSpec(
    name="dynasor_tracker_lease_losses_total",
    kind="counter",
    help="Program leases that this tracker held and lost to time or to another tracker.",
    labels=(),
    process="tracker",
)

PAIRS = MetricSpec(
    name="dynasor_evaluator_pairs_total",
    kind="counter",
    help="Pairs of answers compared, by result: equal, different, undecided or not-reached.",
    labels=("result",),
    process="evaluator",
)
DECIDE_SECONDS = MetricSpec(
    name="dynasor_evaluator_decide_seconds",
    kind="histogram",
    help="Seconds that one batch of comparisons takes, queueing for a worker included.",
    labels=(),
    process="evaluator",
    buckets=STEP_BUCKETS,
)
VERIFICATIONS = MetricSpec(
    name="dynasor_evaluator_verifications_total",
    kind="counter",
    help="Candidates judged by a verifier, by status: verified, undecided or not-reached.",
    labels=("verifier", "status"),
    process="evaluator",
)
VERIFY_SECONDS = MetricSpec(
    name="dynasor_evaluator_verify_seconds",
    kind="histogram",
    help="Seconds that one batch of candidates takes, queueing for their turns included.",
    labels=("verifier",),
    process="evaluator",
    buckets=STEP_BUCKETS,
)
WORKER_RESTARTS = MetricSpec(
    name="dynasor_evaluator_worker_restarts_total",
    kind="counter",
    help="Worker processes replaced because they hung, died or outgrew their memory.",
    labels=(),
    process="evaluator",
)

ACTIVE = MetricSpec(
    name="dynasor_scheduler_active",
    kind="gauge",
    help="1 where this scheduler holds the pool's lease, 0 where it stands by.",
    labels=("pool",),
    process="scheduler",
)
WAITING_CALLS = MetricSpec(
    name="dynasor_scheduler_waiting_calls",
    kind="gauge",
    help="Calls wanted and not granted yet.",
    labels=("pool",),
    process="scheduler",
)
RUNNING_CALLS = MetricSpec(
    name="dynasor_scheduler_running_calls",
    kind="gauge",
    help="Calls granted to a worker and not ended yet.",
    labels=("pool", "worker"),
    process="scheduler",
)
GRANTS = MetricSpec(
    name="dynasor_scheduler_grants_total",
    kind="counter",
    help="Grants given.",
    labels=("pool",),
    process="scheduler",
)
GRANT_WAIT_SECONDS = MetricSpec(
    name="dynasor_scheduler_grant_wait_seconds",
    kind="histogram",
    help="Seconds a call waited between being wanted and being granted.",
    labels=("pool",),
    process="scheduler",
    buckets=QUERY_BUCKETS,
)
WORKERS = MetricSpec(
    name="dynasor_scheduler_workers",
    kind="gauge",
    help="Workers of the pool, by state.",
    labels=("pool", "state"),
    process="scheduler",
)
IGNORED = MetricSpec(
    name="dynasor_scheduler_ignored_total",
    kind="counter",
    help="Told by trackers and not acted on, by reason: impossible-number, unknown-call, wanted-twice or clock.",
    labels=("pool", "reason"),
    process="scheduler",
)
OUTSTANDING_TOKENS = MetricSpec(
    name="dynasor_scheduler_outstanding_tokens",
    kind="gauge",
    help="Completion tokens that live programs will still take, predicted from their Certaindex.",
    labels=("pool",),
    process="scheduler",
)
ARRIVING_TOKENS = MetricSpec(
    name="dynasor_scheduler_arriving_tokens_per_second",
    kind="gauge",
    help="Completion tokens per second that arriving programs are predicted to take.",
    labels=("pool",),
    process="scheduler",
)
DRAINED_TOKENS = MetricSpec(
    name="dynasor_scheduler_drained_tokens_per_second",
    kind="gauge",
    help="Completion tokens per second of calls that ended.",
    labels=("pool",),
    process="scheduler",
)
WORKER_TOKENS = MetricSpec(
    name="dynasor_scheduler_worker_tokens_per_second",
    kind="gauge",
    help="Completion tokens per second of one worker with all its places busy; 0 where nothing was measured yet.",
    labels=("pool",),
    process="scheduler",
)
PREDICTED_WAIT = MetricSpec(
    name="dynasor_scheduler_predicted_wait_seconds",
    kind="gauge",
    help="Seconds that a standard program arriving now would wait for its first call.",
    labels=("pool",),
    process="scheduler",
)
SLO_ATTAINMENT = MetricSpec(
    name="dynasor_scheduler_slo_attainment",
    kind="gauge",
    help="Share, in [0, 1], of the programs that ended in the last five minutes which ended before their deadline.",
    labels=("pool",),
    process="scheduler",
)
MISSES_TO_COME = MetricSpec(
    name="dynasor_scheduler_misses_to_come",
    kind="gauge",
    help="Live programs that are predicted to miss their deadline.",
    labels=("pool",),
    process="scheduler",
)

METRICS: tuple[MetricSpec, ...] = (
    QUERIES_ACCEPTED,
    QUERIES_REJECTED,
    QUERY_SECONDS,
    WATCHERS,
    PROGRAMS,
    CALLS,
    PROBES,
    TOKENS,
    VERDICTS,
    CERTAINDEX_AT_STOP,
    VERDICT_TO_CLOSE_SECONDS,
    APPEND_SECONDS,
    LEASE_LOSSES,
    PAIRS,
    DECIDE_SECONDS,
    VERIFICATIONS,
    VERIFY_SECONDS,
    WORKER_RESTARTS,
    ACTIVE,
    WAITING_CALLS,
    RUNNING_CALLS,
    GRANTS,
    GRANT_WAIT_SECONDS,
    WORKERS,
    IGNORED,
    OUTSTANDING_TOKENS,
    ARRIVING_TOKENS,
    DRAINED_TOKENS,
    WORKER_TOKENS,
    PREDICTED_WAIT,
    SLO_ATTAINMENT,
    MISSES_TO_COME,
)


class Metrics:
    """One process's part of the catalogue, in a registry of its own.

    Built once, by the process's `app.py`; two can live in one interpreter, since nothing is global. Every method
    takes the spec itself, so that a misspelt metric is a type error, and the labels by name.

    Parameters:
        process: whose metrics to build.
        specs: the catalogue; tests pass their own.
    """

    def __init__(self, process: Process, specs: Iterable[MetricSpec] = METRICS) -> None:
        self.process = process
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counters: dict[MetricSpec, Counter] = {}
        self._gauges: dict[MetricSpec, Gauge] = {}
        self._histograms: dict[MetricSpec, Histogram] = {}
        # Series that were counted before, by metric and labels: the client takes ten times as long to find one.
        self._counted: dict[tuple[MetricSpec, tuple[tuple[str, str], ...]], Counter] = {}
        self._observed: dict[tuple[MetricSpec, tuple[tuple[str, str], ...]], Histogram] = {}
        for spec in specs:
            if spec.process == process:
                self._build(spec)

    def increment(self, spec: MetricSpec, by: float = 1, **labels: str) -> None:
        """Add `by`, at least 0, to a counter."""
        key = (spec, tuple(labels.items()))
        series = self._counted.get(key)
        if series is None:
            counter = _find(self._counters, spec, self.process)
            series = self._counted[key] = counter.labels(**labels) if labels else counter
        series.inc(by)

    def set(self, spec: MetricSpec, value: float, **labels: str) -> None:
        """Set a gauge."""
        gauge = _find(self._gauges, spec, self.process)
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, spec: MetricSpec, value: float, **labels: str) -> None:
        """Add one observation, in the unit of the metric's name, to a histogram."""
        key = (spec, tuple(labels.items()))
        series = self._observed.get(key)
        if series is None:
            histogram = _find(self._histograms, spec, self.process)
            series = self._observed[key] = histogram.labels(**labels) if labels else histogram
        series.observe(value)

    def remove(self, spec: MetricSpec, **labels: str) -> None:
        """Forget one gauge series, of a worker or pool that is gone; it is fine if there was none."""
        gauge = _find(self._gauges, spec, self.process)
        gauge.remove(*(labels[name] for name in spec.labels))

    def start_metrics_server(self, port: int, host: str = "0.0.0.0") -> MetricsServer:  # noqa: S104 scraped by other pods
        """Serve `/metrics` from a daemon thread.

        Parameters:
            port: TCP port, or 0 for a free one, which the returned server names.
            host: address to listen on.

        Raises:
            OSError: the port is taken or the address is not this machine's.
        """
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        return MetricsServer(server=server, thread=thread)

    def _build(self, spec: MetricSpec) -> None:
        if spec.kind == "counter":
            self._counters[spec] = Counter(spec.name, spec.help, spec.labels, registry=self.registry)
        elif spec.kind == "gauge":
            self._gauges[spec] = Gauge(spec.name, spec.help, spec.labels, registry=self.registry)
        elif spec.buckets:
            self._histograms[spec] = Histogram(
                spec.name, spec.help, spec.labels, registry=self.registry, buckets=spec.buckets
            )
        else:
            raise ValueError(f"{spec.name} is a histogram and names no buckets")


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running `/metrics` endpoint."""

    server: WSGIServer
    thread: Thread

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self.server.server_port

    def close(self) -> None:
        """Stop serving and close the socket; returns when the thread has ended."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _find(built: dict[MetricSpec, T], spec: MetricSpec, process: str) -> T:
    """The built metric of a spec; a `LookupError` that says what is wrong where there is none of that kind."""
    try:
        return built[spec]
    except KeyError:
        raise LookupError(
            f"{spec.name} is a {spec.kind} of the {spec.process}; it was used as another kind, or in the {process}"
        ) from None
