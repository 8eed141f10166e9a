"""What one may choose about the vLLM that `dynasor up` runs, and what goes wrong with it.

Read by `vllm_installation`, `model_conversion` and `vllm_engine`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

VLLM_VERSION = "0.32.0"

Report = Callable[[str], None]
"""Takes one line of progress, written for a person."""


class EngineError(Exception):
    """The local engine cannot be installed or started; the message says what failed and what to do."""


def default_home() -> Path:
    """Where the engine, its models and its logs live: `$DYNASOR_HOME`, else `~/.cache/dynasor`."""
    chosen = os.environ.get("DYNASOR_HOME")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "dynasor"


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """The local engine's settings."""

    model: str = "smollm2-135m"
    """A packaged model's name, a model directory, or a Hugging Face name (`organisation/model`)."""

    served_model_name: str | None = None
    """The name clients use; without one the packaged name, the directory's name or the Hugging Face name."""

    port: int = 0
    """TCP port on 127.0.0.1; 0 picks a free one."""

    home: Path = field(default_factory=default_home)
    """Directory for the installed engine (2.5 GB), converted models (0.3 GB) and logs."""

    max_model_len: int = 2048
    """Context window, in tokens, prompt and completion together."""

    max_num_seqs: int = 64
    """Sequences that the engine runs at once; more wait."""

    dtype: str | None = None
    """Number format of the weights; without one `bfloat16` on a CPU and the model's own on a GPU."""

    kv_cache_gib: int = 1
    """KV cache on a CPU, in GiB; a GPU's cache is sized by vLLM."""

    startup_timeout_seconds: float = 900.0
    """How long a start may take. Alone on two cores it takes 30–60 s; a busy machine needs ten times that."""

    shutdown_timeout_seconds: int = 30
    """How long running streams may go on after SIGTERM."""

    extra_args: tuple[str, ...] = ()
    """Further arguments of `vllm serve`, after the project's own, so that they win."""

    executable: str | None = None
    """A `vllm` of the user's own. Without one: the one on PATH if there is an NVIDIA GPU, else the CPU build."""

    @property
    def environment_dir(self) -> Path:
        """The managed virtual environment."""
        return self.home / f"vllm-{VLLM_VERSION}"

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which `vllm` runs, and on what."""

    executable: Path
    is_managed: bool
    runs_on_cpu: bool

    @property
    def python(self) -> Path:
        """The interpreter of the environment that the executable belongs to."""
        return self.executable.parent / "python"


def choose_engine(options: VllmOptions) -> EngineChoice:
    """Answers which `vllm` serves: the user's own, the one on PATH of a GPU machine, or the managed CPU
    build.

    Raises:
        EngineError: The named executable does not exist, or this system has no CPU build.
    """
    if options.executable is not None:
        found = shutil.which(options.executable)
        if found is None:
            raise EngineError(f"no vLLM executable {options.executable!r}: name a file or a command on PATH")
        return EngineChoice(Path(found), is_managed=False, runs_on_cpu=not has_nvidia_gpu())
    if has_nvidia_gpu() and (on_path := shutil.which("vllm")) is not None:
        return EngineChoice(Path(on_path), is_managed=False, runs_on_cpu=False)
    if not sys.platform.startswith("linux"):
        raise EngineError(
            f"there is no CPU build of vLLM for {sys.platform}: use the replay engine, or name a vllm executable "
            "of your own"
        )
    return EngineChoice(options.environment_dir / "bin" / "vllm", is_managed=True, runs_on_cpu=True)


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver shows a device."""
    return Path("/dev/nvidiactl").exists() and any(Path("/dev").glob("nvidia[0-9]*"))
