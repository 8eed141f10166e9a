"""`docs/placement.md` says the numbers that the code has."""

from __future__ import annotations

from pathlib import Path

from dynasor_serve.scheduler.health import MISSES_TO_QUARANTINE
from dynasor_serve.scheduling.fleet import FAILURES_TO_QUARANTINE
from dynasor_serve.scheduling.placement import OVERLOADED_SHARE, OVERLOADED_TIMES, RESERVED_ONE_OF, work_of

PAGE = " ".join((Path(__file__).parents[2] / "docs" / "placement.md").read_text(encoding="utf-8").split())


def test_a_home_is_overloaded_where_the_page_says() -> None:
    assert f"it has more than {OVERLOADED_TIMES} times the work of the least loaded worker with room" in PAGE
    assert f"ahead of that worker by more than {OVERLOADED_SHARE} of its places" in PAGE


def test_work_is_what_the_page_says() -> None:
    assert "forecast completion tokens + (prompt tokens + forecast completion tokens)" in PAGE
    assert work_of(tokens_per_branch=100, prompt_tokens=30) == 100 + (30 + 100)


def test_speculation_leaves_free_what_the_page_says() -> None:
    assert f"more than one place in {RESERVED_ONE_OF}, rounded up, is free" in PAGE


def test_quarantine_begins_where_the_page_says() -> None:
    assert f"fails {FAILURES_TO_QUARANTINE} calls in a row, or two health checks," in PAGE
    assert MISSES_TO_QUARANTINE == 2
