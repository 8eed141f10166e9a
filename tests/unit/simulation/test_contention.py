"""`dynasor bench allocation`: recorded votes on a short pool and on one with places left over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dynasor_serve.cli.__main__ import main
from dynasor_serve.simulation.contention import (
    EVEN_SPLIT,
    ORDERINGS,
    SHOWN_SHARES,
    Contender,
    ContentionSettings,
    contention_of,
    even_split,
    needed_share,
    played,
)
from dynasor_serve.simulation.recorded_programs import RecordedProgram
from dynasor_serve.simulation.speculation import SpeculationSettings, speculation_of
from dynasor_serve.simulation.virtual_pool import Reply

QUESTIONS, SAMPLES = 40, 12


def easy(number: int) -> list[str]:
    """Always right."""
    return ["7"] * SAMPLES


def contested(number: int) -> list[str]:
    """Two of three are right, and the first two are not."""
    return ["1", "1", *("7" if at % 3 else "1" for at in range(1, SAMPLES - 1))]


def written(path: Path) -> Path:
    """Votes on forty questions, every second of which is settled from the start."""
    lines = []
    for number in range(QUESTIONS):
        answers = (contested if number % 2 else easy)(number)
        samples = [{"answer": each, "correct": each == "7", "tokens": 100} for each in answers]
        record = {"dataset": "d", "model": "m", "question_id": f"q{number}", "gold": "7", "tokens_kind": "exact"}
        lines.append(json.dumps(record | {"samples": samples}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return written(tmp_path / "votes.jsonl")


def program(question: str, *answers: str, right: str = "7", tokens: int = 100) -> RecordedProgram:
    return RecordedProgram(question, tuple(Reply(answer, tokens) for answer in answers), frozenset({right}))


def at_share(rights: np.ndarray, share: float) -> list[float]:
    """Whether each program is right by a share of the tokens."""
    return [float(each) for each in rights[:, round(share * (rights.shape[1] - 1))]]


def test_an_even_split_gives_each_program_one_sample_after_the_other() -> None:
    rights = even_split([program("a", "1", "7", "7"), program("b", "7", "1", "1")])

    # Six samples of a sixth each, in turns: a, b, a, b, a, b; a tie goes to the answer seen first.
    assert at_share(rights, 0.0) == [0, 0]
    assert at_share(rights, 0.34) == [0, 1]
    assert at_share(rights, 0.8) == [0, 1]
    assert at_share(rights, 0.85) == [1, 1]
    assert at_share(rights, 1.0) == [1, 0]


def test_on_one_place_every_ordering_ends_where_the_even_split_does() -> None:
    programs = [program("a", "1", "7", "7"), program("b", "7", "1", "7"), program("c", "1", "1", "1")]
    settings = ContentionSettings(places=1)
    for ordering in ORDERINGS:
        rights = played(programs, ordering, 1, settings)
        assert at_share(rights, 1.0) == at_share(even_split(programs), 1.0) == [1, 1, 0]


def test_contested_votes_get_what_settled_ones_do_not_need() -> None:
    """After two samples each, a program of equal answers waits while the contested one runs to its end."""
    settled, open_vote = program("a", *"7777777777"), program("b", *"1717777777")
    settings = ContentionSettings(places=1)

    by_gain = played([settled, open_vote], "expected-gain", 1, settings)
    by_turns = played([settled, open_vote], "least-attained-service", 1, settings)

    def first_right(rights: np.ndarray) -> int:
        """The point from which on the contested vote is right."""
        return int(np.flatnonzero(rights[1] == 0)[-1])

    assert first_right(by_gain) < first_right(by_turns)


def of_policy(contenders: list[Contender], policy: str, width: int | None) -> Contender:
    (contender,) = (each for each in contenders if (each.policy, each.width) == (policy, width))
    return contender


def test_expected_gain_needs_fewer_tokens_than_an_even_split(votes: Path) -> None:
    contenders = contention_of([votes], ContentionSettings(places=4, shuffles=2, widths=(2,)))

    even, gain = of_policy(contenders, EVEN_SPLIT, None), of_policy(contenders, "expected-gain", 2)
    assert {each.policy for each in contenders} == {EVEN_SPLIT, *ORDERINGS}
    assert all(interval.mean == interval.low == interval.high == 0 for interval in even.gained)
    assert gain.needed_share.mean < 0.8 * even.needed_share.mean
    assert gain.gained[SHOWN_SHARES.index(0.5)].low > 0
    assert (gain.questions, gain.runs, gain.accuracy_full) == (QUESTIONS, 1, even.accuracy_full)


def test_the_tokens_that_are_needed_are_those_after_the_last_time_that_it_was_too_bad() -> None:
    curves = np.array([[0, 60, 80, 79, 80.0], [0, 60, 60, 60, 60], [90, 90, 90, 90, 90]])
    grid = np.linspace(0, 1, 5)
    assert [*needed_share(curves, np.array([80.0, 80, 80]), grid)] == [1.0, 1.0, 0.0]
    assert [*needed_share(curves, np.array([79.0, 60, 95]), grid)] == [0.5, 0.25, 1.0]


def test_speculation_answers_sooner_on_an_idle_pool_and_pays_in_tokens(votes: Path) -> None:
    settings = SpeculationSettings(places=32, loads=(0.05, 0.8), rule="majority-locked")
    idle, busy = speculation_of([votes], settings)

    assert idle.programs == QUESTIONS
    assert idle.wide.mean_seconds < 0.6 * idle.narrow.mean_seconds
    assert idle.wide.tokens > idle.narrow.tokens
    assert idle.seconds_saved_percent > busy.seconds_saved_percent
    assert idle.narrow.accuracy == idle.wide.accuracy, "what stops here cannot be outvoted at any width"


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit status of `dynasor bench allocation`."""
    monkeypatch.setattr("sys.argv", ["dynasor", "bench", "allocation", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_shows_both_studies(
    votes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [votes, "--places", "4", "--shuffles", "1"]
    assert status_of(monkeypatch, *asked, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["policy"], row["width"]) for row in shown["short_pool"]][:2] == [(EVEN_SPLIT, None), (ORDERINGS[0], 1)]
    assert [row["load"] for row in shown["idle_pool"]] == [0.1, 0.5, 0.9]

    assert status_of(monkeypatch, *asked) == 0
    text = capsys.readouterr().out
    assert f"d: a short pool; {QUESTIONS} questions, mean over 1 run" in text
    assert f"d: a pool with places left over; {QUESTIONS} programs" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rule", "nonsense"], "--rule: there is no rule 'nonsense'"),
        (["--rule", "consensus-window"], "--rule"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(
    votes: Path,
    options: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert status_of(monkeypatch, votes, *options) == 2
    assert words in capsys.readouterr().err


def test_files_without_votes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("")
    assert status_of(monkeypatch, path) == 2
    assert "the files hold no vote" in capsys.readouterr().err
