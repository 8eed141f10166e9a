"""The exposition under vLLM's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from dynasor_serve.engines.replay.metrics import EngineMetrics, EngineState, Histogram, MetricsCollector


def expose(metrics: EngineMetrics, state: EngineState | None = None) -> list[str]:
    registry = CollectorRegistry()
    state = state or EngineState(running=0, waiting=0, kv_cache_usage=0.0)
    registry.register(MetricsCollector(lambda: [("m", metrics, state)]))
    return generate_latest(registry).decode().splitlines()


def test_the_names_and_labels_are_those_of_vllm() -> None:
    metrics = EngineMetrics()
    metrics.generation_tokens = 12
    metrics.finished["stop"] = 3
    lines = expose(metrics, EngineState(running=2, waiting=5, kv_cache_usage=0.25))

    labels = 'engine="0",model_name="m"'
    for line in (
        f"vllm:num_requests_running{{{labels}}} 2.0",
        f"vllm:num_requests_waiting{{{labels}}} 5.0",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.25",
        f"vllm:prefix_cache_queries_total{{{labels}}} 0.0",
        f"vllm:prefix_cache_hits_total{{{labels}}} 0.0",
        f"vllm:num_preemptions_total{{{labels}}} 0.0",
        f"vllm:prompt_tokens_total{{{labels}}} 0.0",
        f"vllm:generation_tokens_total{{{labels}}} 12.0",
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 3.0',
        'vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 0.0',
        f"vllm:time_to_first_token_seconds_count{{{labels}}} 0.0",
        f"vllm:inter_token_latency_seconds_count{{{labels}}} 0.0",
        f"vllm:request_queue_time_seconds_count{{{labels}}} 0.0",
    ):
        assert line in lines


def test_one_observation_may_stand_for_many_and_a_bound_belongs_to_its_bucket() -> None:
    metrics = EngineMetrics()
    metrics.inter_token_seconds = Histogram((0.01, 0.1))
    metrics.inter_token_seconds.observe(0.01, times=5)
    metrics.inter_token_seconds.observe(0.05)
    metrics.inter_token_seconds.observe(7.0)

    name = "vllm:inter_token_latency_seconds"
    shown = [line.rsplit(" ", 1)[1] for line in expose(metrics) if line.startswith((f"{name}_b", f"{name}_c"))]

    assert shown == ["5.0", "6.0", "7.0", "7.0"]
