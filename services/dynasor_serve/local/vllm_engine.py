"""A vLLM on this machine, installed, fed a model, started and ended by Dynasor.

`dynasor up` makes one `ManagedVllm` and gives its `base_url` to a pool; the tests behind `make test-engine`
do the same. `start` goes through `vllm_installation.install` and `model_conversion.convert`, then runs `vllm
serve` under `process_guard`, so that it ends with this process however that ends.

    async with ManagedVllm(VllmOptions(), report=print) as engine:
        ...  # engine.base_url
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from dynasor_serve.local.child_processes import TICK_SECONDS, end, log_tail, start_guarded
from dynasor_serve.local.model_conversion import convert, is_on_disk, model_argument, served_name
from dynasor_serve.local.ports import HOST, free_port
from dynasor_serve.local.vllm_installation import install, subprocess_environment
from dynasor_serve.local.vllm_options import EngineChoice, EngineError, Report, VllmOptions, choose_engine

__all__ = ["EngineError", "ManagedVllm", "VllmOptions", "convert", "install", "serve_command"]

CPU_BLOCK_TOKENS = 32
"""Tokens of a prefix-cache block. On a CPU vLLM takes multiples of 32 and would use 128, too coarse for short
prompts.
"""

_HEALTH_POLL_SECONDS = 0.5
_KILL_MARGIN_SECONDS = 10.0


class ManagedVllm:
    """One `vllm serve` process tree."""

    def __init__(self, options: VllmOptions, report: Report = lambda _: None) -> None:
        self._options = options
        self._report = report
        self._guard: asyncio.subprocess.Process | None = None
        self._port = options.port
        self.model = served_name(options)
        """The model's name in requests."""

    @property
    def base_url(self) -> str:
        """The server's root, without `/v1`; known once `start` has begun."""
        if self._port == 0:
            raise EngineError("the engine has no address before it is started")
        return f"http://{HOST}:{self._port}"

    @property
    def log(self) -> Path:
        """Where the server's output goes."""
        return self._options.logs_dir / f"vllm-{self._port}.log"

    @property
    def pid(self) -> int | None:
        """Process id of the guard over the server, while it runs."""
        return None if self._guard is None or self._guard.returncode is not None else self._guard.pid

    async def start(self) -> None:
        """Installs and converts what is missing, starts the server and returns once it answers.

        Raises:
            EngineError: A stage failed, the server died (with its last log lines), or it is not up in time.
                Nothing is left running.
        """
        if self.pid is not None:
            raise EngineError(f"the engine already runs at {self.base_url}")
        engine = choose_engine(self._options)
        await install(self._options, self._report)
        await convert(self._options, self._report)
        if self._options.port == 0:
            self._port = free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self._report(f"starting vLLM with {self.model} at {self.base_url} …")
        self._guard = await start_guarded(
            serve_command(self._options, engine, self._port),
            log=self.log,
            environment=serve_environment(self._options, engine),
            grace_seconds=self._options.shutdown_timeout_seconds + _KILL_MARGIN_SECONDS,
        )
        try:
            await self._until_it_answers(self._guard)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> int:
        """Returns the exit status when the server ends, by `stop` or by itself."""
        if self._guard is None:
            raise EngineError("the engine was never started")
        return await self._guard.wait()

    async def stop(self) -> None:
        """Ends the server: SIGTERM, time for running streams, then SIGKILL for all of its processes. Does
        nothing twice.
        """
        if self._guard is not None:
            await end(self._guard, self._options.shutdown_timeout_seconds + 2 * _KILL_MARGIN_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _until_it_answers(self, guard: asyncio.subprocess.Process) -> None:
        started = time.monotonic()
        next_tick = started + TICK_SECONDS
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                if guard.returncode is not None:
                    raise EngineError(
                        f"vLLM ended during its start with exit status {guard.returncode}. "
                        f"Last lines of {self.log}:\n{log_tail(self.log, 30)}"
                    )
                if await self._answers(session):
                    took = time.monotonic() - started
                    self._report(f"vLLM serves {self.model} at {self.base_url} (started in {took:.0f} s)")
                    return
                now = time.monotonic()
                if now - started > self._options.startup_timeout_seconds:
                    raise EngineError(
                        f"vLLM does not answer after {now - started:.0f} s: give it a longer startup timeout, or free "
                        f"the machine. Last lines of {self.log}:\n{log_tail(self.log, 30)}"
                    )
                if now >= next_tick:
                    self._report(f"starting vLLM with {self.model} … {now - started:.0f} s")
                    next_tick += TICK_SECONDS
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(guard.wait(), _HEALTH_POLL_SECONDS)

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        """Whether the server is healthy and is ours: it knows the model, so no stranger sits on the port."""
        try:
            async with session.get(f"{self.base_url}/health") as response:
                if response.status != 200:
                    return False
            async with session.get(f"{self.base_url}/v1/models") as response:
                listed = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return False
        return any(entry.get("id") == self.model for entry in listed.get("data", []))


def serve_command(options: VllmOptions, engine: EngineChoice, port: int) -> list[str]:
    """The command line of `vllm serve`."""
    cpu_only = ["--block-size", str(CPU_BLOCK_TOKENS), "--enforce-eager"]
    return [
        *(str(engine.executable), "serve", model_argument(options)),
        *("--served-model-name", served_name(options)),
        *("--host", HOST, "--port", str(port)),
        *("--dtype", options.dtype or ("bfloat16" if engine.runs_on_cpu else "auto")),
        *("--max-model-len", str(options.max_model_len)),
        *("--max-num-seqs", str(options.max_num_seqs)),
        # The order is kept outside; priorities carry it into the engine's waiting queue.
        *("--scheduling-policy", "priority"),
        "--enable-prefix-caching",
        "--enable-request-id-headers",
        "--enable-prompt-tokens-details",
        "--disable-uvicorn-access-log",
        *("--shutdown-timeout", str(options.shutdown_timeout_seconds)),
        *(cpu_only if engine.runs_on_cpu else []),
        *options.extra_args,
    ]


def serve_environment(options: VllmOptions, engine: EngineChoice) -> dict[str, str]:
    """The server's environment; what the user has set wins."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if is_on_disk(options):
        defaults["HF_HUB_OFFLINE"] = "1"
    if engine.runs_on_cpu:
        defaults |= {
            "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            # Spinning OpenMP threads would take the cores from the services beside the engine.
            "OMP_WAIT_POLICY": "PASSIVE",
            # Else the first request for log-probabilities or top-p stops the engine for 20 s and more, compiling (and
            # needs a C++ compiler), for nothing that a small model gains.
            "TORCHDYNAMO_DISABLE": "1",
        }
        openmp = engine.executable.parent.parent / "lib" / "libiomp5.so"  # from the wheel intel-openmp
        if openmp.is_file():
            # vLLM asks for it; measured 30–50 % more tokens per second than with the system's OpenMP.
            defaults["LD_PRELOAD"] = str(openmp)
    environment = {**defaults, **subprocess_environment()}
    environment["PATH"] = os.pathsep.join([str(engine.executable.parent), environment.get("PATH", os.defpath)])
    return environment
