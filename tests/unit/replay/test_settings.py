"""Flags and environment of the replay engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynasor_serve.engines.replay.faults import Fault
from dynasor_serve.engines.replay.pooling import RewardFace
from dynasor_serve.engines.replay.settings import read_settings
from dynasor_serve.engines.replay.suffixes import Ask


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACES", "PORT", "SPEED", "FAULT", "EVENTS_PER_RESPONSE"):
        monkeypatch.delenv(f"DYNASOR_REPLAY_{name}", raising=False)


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_REPLAY_TRACES", "a.jsonl,b.jsonl")
    monkeypatch.setenv("DYNASOR_REPLAY_SPEED", "3")

    settings = read_settings(["--speed", "2", "--no-enable-prefix-caching"])

    assert settings.traces == (Path("a.jsonl"), Path("b.jsonl"))
    assert settings.speed == 2
    assert not settings.enable_prefix_caching


def test_lists_take_several_values_and_several_flags() -> None:
    settings = read_settings(["--traces", "a", "b", "--traces", "c", "--fault", "hang:0.1", "garbage:0.2"])

    assert settings.traces == (Path("a"), Path("b"), Path("c"))
    assert settings.fault == ("hang:0.1", "garbage:0.2")


def test_optional_numbers_are_numbers() -> None:
    assert read_settings(["--traces", "a", "--events-per-response", "4"]).events_per_response == 4
    assert read_settings(["--traces", "a"]).events_per_response is None


def test_unknown_variables_are_refused_and_the_links_of_kubernetes_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_REPLAY_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DYNASOR_REPLAY_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert read_settings(["--traces", "a"]).port == 8000

    monkeypatch.setenv("DYNASOR_REPLAY_SPED", "2")
    with pytest.raises(ValueError, match=r"DYNASOR_REPLAY_SPED is not a setting; known are .*DYNASOR_REPLAY_SPEED"):
        read_settings(["--traces", "a"])


def test_a_port_that_kubernetes_set_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_REPLAY_PORT", "tcp://10.0.0.1:8000")

    with pytest.raises(ValueError, match="set enableServiceLinks: false"):
        read_settings(["--traces", "a"])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "traces"),
        (["--traces", "a", "--speed", "0"], "greater than 0"),
        (["--traces", "a", "--fault", "melt:1"], "unknown fault 'melt'"),
        (["--traces", "a", "--fault", "hang:0.6", "garbage:0.6"], "together they are at most 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(flags: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_settings(flags)


def test_a_reward_model_is_of_a_known_kind_and_faults_of_different_calls_add_up_apart() -> None:
    settings = read_settings(["--traces", "a", "--reward", "score", "--fault", "empty-probe:1", "nan-reward:1"])

    assert settings.reward is RewardFace.SCORE
    assert settings.fault_plan.draw("q/0/1.1", Ask.JUDGE) is Fault.NAN_REWARD
    assert read_settings(["--traces", "a"]).reward is None
    with pytest.raises(ValueError, match="'classify', 'score' or 'pooling'"):
        read_settings(["--traces", "a", "--reward", "praise"])


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--traces", "a", "--sped", "2"])

    assert "unrecognized arguments: --sped" in capsys.readouterr().err
