"""Settings: flags, environment and file, in this order; what is unknown or out of bounds is refused, and said why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynasor_serve.evaluator.settings import EvaluatorSettings
from dynasor_serve.gateway.settings import GatewaySettings
from dynasor_serve.rpc.settings import ProcessSettings
from dynasor_serve.scheduler.settings import SchedulerSettings
from dynasor_serve.tracker.settings import TrackerSettings

ALL = (GatewaySettings, TrackerSettings, SchedulerSettings, EvaluatorSettings)
each_process = pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.__name__)


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line, empty unless a test fills it."""
    given = ["process"]
    monkeypatch.setattr(sys, "argv", given)
    return given


def prefix_of(settings: type[ProcessSettings]) -> str:
    return str(settings.model_config["env_prefix"])


def refusal(settings: type[ProcessSettings], capsys: pytest.CaptureFixture[str]) -> str:
    """What it says when it cannot be read; the process ends with 2."""
    with pytest.raises(SystemExit) as ended:
        settings.read()
    assert ended.value.code == 2
    return capsys.readouterr().err


@each_process
def test_defaults_are_enough(settings: type[ProcessSettings]) -> None:
    read = settings.read()

    assert read.log_level == "INFO"
    assert read.name


@each_process
def test_every_setting_says_what_it_is_for(settings: type[ProcessSettings]) -> None:
    assert all(field.description for field in settings.model_fields.values())


@each_process
def test_flags_win_over_the_environment_and_that_over_the_file(
    settings: type[ProcessSettings], arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefix, file = prefix_of(settings), tmp_path / "settings.toml"
    file.write_text('name = "of the file"\nlog_level = "ERROR"\nmetrics_port = 7\n')
    monkeypatch.setenv(f"{prefix}CONFIG_FILE", str(file))
    monkeypatch.setenv(f"{prefix}NAME", "of the environment")
    monkeypatch.setenv(f"{prefix}LOG_LEVEL", "WARNING")
    arguments += ["--name", "of the flags"]

    read = settings.read()

    assert (read.name, read.log_level, read.metrics_port) == ("of the flags", "WARNING", 7)


@each_process
def test_a_misspelt_variable_is_refused_with_the_right_one(
    settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{prefix_of(settings)}DRAIN_SECOND", "1")

    assert f"did you mean {prefix_of(settings)}DRAIN_SECONDS?" in refusal(settings, capsys)


@each_process
def test_a_misspelt_flag_is_refused(
    settings: type[ProcessSettings], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments += ["--drain-second", "1"]

    assert "--drain-second" in refusal(settings, capsys)


@each_process
def test_a_misspelt_key_of_the_file_is_refused(
    settings: type[ProcessSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("drain_second = 1\n")
    monkeypatch.setenv(f"{prefix_of(settings)}CONFIG_FILE", str(file))

    assert "drain_second" in refusal(settings, capsys)


@each_process
def test_a_file_that_is_not_there_is_refused(
    settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{prefix_of(settings)}CONFIG_FILE", "/nowhere/settings.toml")

    assert "/nowhere/settings.toml" in refusal(settings, capsys)


@each_process
@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [("METRICS_PORT", "70000", "65535"), ("LOG_LEVEL", "LOUD", "'DEBUG'"), ("DRAIN_SECONDS", "soon", "number")],
)
def test_a_value_out_of_bounds_is_refused(
    settings: type[ProcessSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    hint: str,
) -> None:
    monkeypatch.setenv(f"{prefix_of(settings)}{name}", value)

    said = refusal(settings, capsys)

    assert name.lower() in said
    assert hint in said


@each_process
def test_what_kubernetes_adds_for_a_service_is_not_meant_for_us(
    settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    links = {
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT": "7001",
        "SERVICE_PORT_GRPC": "7001",
        "PORT": "tcp://10.0.0.1:7001",
        "PORT_7001_TCP": "tcp://10.0.0.1:7001",
        "PORT_7001_TCP_PROTO": "tcp",
        "PORT_7001_TCP_PORT": "7001",
        "PORT_7001_TCP_ADDR": "10.0.0.1",
    }
    for ending, value in links.items():
        monkeypatch.setenv(f"{prefix_of(settings)}{ending}", value)

    settings.read()


@each_process
def test_a_misspelt_port_is_no_service_link(
    settings: type[ProcessSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{prefix_of(settings)}METRIC_PORT", "9000")

    assert f"did you mean {prefix_of(settings)}METRICS_PORT?" in refusal(settings, capsys)


def test_workers_of_the_scheduler_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNASOR_SCHEDULER_WORKERS", '[{"pool": "p", "model": "m", "name": "w", "url": "nowhere"}]')
    assert "url" in refusal(SchedulerSettings, capsys)

    monkeypatch.setenv("DYNASOR_SCHEDULER_WORKERS", "[{")
    assert "workers" in refusal(SchedulerSettings, capsys)


def test_a_lease_must_leave_time_to_renew_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DYNASOR_TRACKER_LEASE_SECONDS", "1")

    assert "lease_seconds" in refusal(TrackerSettings, capsys)
