"""The scheduler's benchmark: it decides what it says it decides, for every ordering. No timing is asserted."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dynasor_serve.cli.bench import bench
from dynasor_serve.local.scheduler_benchmark import measure_scheduler
from dynasor_serve.scheduling.orderings.registry import ordering_names


@pytest.mark.parametrize("ordering", ordering_names())
def test_places_stay_taken_while_programs_come_and_go(ordering: str) -> None:
    """With 100 programs of 16 branches each, 1900 decisions outlive every program that was there at first."""
    report = measure_scheduler(ordering, programs=100, workers=7, decisions=1900)

    assert (report.ordering, report.programs, report.workers, report.decisions) == (ordering, 100, 7, 1900)
    assert report.places == 100
    assert 0 < report.p50_us <= report.p99_us <= report.longest_ms * 1e3
    assert 0.5 < report.kib_per_program < 20


def test_the_command_prints_one_line_of_json_for_all_orderings() -> None:
    arguments = ["scheduler", "--programs", "100", "--workers", "3", "--decisions", "100", "--all", "--json"]
    result = CliRunner().invoke(bench, arguments)

    assert [report["ordering"] for report in json.loads(result.stdout)] == list(ordering_names())


def test_an_unknown_ordering_is_refused_with_the_known_ones() -> None:
    result = CliRunner().invoke(bench, ["scheduler", "--ordering", "lifo"])

    assert result.exit_code != 0
    assert "gang-shortest" in str(result.exception) + result.output
