"""`docs/orderings.md` has a section per ordering, the settings' defaults, and the numbers that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.scheduling.fairness import Fairness
from dynasor_serve.scheduling.history import MOST_TOKENS_PER_BRANCH, UNKNOWN_TOKENS_PER_BRANCH
from dynasor_serve.scheduling.orderings.deadline_slack import MILLISECONDS_PER_TOKEN
from dynasor_serve.scheduling.orderings.registry import ordering_names, parse_ordering

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "orderings.md").read_text(encoding="utf-8")
ORDERINGS = ROOT / "services" / "dynasor_serve" / "scheduling" / "orderings"
# title -> the section's text, up to the next title of its level
SECTIONS = dict(re.findall(r"^## (\S.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))


@pytest.mark.parametrize("name", ordering_names())
def test_a_section_says_where_an_ordering_comes_from_what_it_reads_and_when_it_goes_wrong(name: str) -> None:
    section = SECTIONS[name]
    summary = type(parse_ordering(name)).__doc__
    assert summary is not None
    assert section.strip().splitlines()[0] == summary
    for heading in ("Source", "Reads", "Engine priority", "Goes wrong"):
        assert re.search(rf"^- \*\*{heading}:\*\* \S(?:.*\n  )*.*\.$", section, re.MULTILINE), heading
    assert f"| [`{name}`](#{name}) | " in PAGE


def test_the_page_has_no_section_of_an_ordering_that_is_gone() -> None:
    named = [title for title in SECTIONS if re.fullmatch(r"[a-z-]+", title)]
    assert named == list(ordering_names())


def test_an_ordering_is_one_small_module_named_after_its_type_string() -> None:
    modules = {path.stem.replace("_", "-"): path for path in ORDERINGS.glob("*.py")}
    assert modules.keys() - {"--init--", "registry"} == set(ordering_names())
    assert all(len(modules[name].read_text(encoding="utf-8").splitlines()) < 60 for name in ordering_names())


def test_the_settings_have_the_defaults_that_the_page_says() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| `(.*)` \|$", PAGE, re.MULTILINE))
    assert documented.keys() == {
        "ORDERING",
        "TRICKLE_GRANTS",
        "LONGEST_WAIT_SHARES",
        "LONGEST_WAIT_SECONDS",
        "TENANT_WEIGHTS",
    }
    for name, default in documented.items():
        field = SchedulerSettings.model_fields[name.lower()]
        assert str(field.get_default(call_default_factory=True)) == default, name


def test_a_scheduler_promises_by_default_what_a_pool_does() -> None:
    defaults = {
        name: SchedulerSettings.model_fields[name].get_default(call_default_factory=True)
        for name in Fairness.__dataclass_fields__
    }
    assert Fairness(**defaults) == Fairness()


def test_the_page_says_the_numbers_of_the_code() -> None:
    assert f"at {MILLISECONDS_PER_TOKEN:.0f} ms per token" in SECTIONS["deadline-slack"]
    common = " ".join(SECTIONS["What holds for all of them"].split())
    assert f"before any, {UNKNOWN_TOKENS_PER_BRANCH:.0f}." in common
    assert MOST_TOKENS_PER_BRANCH == 10_000_000
    assert "beyond ten million" in common
