"""`dynasor bench batch` and `dynasor profile`: policies over caps, fitted on other questions than those scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.certaindex.labelled_runs import LabelledRun
from dynasor_serve.certaindex.rules.registry import parse_vote_rule
from dynasor_serve.cli.__main__ import main
from dynasor_serve.cli.study import study_text
from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.simulation import allocation
from dynasor_serve.simulation.allocation import AllocationSettings, Point, study_of, uniform_share
from dynasor_serve.simulation.outcomes import Ending
from dynasor_serve.simulation.scores import PlainBudgets

QUESTIONS = 12
SAMPLES = 8


def written(path: Path, **changes: Any) -> Path:
    """Votes on twelve questions: two of three agree from the start, of the others every second sample is right."""
    lines = []
    for number in range(QUESTIONS):
        answers = ["7" if number % 3 or at % 2 else str(at) for at in range(SAMPLES)]
        samples = [{"answer": each, "correct": each == "7", "tokens": 10 + number} for each in answers]
        record = {"dataset": "d", "model": "m", "question_id": f"q{number}", "gold": "7", "tokens_kind": "exact"}
        lines.append(json.dumps(record | {"samples": samples} | changes))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return written(tmp_path / "votes.jsonl")


def at_the_cap(points: Sequence[Point], policy: str) -> Point:
    (point,) = (point for point in points if point.policy == policy and point.cap == SAMPLES)
    return point


def test_every_policy_is_scored_at_every_cap(votes: Path) -> None:
    study = study_of([votes], AllocationSettings(shuffles=3))
    points = study.points
    policies = dict.fromkeys(point.policy for point in points)
    assert {"even", "length", "static-threshold", "initial-curve", "dynamic-curve"} <= policies.keys()
    for policy in policies:
        assert [point.cap for point in points if point.policy == policy] == [4, 5, 6, 8]
    assert all(point.score.questions == QUESTIONS for point in points)
    assert "d: votes, cap 8; 12 questions" in study_text(study)


def test_savings_are_against_the_same_program_at_its_cap(votes: Path) -> None:
    points = study_of([votes], AllocationSettings(shuffles=3)).points
    even, static = at_the_cap(points, "even"), at_the_cap(points, "static-threshold")
    assert (even.saved_percent, even.score.delta_points) == (0.0, 0.0)
    assert even.score.tokens == even.score.tokens_full
    # Two of three questions are unanimous and stop after five of eight samples.
    assert static.saved_percent == pytest.approx(100 * 2 / 3 * 3 / 8, rel=0.15)
    assert static.score.tokens_full == even.score.tokens


def test_a_policy_is_never_fitted_on_the_questions_that_it_is_scored_on(
    votes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[set[int]] = []

    def fit(policy: str, runs: Sequence[LabelledRun], **_: Any) -> str:
        del policy
        taught.append({run.votes.tokens[0] - 10 for run in runs})
        return "even"

    monkeypatch.setattr(allocation, "fit", fit)
    study_of([votes], AllocationSettings(shuffles=1))
    halves = {frozenset(each) for each in taught}
    assert len(halves) == 2
    first, second = halves
    assert first | second == {*range(QUESTIONS)}
    assert not first & second


def test_a_verifiable_vote_has_one_policy(tmp_path: Path) -> None:
    file = written(tmp_path / "votes.jsonl", verifiable=True)
    points = study_of([file], AllocationSettings(shuffles=2)).points
    assert {point.policy for point in points} == {"even", "first verified"}
    assert at_the_cap(points, "first verified").score.accuracy == 100.0
    assert at_the_cap(points, "first verified").saved_percent > 70


def test_chains_and_trees_of_the_bundled_traces_are_one_point_per_rule() -> None:
    files = [TRACES / f"word-problems-{kind}.jsonl.gz" for kind in ("chains", "trees")]
    study = study_of(files, AllocationSettings())
    assert {(point.kind, point.cap) for point in study.points} == {("chains", None), ("trees", None)}
    assert "word-problems: trees; 12 questions" in study_text(study)


def test_runs_that_suit_different_rules_are_each_set_beside_their_own_budget(tmp_path: Path) -> None:
    probed = {"certain": [[64 * at, 0, 1, 5] for at in range(1, 12)], "confidence": [[100, 0, 1, 5], [200, 0, 1, 5]]}
    record = {"dataset": "d", "question_id": "q", "gold": "7", "final_answer": "7", "final_correct": True}
    record |= {"tokens": 1000, "answers": ["7"], "answer_correct": [True]}
    lines = []
    for how, probes in probed.items():
        fields = ["token_position", "answer_index", how, "probe_out_tokens"]
        lines.append(json.dumps(record | {"model": how, "probe_fields": fields, "probes": probes}))
    (tmp_path / "chains.jsonl").write_text("\n".join(lines))
    points = study_of([tmp_path / "chains.jsonl"], AllocationSettings()).points
    assert {point.policy.partition(":")[0] for point in points} == {"consensus-window", "trial-confidence"}
    assert all(point.runs == 1 for point in points)


def test_a_vote_of_one_sample_spends_it(tmp_path: Path) -> None:
    file = written(tmp_path / "votes.jsonl", samples=[{"answer": "7", "correct": True, "tokens": 10}])
    points = study_of([file], AllocationSettings(shuffles=1)).points
    assert all(point.saved_percent == 0 and point.cap == 1 for point in points)


def test_programs_without_tokens_save_none(tmp_path: Path) -> None:
    file = written(tmp_path / "votes.jsonl", samples=[{"answer": "7", "correct": True, "tokens": 0}] * SAMPLES)
    points = study_of([file], AllocationSettings(shuffles=1)).points
    assert {point.saved_at_equal_accuracy for point in points} == {0.0}


def test_the_uniform_budget_that_is_as_accurate() -> None:
    budgets = PlainBudgets(by_tokens=False)
    for ladder in ((False, True, True, True), (True, True, True, True)):
        budgets.add([Ending(is_right, 10 * count) for count, is_right in enumerate(ladder, start=1)])
    assert uniform_share([budgets], 100.0) == pytest.approx(0.5, abs=0.01)
    assert uniform_share([budgets], 50.0) == pytest.approx(0.25, abs=0.01)
    assert uniform_share([budgets], 100.1) == 1.0


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["dynasor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_bench_batch_prints_rows_and_draws(
    votes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "batch.png"
    assert run(monkeypatch, "bench", "batch", votes, "--shuffles", 2, "--plot", plot, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {"policy", "cap", "accuracy", "tokens", "saved_percent", "saved_at_equal_accuracy_percent"} <= rows[0].keys()
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_profile_prints_rules_that_can_be_used(
    votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "profile", votes, "--json") == 0
    fitted = json.loads(capsys.readouterr().out)
    assert (fitted["programs"], fitted["cap"]) == (QUESTIONS, SAMPLES)
    for type_string in fitted["policies"].values():
        parse_vote_rule(type_string)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("profile", "votes.jsonl", "--policy", "guess"), "known are static-threshold"),
        (("profile", "votes.jsonl", "--cap", "99"), "has 99 samples"),
        (("profile", "missing.jsonl"), "no such file"),
        (("bench", "batch", "empty.jsonl"), "hold no record"),
        (("bench", "batch", "broken.jsonl", "--plot", "p.png"), "broken.jsonl:1"),
        (("bench", "batch", "twice.jsonl"), "twice.jsonl:13: line 1 has the same identity"),
        (("profile", "twice.jsonl"), "twice.jsonl:13: line 1 has the same identity"),
    ],
)
def test_wrong_input_is_told_what_is_right(
    arguments: tuple[str, ...],
    said: str,
    votes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(votes.parent)
    Path("empty.jsonl").write_text("")
    Path("broken.jsonl").write_text("{")
    Path("twice.jsonl").write_text(f"{votes.read_text()}\n{votes.read_text()}")
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert not Path("p.png").exists()
