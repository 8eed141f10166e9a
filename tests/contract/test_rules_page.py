"""`docs/rules.md` has a section per rule, with the parameters that the code declares and examples that come out so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynasor_serve.certaindex.rules import Evidence, parse_chain_rule, parse_rule, parse_vote_rule, rule_catalogue
from dynasor_serve.certaindex.rules.registry import RuleEntry
from dynasor_serve.certaindex.verdict import Verdict
from dynasor_serve.certaindex.votes import Votes
from unit.certaindex.chains import chain

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
RULES = ROOT / "services" / "dynasor_serve" / "certaindex" / "rules"
# title -> the section's text, up to the next title of its level
SECTIONS = dict(re.findall(r"^## (\S.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
ENTRIES = list(rule_catalogue())
# (rule, what it is asked of, what it does)
EXAMPLES = re.findall(
    r"^\| `([a-z&][^`]*)` \| ([^|]*`[^|]*) \| ((?:stops|goes on|prunes)[ \d]*) \|", PAGE, re.MULTILINE
)
# What builds rules, and rules of which each line is needed: two tests or more than one metric in one.
LONGER = {"conjunction", "parameters", "registry", "rule"} | {
    "confidence_prune",
    "default",
    "reward_threshold",
    "trial_confidence",
}


def asked(rule: str, of: str) -> Verdict:
    """Ask a rule about what an example says: "`abc`, tokens 1 2 3" or "trials `aa`, confidences 0.9 0.8"."""
    answers = re.findall(r"`([^`]*)`", of)[0]
    more = {name: values.split() for name, values in re.findall(r", ([a-z]+) ([^,]+)", of)}
    confidences, rewards = (tuple(map(float, more.get(name, ()))) for name in ("confidences", "rewards"))
    if of.startswith("trials"):
        return parse_chain_rule(rule).verdict(chain(answers, confidences=confidences or None))
    names = {name: label for label, name in enumerate(dict.fromkeys(answers.replace("-", "")))}
    votes = Votes(
        tuple(names.get(answer) for answer in answers),
        cap=16,
        rewards=rewards,
        confidences=confidences,
        running=tuple(
            (int(branch), float(low)) for branch, low in (each.split("=") for each in more.get("running", ()))
        ),
        tokens=tuple(map(int, more.get("tokens", ()))),
    )
    return parse_vote_rule(rule).verdict(votes)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_section_says_where_a_rule_comes_from_what_it_reads_and_when_it_goes_wrong(entry: RuleEntry) -> None:
    section = SECTIONS[entry.name]
    assert entry.summary in section
    for heading in ("Source", "Reads", "Goes wrong"):
        assert re.search(rf"^- \*\*{heading}:\*\* \S(?:.*\n  )*.*\.$", section, re.MULTILINE), heading
    assert f"| [`{entry.name}`](#{entry.name}) | {', '.join(sorted(entry.watches))} |" in PAGE


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_page_lists_the_parameters_as_the_code_declares_them(entry: RuleEntry) -> None:
    documented = re.findall(r"^\| `\w+` \| \S+ \| [^|]* \|$", SECTIONS[entry.name], re.MULTILINE)
    assert documented == [f"| `{each.name}` | {each.written(each.default)} | {each.doc} |" for each in entry.parameters]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_rule_has_an_example(entry: RuleEntry) -> None:
    assert entry.name in {parse_rule(rule).name for rule, *_ in EXAMPLES}
    assert entry.watches <= frozenset(Evidence)


def test_every_row_of_examples_is_checked() -> None:
    tables = re.findall(r"^\| Asked \| Of \| It \| Because \|\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert sum(table.count("\n") for table in tables) == len(EXAMPLES) > len(ENTRIES)


@pytest.mark.parametrize(("rule", "of", "does"), EXAMPLES)
def test_the_examples_come_out_as_the_page_says(rule: str, of: str, does: str) -> None:
    verdict = asked(rule, of)
    if verdict.pruned_branches:
        assert does == f"prunes {' '.join(map(str, verdict.pruned_branches))}"
    else:
        assert does == ("stops" if verdict.stops else "goes on"), verdict.reason


def test_a_rule_takes_less_than_sixty_lines() -> None:
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in RULES.glob("*.py")}
    assert {name for name, count in lines.items() if count >= 60} == LONGER
