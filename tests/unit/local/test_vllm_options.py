"""Which vLLM runs, with which model and which command line; what its installation leaves out."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dynasor_serve.local import vllm_options
from dynasor_serve.local.model_conversion import is_on_disk, model_argument, served_name
from dynasor_serve.local.vllm_engine import ManagedVllm, serve_command, serve_environment
from dynasor_serve.local.vllm_installation import install, is_installed, requirements_of_wheel
from dynasor_serve.local.vllm_options import EngineChoice, EngineError, VllmOptions, choose_engine


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_options, "has_nvidia_gpu", lambda: True)


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_options, "has_nvidia_gpu", lambda: False)


@pytest.fixture
def vllm_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    executable = tmp_path / "bin" / "vllm"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", str(executable.parent))
    return executable


def value_of(flag: str, command: Sequence[str]) -> str:
    return command[command.index(flag) + 1]


def test_a_gpu_machine_serves_with_its_own_vllm(on_a_gpu: None, vllm_on_path: Path) -> None:
    assert choose_engine(VllmOptions()) == EngineChoice(vllm_on_path, is_managed=False, runs_on_cpu=False)


def test_a_cpu_machine_serves_with_the_managed_build(on_a_cpu: None, vllm_on_path: Path, tmp_path: Path) -> None:
    chosen = choose_engine(VllmOptions(home=tmp_path))
    assert chosen == EngineChoice(tmp_path / "vllm-0.32.0" / "bin" / "vllm", is_managed=True, runs_on_cpu=True)


def test_a_named_executable_wins(on_a_cpu: None, vllm_on_path: Path) -> None:
    chosen = choose_engine(VllmOptions(executable="vllm"))
    assert (chosen.executable, chosen.is_managed) == (vllm_on_path, False)
    with pytest.raises(EngineError, match="nowhere"):
        choose_engine(VllmOptions(executable="nowhere"))


async def test_a_vllm_of_the_users_own_is_not_installed(on_a_cpu: None, vllm_on_path: Path, tmp_path: Path) -> None:
    options = VllmOptions(executable="vllm", home=tmp_path / "home")
    said: list[str] = []
    await install(options, said.append)
    assert said == []
    assert not options.home.exists()


def test_an_installation_without_its_marker_does_not_count(tmp_path: Path) -> None:
    options = VllmOptions(home=tmp_path)
    python = options.environment_dir / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    assert not is_installed(options)
    (options.environment_dir / "installed.json").write_text("{}")
    assert is_installed(options)
    python.unlink()
    assert not is_installed(options)


def test_the_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_HOME", "/somewhere")
    assert VllmOptions().home == Path("/somewhere")


def test_models_are_packaged_or_directories_or_hugging_face_names(tmp_path: Path) -> None:
    packaged = VllmOptions(home=tmp_path)
    assert model_argument(packaged) == str(tmp_path / "models" / "smollm2-135m")
    assert (served_name(packaged), is_on_disk(packaged)) == ("smollm2-135m", True)

    (tmp_path / "tiny").mkdir()
    directory = VllmOptions(model=str(tmp_path / "tiny"))
    with pytest.raises(EngineError, match=r"no config\.json"):
        model_argument(directory)
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert model_argument(directory) == str(tmp_path / "tiny")
    assert (served_name(directory), is_on_disk(directory)) == ("tiny", True)

    hub = VllmOptions(model="some/model-1.5B")
    assert (model_argument(hub), served_name(hub), is_on_disk(hub)) == ("some/model-1.5B", "some/model-1.5B", False)
    assert served_name(VllmOptions(model="some/model", served_model_name="mine")) == "mine"

    with pytest.raises(EngineError, match="smollm2-135m"):
        model_argument(VllmOptions(model="no-such-model"))


def test_a_cpu_gets_flags_that_a_gpu_does_not(tmp_path: Path) -> None:
    options = VllmOptions(home=tmp_path, extra_args=("--stream-interval", "4"))
    on_cpu = serve_command(options, EngineChoice(Path("/v/bin/vllm"), is_managed=True, runs_on_cpu=True), 8000)
    assert on_cpu[:3] == ["/v/bin/vllm", "serve", str(tmp_path / "models" / "smollm2-135m")]
    assert value_of("--dtype", on_cpu) == "bfloat16"
    assert value_of("--block-size", on_cpu) == "32"
    assert "--enforce-eager" in on_cpu
    assert on_cpu[-2:] == ["--stream-interval", "4"]
    on_gpu = serve_command(options, EngineChoice(Path("/v/bin/vllm"), is_managed=False, runs_on_cpu=False), 8000)
    assert value_of("--dtype", on_gpu) == "auto"
    assert "--enforce-eager" not in on_gpu
    for command in (on_cpu, on_gpu):
        assert value_of("--scheduling-policy", command) == "priority"
        assert value_of("--host", command) == "127.0.0.1"


def test_the_users_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine = EngineChoice(tmp_path / "bin" / "vllm", is_managed=True, runs_on_cpu=True)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = serve_environment(VllmOptions(home=tmp_path), engine)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"].startswith(f"{tmp_path}/bin:")
    assert "PYTHONPATH" not in environment
    assert "HF_HUB_OFFLINE" not in serve_environment(VllmOptions(model="some/model"), engine)


def test_an_engine_has_no_address_before_its_start() -> None:
    with pytest.raises(EngineError, match="no address"):
        _ = ManagedVllm(VllmOptions()).base_url
    assert ManagedVllm(VllmOptions(port=8123)).base_url == "http://127.0.0.1:8123"


def test_a_wheels_requirements_come_without_extras_and_without_what_a_cpu_does_not_use(tmp_path: Path) -> None:
    wheel = tmp_path / "engine-1-py3-none-any.whl"
    metadata = [
        "Metadata-Version: 2.1",
        "Name: engine",
        "Requires-Dist: numpy",
        'Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"',
        "Requires-Dist: TorchVision",
        'Requires-Dist: triton; platform_system == "Linux"',
        'Requires-Dist: fastapi[standard]<0.137.0,>=0.133.0; python_version >= "3.8"',
        "Requires-Dist: torch-like",
        'Requires-Dist: pytest; extra == "test"',
        "",
        "Requires-Dist: not-a-header",
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("engine-1.dist-info/METADATA", "\n".join(metadata))
    assert requirements_of_wheel(wheel) == [
        "numpy",
        'fastapi[standard]<0.137.0,>=0.133.0; python_version >= "3.8"',
        "torch-like",
    ]
