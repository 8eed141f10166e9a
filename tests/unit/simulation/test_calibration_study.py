"""The study of the promise: what it draws from, that the promise holds there, and that a naive choice does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynasor_serve.certaindex.betting import Floats
from dynasor_serve.certaindex.risk_control import Grid
from dynasor_serve.cli import calibration_study as shown
from dynasor_serve.cli.__main__ import main
from dynasor_serve.simulation.calibration_questions import CalibrationQuestions
from dynasor_serve.simulation.calibration_study import StudyRow, study
from dynasor_serve.simulation.thresholds import Promise

QUESTIONS = 120


def recorded(means: tuple[float, ...] = (0, 0.002, 0.004, 0.1)) -> CalibrationQuestions:
    """Four upper thresholds that lose ever more, each a little on many questions, and save ever more."""
    generator = np.random.default_rng(7)
    losses: Floats = np.stack([generator.permutation(np.linspace(0, 2 * mean, QUESTIONS)) for mean in means], axis=1)
    grid_losses = losses[:, :, np.newaxis]
    tokens = np.broadcast_to(np.array([60.0, 50.0, 40.0, 10.0])[:, np.newaxis], grid_losses.shape)
    return CalibrationQuestions(
        promise=Promise(8, 1, 0.02, 0.95),
        model="m",
        run=None,
        datasets=("d",),
        rules=[[str(each)] for each in means],
        grid=Grid(grid_losses, grid_losses, tokens),
        tokens_full=np.full(QUESTIONS, 100.0),
        left_out=0,
    )


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, int], StudyRow]:
    return {(row.population, row.questions): row for row in study(recorded(), sizes=(250, 1000))}


def test_the_promise_holds_in_every_population(rows: dict[tuple[str, int], StudyRow]) -> None:
    assert len(rows) == 5 * 2
    assert {row.allowed for row in rows.values()} == {123}
    assert all(row.is_valid for row in rows.values()), rows


def test_rules_just_above_the_target_make_the_control_fail(rows: dict[tuple[str, int], StudyRow]) -> None:
    for population in ("rare harm", "restless", "cliff"):
        for questions in (250, 1000):
            assert rows[population, questions].control_fails, rows[population, questions]


def test_what_is_certified_saves_as_its_rule_does(rows: dict[tuple[str, int], StudyRow]) -> None:
    row = rows["recorded", 1000]
    assert row.certified_percent == 100
    assert row.saved_percent == pytest.approx(60, abs=1)  # the third rule; the fourth loses ten points
    assert row.exceeded == 0
    assert rows["recorded", 250].saved_percent <= row.saved_percent


def test_no_rule_that_is_just_too_bad_is_called_good_often(rows: dict[tuple[str, int], StudyRow]) -> None:
    """Where every rule exceeds the target, each certificate is a mistake."""
    for population in ("rare harm", "restless", "shifted"):
        row = rows[population, 1000]
        assert row.exceeded == pytest.approx(row.sets * row.certified_percent / 100)


def test_the_true_risk_is_that_of_the_population_drawn_from() -> None:
    """Rules that are harmless as recorded are too bad in what is made of them."""
    harmless = study(recorded((0, 0, 0, 0)), sizes=(250,))
    exceeded = {row.population: row.control_exceeded for row in harmless}
    assert exceeded["recorded"] == 0
    assert min(exceeded["rare harm"], exceeded["restless"], exceeded["cliff"]) > 123


def test_a_study_is_drawn_by_its_seed() -> None:
    one, same, other = (list(study(recorded(), sizes=(250,), sets=50, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other


# --- the command ---


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["dynasor", "calibrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """Two runs of three samples a question, and one that is always right."""
    lines = []
    for model, right in (("a", (3, 2, 1, 0)), ("b", (3, 3, 2, 0)), ("always", (3,))):
        for number in range(40):
            answers = (["7"] * right[number % len(right)] + ["8", "9", "8"])[:3]
            samples = [{"answer": each, "correct": each == "7", "tokens": 10} for each in answers]
            record = {"dataset": "d", "model": model, "question_id": f"q{number}", "gold": "7"}
            lines.append(json.dumps(record | {"tokens_kind": "exact", "samples": samples}))
    file = tmp_path / "votes.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_the_study_of_files_has_a_row_per_run_population_and_size(
    votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert command(monkeypatch, "--study", votes, "--shuffles", 2, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["rows"]) == 2 * 5 * 3
    assert all(row["is_valid"] for row in result["rows"])
    assert {row["model"] for row in result["rows"]} == {"a", "b"}
    (left_out,) = result["runs_left_out"]
    assert left_out.startswith("always: every sample is right")


def test_the_table_says_whether_the_promise_holds(votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert command(monkeypatch, "--study", votes, "--shuffles", 2) == 0
    out = capsys.readouterr().out
    assert "d: 40 questions, 2 runs" in out
    assert "the promise holds in 30 of 30 rows" in out


def test_a_broken_promise_is_no_success(votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    row = next(study(recorded(), sizes=(250,), sets=20))
    monkeypatch.setattr(shown, "study", lambda questions, seed: [replace(row, exceeded=row.allowed + 1)])
    assert command(monkeypatch, "--study", votes, "--shuffles", 1, "--model", "a") == 1
    assert "broken in 1 of 1 rows" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [(), ("--study", "--out", "policy.json")])
def test_either_a_study_or_a_policy(
    arguments: tuple[str, ...], votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert command(monkeypatch, votes, *arguments) == 2
    assert "--out FILE, or give --study" in capsys.readouterr().err


def test_files_without_one_usable_run_have_no_study(votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert command(monkeypatch, "--study", votes, "--model", "always") == 2
    assert "NO_PROMISE: always: every sample is right" in capsys.readouterr().err
