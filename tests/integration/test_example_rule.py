"""The example package in `examples/lead-by-rule`: installed, it is a rule like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lead-by-rule"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def run(*command: str, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package was installed, offline and apart from this environment."""
    target = tmp_path_factory.mktemp("lead-by")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--target", str(target), str(EXAMPLE))
    return target


def test_the_rule_is_listed_with_its_parameters(installed: Path) -> None:
    rules = json.loads(run(sys.executable, "-m", "dynasor_serve.cli", "rules", "--json", path=installed))
    (entry,) = [rule for rule in rules if rule["name"] == "lead-by"]
    assert entry["type_string"] == "lead-by:margin=3"
    assert entry["summary"] == "Stops when the leader has `margin` votes more than any other answer."
    assert [(each["name"], each["default"]) for each in entry["parameters"]] == [("margin", 3)]
    assert "lead-by" not in run(sys.executable, "-m", "dynasor_serve.cli", "rules"), "where it is not installed"


def test_the_rule_is_read_asked_and_refused_like_any_other(installed: Path) -> None:
    program = """
from dynasor_serve.certaindex.rules import InvalidRule, parse_vote_rule
from dynasor_serve.certaindex.votes import Votes
rule = parse_vote_rule("lead-by:margin=2 & m-of-n:m=3")
print(rule)
for labels in ((), (None,) * 4, (0, 0), (0, 1, 0), (0, 1, 0, 0), (0, 0, 0)):
    print(rule.verdict(Votes(labels, cap=16)).stops)
try:
    parse_vote_rule("lead-by:margin=0")
except InvalidRule as refused:
    print(refused)
"""
    told = run(sys.executable, "-c", program, path=installed).splitlines()
    assert told[0] == "lead-by:margin=2 & m-of-n:m=3"
    assert told[1:7] == ["False", "False", "False", "False", "True", "True"]
    assert told[7].startswith("rule.margin: 0 is not allowed; it must be a whole number at least 1")


def test_the_rule_takes_one_short_file() -> None:
    modules = list(EXAMPLE.rglob("*.py"))
    assert len(modules) == 1
    assert len(modules[0].read_text(encoding="utf-8").splitlines()) < 60
