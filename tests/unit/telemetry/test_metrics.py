"""A process's metrics: its own part of the catalogue, in a registry of its own, served on a port."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from dynasor_serve.telemetry import metrics as m


def test_a_process_exposes_its_own_metrics_and_no_others() -> None:
    names = {family.name for family in m.Metrics("evaluator").registry.collect()}

    ours = {name for name in names if name.startswith("dynasor_")}
    assert ours == {
        "dynasor_evaluator_pairs",
        "dynasor_evaluator_decide_seconds",
        "dynasor_evaluator_verifications",
        "dynasor_evaluator_verify_seconds",
        "dynasor_evaluator_worker_restarts",
    }
    assert "process_cpu_seconds" in names, "the process's own CPU and memory should be there too"


def test_every_process_of_the_catalogue_can_be_built_twice_in_one_interpreter() -> None:
    for process in {spec.process for spec in m.METRICS}:
        m.Metrics(process)
        m.Metrics(process)


def test_counters_gauges_and_histograms_take_labels_by_name() -> None:
    tracker, scheduler = m.Metrics("tracker"), m.Metrics("scheduler")

    tracker.increment(m.CALLS, outcome="lost")
    tracker.increment(m.CALLS, by=2, outcome="lost")
    tracker.observe(m.APPEND_SECONDS, 0.002)
    scheduler.set(m.WAITING_CALLS, 7, pool="small")

    assert tracker.registry.get_sample_value("dynasor_tracker_calls_total", {"outcome": "lost"}) == 3
    assert tracker.registry.get_sample_value("dynasor_tracker_append_seconds_sum") == 0.002
    assert scheduler.registry.get_sample_value("dynasor_scheduler_waiting_calls", {"pool": "small"}) == 7


def test_a_removed_gauge_series_is_no_longer_exposed() -> None:
    scheduler = m.Metrics("scheduler")
    scheduler.set(m.RUNNING_CALLS, 3, pool="small", worker="w-0")

    scheduler.remove(m.RUNNING_CALLS, worker="w-0", pool="small")
    scheduler.remove(m.RUNNING_CALLS, worker="never-there", pool="small")

    labels = {"pool": "small", "worker": "w-0"}
    assert scheduler.registry.get_sample_value("dynasor_scheduler_running_calls", labels) is None


def test_a_metric_of_another_process_or_kind_is_refused_by_name() -> None:
    gateway = m.Metrics("gateway")

    with pytest.raises(LookupError, match="dynasor_tracker_calls_total is a counter of the tracker"):
        gateway.increment(m.CALLS, outcome="lost")
    with pytest.raises(LookupError, match="dynasor_gateway_watchers is a gauge"):
        gateway.increment(m.WATCHERS)


def test_a_histogram_without_buckets_is_refused() -> None:
    spec = m.MetricSpec("dynasor_gateway_x_seconds", "histogram", "X.", (), "gateway")

    with pytest.raises(ValueError, match="names no buckets"):
        m.Metrics("gateway", [spec])


def test_the_server_answers_on_a_free_port_until_it_is_closed() -> None:
    gateway = m.Metrics("gateway")
    gateway.set(m.WATCHERS, 2)

    server = gateway.start_metrics_server(0, "127.0.0.1")
    url = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        text = response.read().decode()
    server.close()

    assert "dynasor_gateway_watchers 2.0" in text
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
