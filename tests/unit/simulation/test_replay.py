"""`dynasor replay`, from files to rows: the fixed keys, the bundled traces, and what wrong input is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.certaindex.rules.registry import rule_catalogue
from dynasor_serve.cli.__main__ import main
from dynasor_serve.cli.replay import row_json
from dynasor_serve.engines.replay.traces import TraceFormatError
from dynasor_serve.local.questions.question_set import TRACES
from dynasor_serve.simulation.replay import ReplaySettings, replay_files

KEYS = {
    *("dataset", "model", "source", "run", "rule", "questions", "accuracy", "accuracy_full", "delta_points"),
    *("delta_low", "delta_high", "tokens", "tokens_full", "saved_percent", "harm", "rescue", "equal_token_accuracy"),
}
FIVE_OF_SIX = ["7", "7", "3", "7", "7", "7"]


def votes(question: str = "q1", answers: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    samples = [{"answer": each, "correct": each == "7", "tokens": 10} for each in answers or FIVE_OF_SIX]
    record = {"dataset": "d", "model": "m", "question_id": question, "gold": "7", "tokens_kind": "exact"}
    return record | {"samples": samples} | changes


def chain(question: str = "q1", **changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "dataset": "d",
        "model": "m",
        "source": "s",
        "question_id": question,
        "gold": "7",
        "seed": 1,
        "tokens": 400,
        "final_answer": "7",
        "final_correct": True,
        "answers": ["7"],
        "answer_correct": [True],
        "answer_cluster": ["=gold"],
        "probe_fields": ["token_position", "answer_index", "certain", "probe_out_tokens"],
        "probes": [[64, 0, 1, 5], [128, 0, 1, 5]],
    }
    return record | changes


def tree() -> dict[str, Any]:
    thought = {"thought": "7", "parent": 0, "value": 1.0, "selected": True, "tokens": 10}
    record = {"dataset": "d", "model": "m", "question_id": "q1", "gold": "7"}
    return record | {"steps": [{"candidates": [thought]}], "final": [{"thought": "7", "correct": True}]}


def written(path: Path, *records: dict[str, Any] | str) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def rows_of(*files: Path, rules: tuple[str, ...], **settings: Any) -> list[dict[str, Any]]:
    return [row_json(row) for row in replay_files(files, rules, ReplaySettings(**settings)).rows()]


def test_rows_have_the_fixed_keys_and_name_the_rule_as_given(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path / "t.jsonl", votes()), rules=("beta-posterior:confidence=0.90",))
    assert [row["run"] for row in rows] == [None, "mean"]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["rule"] == "beta-posterior:confidence=0.90"
        assert row["accuracy"] - row["accuracy_full"] == row["delta_points"]


def test_a_recorded_order_is_replayed_as_it_is(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", votes(answers=["7", "7", "3", "3", "3", "3"]))
    row, _ = rows_of(file, rules=("n-step-threshold:threshold=0.9,every=2",), shuffles=0)
    assert (row["accuracy"], row["accuracy_full"], row["tokens"]) == (100.0, 0.0, 20.0)
    assert (row["harm"], row["rescue"], row["saved_percent"]) == (0.0, 1.0, pytest.approx(66.6667))


def test_a_cap_takes_the_first_samples_of_the_order(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", votes(answers=["7", "3", "3"]))
    row, _ = rows_of(file, rules=("even",), shuffles=0, cap=1)
    assert (row["accuracy_full"], row["tokens_full"]) == (100.0, 10.0)


def test_the_same_seed_gives_the_same_rows() -> None:
    rules = ("beta-posterior", "majority-locked")
    first, again, other = (rows_of(TRACES, rules=rules, shuffles=3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_runs_are_scored_apart_and_together(tmp_path: Path) -> None:
    file = written(
        tmp_path / "t.jsonl",
        votes(run_id="one"),
        votes(run_id="two", model="n", answers=["3", "3"]),
    )
    one, two, mean = rows_of(file, rules=("even",))
    assert (one["run"], one["model"], two["run"], mean["run"], mean["model"]) == ("one", "m", "two", "mean", None)
    assert (one["accuracy"], two["accuracy"], mean["accuracy"], mean["runs"]) == (100.0, 0.0, 50.0, 2)


def test_runs_that_share_a_name_are_told_apart_by_all_their_names(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", votes(method="x", effort="low"), votes(method="x", effort="high"))
    assert [row["run"] for row in rows_of(file, rules=("even",))] == ["low x", "high x", "mean"]


def test_chains_of_one_question_may_vote(tmp_path: Path) -> None:
    chains = [chain(seed=seed, rollout=seed, tokens=400 + seed) for seed in range(3)]
    file = written(tmp_path / "t.jsonl", *chains)
    window = "consensus-window:window=2,interval=64"
    row, _ = rows_of(file, rules=("majority-locked",), shuffles=0)
    assert (row["kind"], row["tokens_full"], row["tokens"]) == ("votes", 1203.0, 801.0)
    row, _ = rows_of(file, rules=("majority-locked",), shuffles=0, chain_rule=window)
    # Against the same chains run to their end, so that what settling them costs and saves is in the row.
    assert (row["tokens_full"], row["tokens"], row["accuracy"]) == (1203.0, 2 * 138.0, 100.0)


def test_on_the_bundled_traces_even_saves_nothing_and_a_locked_majority_changes_nothing() -> None:
    rows = rows_of(TRACES, rules=("even", "majority-locked"), shuffles=4)
    kinds = {row["kind"] for row in rows}
    assert kinds == {"votes", "chains", "trees"}
    for row in rows:
        assert row["delta_points"] == row["harm"] == row["rescue"] == 0.0 or row["kind"] == "trees"
        assert row["saved_percent"] == 0.0 or row["rule"] == "majority-locked"
    assert any(row["saved_percent"] > 0 for row in rows)


def test_every_rule_of_the_catalogue_can_be_replayed() -> None:
    examples = [entry.example for entry in rule_catalogue()]
    rows = replay_files([TRACES], examples, ReplaySettings(shuffles=1), all_must_fit=False).rows()
    assert {row.rule for row in rows} <= {*examples}
    assert len({row.rule for row in rows}) >= len(examples) - 2


# --- what is wrong, and what would be right ---


def test_two_lines_with_one_identity_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", chain(), chain(seed=2), chain())
    with pytest.raises(TraceFormatError, match=r"t\.jsonl:3: line 1 has the same identity .*seed 1") as refused:
        replay_files([file], ["even"], ReplaySettings())
    assert "question_id 'q1'" in str(refused.value)


@pytest.mark.parametrize("apart", ["source", "budget", "seed", "rollout"])
def test_votes_and_trees_have_the_whole_identity_too(apart: str, tmp_path: Path) -> None:
    names = ("a", "b") if apart == "source" else (1, 2)
    for number, record in enumerate((votes(), tree())):
        file = written(tmp_path / f"{number}.jsonl", *(record | {apart: name} for name in names))
        rows = [row for row in rows_of(file, rules=("even",), shuffles=0) if row["run"] != "mean"]
        assert len(rows) == (2 if apart in ("source", "budget") else 1)
        assert [row["source"] for row in rows] == (["a", "b"] if apart == "source" else [None] * len(rows))


def test_the_identity_in_a_refusal_is_cut_short(tmp_path: Path) -> None:
    file = written(tmp_path / "t.jsonl", *[votes("{" * 1_000_000)] * 2)
    with pytest.raises(TraceFormatError, match="same identity") as refused:
        replay_files([file], ["even"], ReplaySettings())
    assert len(str(refused.value)) < 1000


def test_the_same_chain_in_two_files_is_taken(tmp_path: Path) -> None:
    files = [written(tmp_path / name, chain()) for name in ("a.jsonl", "b.jsonl")]
    row, _ = rows_of(*files, rules=("even",))
    assert row["questions"] == 1


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["dynasor", "replay", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "hold no record"),
        (["{not json"], "t.jsonl:1: not JSON"),
        ([votes(), votes("q2", samples=[{"answer": "7", "correct": True, "tokens": -1}])], "t.jsonl:2"),
        ([votes(samples=[{"answer": "7", "correct": True, "tokens": "many"}])], "samples[0].tokens"),
        (['{"dataset": "d", "samples": [{"tokens": NaN}]}'], "t.jsonl:1"),
        ([chain(probes=[[64, 7, 1, 5]])], "probes[0] has answer 7"),
        ([chain(answer_correct=[True, False])], "answer_correct has 2 entries"),
        ([chain(answer_correct=None)], "answer_correct is missing"),
        ([chain(answer_correct=[None])], "answer_correct is null for an answer"),
        ([votes(samples=[{"answer": "7", "correct": True, "tokens": 10**400}])], "samples[0].tokens"),
        ([chain(probes=[[64, 0, 1, 1e300]])], "probes[0] has 1e+300 tokens"),
        ([chain(probes=[[64.2, 0, 1, 5], [64.7, 0, 1, 5]])], "probes[0] has token_position 64.2"),
        ([chain(probes=[[64, 0.5, 1, 5]])], "probes[0] has answer_index 0.5"),
        ([chain(probes=[[64, 0, 0.5, 5]])], "probes[0] has certain 0.5"),
        (["[" * 100_000], "t.jsonl:1"),
    ],
    ids=[
        *("empty", "no JSON", "negative", "wrong type", "NaN", "index", "out of step", "unscored", "unlabelled"),
        *("huge", "huge probe", "fractional position", "fractional index", "half certain", "deep"),
    ],
)
def test_bad_traces_are_named_by_line_and_field(
    lines: list[Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, plot = written(tmp_path / "t.jsonl", *lines), tmp_path / "frontier.png"
    assert command(monkeypatch, file, "--rule", "even", "--json", "--plot", plot) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert printed.out == ""
    assert [each.name for each in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("no-such-rule", "known rules"),
        ("beta-posterior:sureness=1", "known parameters: confidence"),
        ("beta-posterior:confidence=nan", "nan is not allowed"),
        ("consensus-window", "fits none of the records"),
        ("confidence-prune", "traces do not record it"),
    ],
)
def test_bad_rules_are_named_with_what_is_right(
    rule: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, written(tmp_path / "t.jsonl", votes()), "--rule", rule) == 2
    assert said in capsys.readouterr().err


def test_a_hostile_answer_is_only_an_answer(tmp_path: Path) -> None:
    braces = "{" * 10_000_000
    file = written(tmp_path / "t.jsonl", votes(answers=["7", braces, braces, "7", "7"]))
    row, _ = rows_of(file, rules=("beta-posterior",), shuffles=2)
    assert row["accuracy"] == 100.0


def test_the_frontier_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = tmp_path / "frontier.png"
    arguments = [TRACES, "--rule", "beta-posterior", "--shuffles", 2, "--plot", plot]
    monkeypatch.setattr("sys.argv", ["dynasor", "replay", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [each.name for each in tmp_path.iterdir()] == ["frontier.png"]
