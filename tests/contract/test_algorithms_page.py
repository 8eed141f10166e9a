"""`docs/algorithms.md` has a section per algorithm, with the parameters and the default rule that the code declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynasor_serve.certaindex.rules.registry import parse_rule
from dynasor_serve.programs.registry import AlgorithmEntry, algorithm_catalogue

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
# title -> the section's text, up to the next title of its level
SECTIONS = dict(re.findall(r"^## (\S.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))


def entries() -> list[AlgorithmEntry]:
    return list(algorithm_catalogue())


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_page_lists_the_parameters_as_the_code_declares_them(entry: AlgorithmEntry) -> None:
    documented = re.findall(r"^\| `\w+` \| \S+ \| .* \|$", SECTIONS[entry.name], re.MULTILINE)

    assert documented == [f"| `{each.name}` | {each.default} | {each.doc} |" for each in entry.parameters]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_the_page_names_the_default_rule_which_fits_what_the_algorithm_shows(entry: AlgorithmEntry) -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| [`{entry.name}`](#{entry.name}) |")]

    assert row.endswith(f"| `{entry.default_rule}` |" if entry.default_rule else "| the server's |")
    assert entry.knob in row.split(" | ")[1]
    assert not entry.default_rule or entry.watches in parse_rule(entry.default_rule).watches
