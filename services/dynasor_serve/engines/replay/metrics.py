"""What the engine counts, under vLLM's metric names, so that dashboards and autoscalers cannot tell the two apart.

`engine` adds to an `EngineMetrics`; `MetricsCollector` turns them into Prometheus families at a scrape. Counting
is plain arithmetic here, since it happens at every event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

# Bucket bounds of vLLM's histograms, in seconds (vllm/v1/metrics/loggers.py).
_FIRST_TOKEN: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_INTER_TOKEN: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

FINISH_REASONS: Final = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Observations by bucket; one observation may stand for many equal ones.

    Args:
        bounds: Upper bounds of the buckets in ascending order; +Inf is added.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` as often as `times` says."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write the buckets into a family under these label values."""
        bounds = (*(str(bound) for bound in self._bounds), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class EngineMetrics:
    """Totals of one engine since its start.

    A call that is aborted leaves its tokens in `generation_tokens`, and counts in no per-request figure: that
    is how vLLM counts.
    """

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_cache_queries = 0  # tokens looked up
        self.prefix_cache_hits = 0  # tokens found
        self.finished = dict.fromkeys(FINISH_REASONS, 0)  # finish reason -> calls
        self.first_token_seconds = Histogram(_FIRST_TOKEN)
        self.inter_token_seconds = Histogram(_INTER_TOKEN)
        self.queue_seconds = Histogram(_REQUEST)
        self.end_to_end_seconds = Histogram(_REQUEST)


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine is doing at this moment, as its gauges show it."""

    running: int
    waiting: int
    kv_cache_usage: float  # share of the KV cache in use, in [0, 1]


# Name, documentation and value of each family; the names are vLLM's, without the `_total` of counters.
_GAUGES: Final[tuple[tuple[str, str, Callable[[EngineState], float]], ...]] = (
    ("vllm:num_requests_running", "Number of requests in model execution batches.", lambda s: s.running),
    ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", lambda s: s.waiting),
    ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", lambda s: s.kv_cache_usage),
)
_COUNTERS: Final[tuple[tuple[str, str, Callable[[EngineMetrics], float]], ...]] = (
    ("vllm:prefix_cache_queries", "Prefix cache queries, in tokens.", lambda m: m.prefix_cache_queries),
    ("vllm:prefix_cache_hits", "Prefix cache hits, in cached tokens.", lambda m: m.prefix_cache_hits),
    # A replay has no memory to run out of, so nothing is ever preempted.
    ("vllm:num_preemptions", "Cumulative number of preemptions.", lambda _: 0),
    ("vllm:prompt_tokens", "Number of prefill tokens processed.", lambda m: m.prompt_tokens),
    ("vllm:generation_tokens", "Number of generation tokens processed.", lambda m: m.generation_tokens),
)
_HISTOGRAMS: Final[tuple[tuple[str, str, Callable[[EngineMetrics], Histogram]], ...]] = (
    ("vllm:time_to_first_token_seconds", "Time to first token.", lambda m: m.first_token_seconds),
    ("vllm:inter_token_latency_seconds", "Inter-token latency.", lambda m: m.inter_token_seconds),
    ("vllm:e2e_request_latency_seconds", "End-to-end request latency.", lambda m: m.end_to_end_seconds),
    ("vllm:request_queue_time_seconds", "Time spent in the waiting queue.", lambda m: m.queue_seconds),
)
_LABELS: Final = ("model_name", "engine")
_ENGINE: Final = "0"  # vLLM numbers its data-parallel engines; a replay is one


class MetricsCollector(Collector):
    """Prometheus families of several engines, labelled like vLLM's with `model_name` and `engine`.

    Args:
        engines: Gives (model name, totals, state) of every engine at each scrape.
    """

    def __init__(self, engines: Callable[[], Iterable[tuple[str, EngineMetrics, EngineState]]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        engines = list(self._engines())
        for name, documentation, state_value in _GAUGES:
            gauge = GaugeMetricFamily(name, documentation, labels=_LABELS)
            for model, _, state in engines:
                gauge.add_metric((model, _ENGINE), state_value(state))
            yield gauge
        for name, documentation, total in _COUNTERS:
            counter = CounterMetricFamily(name, documentation, labels=_LABELS)
            for model, metrics, _ in engines:
                counter.add_metric((model, _ENGINE), total(metrics))
            yield counter
        finished = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=(*_LABELS, "finished_reason"),
        )
        for model, metrics, _ in engines:
            for reason, calls in metrics.finished.items():
                finished.add_metric((model, _ENGINE, reason), calls)
        yield finished
        for name, documentation, observed in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, documentation, labels=_LABELS)
            for model, metrics, _ in engines:
                observed(metrics).add_to(histogram, (model, _ENGINE))
            yield histogram
