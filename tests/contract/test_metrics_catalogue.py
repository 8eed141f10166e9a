"""`docs/metrics.md` is the catalogue that the code declares, and the catalogue keeps Prometheus' conventions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynasor_serve.telemetry.metrics import METRICS, MetricSpec

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
# Labels whose values nobody can count: each would be a series of its own.
UNBOUNDED_LABELS = {"answer", "call", "call_id", "program", "prompt", "query", "query_id", "tenant", "trace_id"}


def row(spec: MetricSpec) -> str:
    """The spec as a row of the page's table."""
    labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
    return f"| `{spec.name}` | {spec.kind} | {labels} | {spec.process} | {spec.help} |"


def test_the_page_lists_every_metric_as_the_code_declares_it() -> None:
    documented = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `dynasor_")]

    assert documented == [row(spec) for spec in METRICS], "the rows of docs/metrics.md, in the order of METRICS"


def test_names_are_unique() -> None:
    names = [spec.name for spec in METRICS]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_a_metric_keeps_the_conventions(spec: MetricSpec) -> None:
    assert spec.name.startswith(f"dynasor_{spec.process}_")
    assert spec.name.endswith("_total") == (spec.kind == "counter"), "`_total` marks the counters"
    assert (spec.buckets is not None) == (spec.kind == "histogram")
    assert spec.buckets is None or list(spec.buckets) == sorted(set(spec.buckets)), "bounds rise"
    assert not UNBOUNDED_LABELS & set(spec.labels), "put it in a log line or in the ledger instead"
    assert spec.help.endswith(".")
    assert "|" not in spec.help, "it would break the table"
