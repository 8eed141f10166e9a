"""The whole system on one machine: a Redis-protocol server, an engine, and the four processes.

The CLI (`dynasor up`, `dynasor demo`, `dynasor bench`) and the integration tests start it alike. Each process is the
same `python -m dynasor_serve.<process>` that a cluster runs, watched and started again when it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dynasor_serve.api.scheduler.v1 import scheduler_pb2
from dynasor_serve.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from dynasor_serve.engines.errors import EngineError
from dynasor_serve.engines.probe import EngineKind, authorization, probe
from dynasor_serve.local.ports import HOST, free_port
from dynasor_serve.local.redis_server import NoRedisServer, redis_command
from dynasor_serve.local.supervised import StackError, SupervisedProcess
from dynasor_serve.local.vllm_engine import ManagedVllm, VllmOptions
from dynasor_serve.local.vllm_options import EngineError as VllmError
from dynasor_serve.local.vllm_options import Report, choose_engine
from dynasor_serve.rpc.channel import open_channel

DEFAULT_GATEWAY_PORT = 7001
_START_SECONDS = 60.0  # of a process, on a machine that is busy with an engine
_PROBE_SECONDS = 10.0

ReadinessCheck = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """A replay engine of our own."""

    traces: tuple[Path, ...]
    flags: tuple[str, ...] = ()  # further flags of `python -m dynasor_serve.engines.replay`
    max_in_flight: int = 64


@dataclass(frozen=True, slots=True)
class ExternalOptions:
    """A server that somebody else runs."""

    url: str
    model: str = ""  # empty: the only one it serves
    kind: EngineKind | None = None  # None: find out
    max_in_flight: int = 64
    api_key: str = ""  # bearer token, where it asks for one


@dataclass(frozen=True, slots=True)
class ReplayReward:
    """A replay engine of our own that stands in for a reward model."""

    traces: tuple[Path, ...]
    kind: EngineKind = EngineKind.VLLM_CLASSIFY
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What a local stack is made of."""

    engine: ReplayOptions | ExternalOptions | VllmOptions
    reward: ReplayReward | ExternalOptions | None = None  # a reward model, in a pool of its own
    data: Path | None = None  # state of Redis and logs; None: a temporary directory, gone at the end
    gateway_port: int = 0  # 0 picks a free one
    redis_url: str = ""  # empty: a server of our own
    trackers: int = 1
    schedulers: int = 1  # one is active, the others stand by
    environment: Mapping[str, str] = field(default_factory=dict)  # further settings of the processes
    log_level: str = "INFO"

    @property
    def api_key(self) -> str:
        """What foreign engines are shown, the same for all: the engine's key, else the reward model's."""
        foreign = [each for each in (self.engine, self.reward) if isinstance(each, ExternalOptions)]
        return next((each.api_key for each in foreign if each.api_key), "")


@dataclass(frozen=True, slots=True)
class EngineEndpoint:
    """The engine that a stack serves from."""

    url: str
    model: str
    kind: EngineKind
    max_in_flight: int


class LocalStack:
    """A running stack.

    Attributes:
        gateway: HOST:PORT of the gateway, once started.
        engine: where its calls go, once started.
        reward: where its paths are judged, if anywhere, once started.
        vllm: the vLLM of our own, where that is the engine; whoever keeps the stack up watches it.
        processes: by name: redis, engine (a replay engine's), evaluator, scheduler, scheduler-1… (its standbys),
            tracker-0…, gateway.
        data: state and logs.
    """

    def __init__(self, options: StackOptions, report: Report = lambda _: None) -> None:
        self._options = options
        self._report = report
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.vllm: ManagedVllm | None = None
        self.processes: dict[str, SupervisedProcess] = {}
        self.gateway = ""
        self.redis_url = options.redis_url
        self.ports: dict[str, int] = {}  # process -> gRPC port
        self.metrics_ports: dict[str, int] = {}  # process -> port of /metrics
        if options.data is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="dynasor-")
            self.data = Path(self._temporary.name)
        else:
            self.data = options.data
        self.engine: EngineEndpoint
        self.reward: EngineEndpoint | None = None

    async def start(self) -> None:
        """Starts everything and returns once a query can be asked.

        Raises:
            StackError: a part cannot be started; nothing is left running.
        """
        try:
            for directory in ("redis", "logs"):
                (self.data / directory).mkdir(parents=True, exist_ok=True)
            await self._start_redis()
            await self._start_engine()
            await self._start_reward()
            await self._start_services()
        except (VllmError, NoRedisServer, EngineError) as error:
            await self.stop()
            raise StackError(str(error)) from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends everything, the gateway first, so that what runs can finish."""
        for parts in (("gateway",), ("tracker",), ("scheduler", "evaluator", "engine", "reward"), ("redis",)):
            ending = [process for name, process in self.processes.items() if name.partition("-")[0] in parts]
            await asyncio.gather(*(process.stop() for process in ending))
        if self.vllm is not None:
            await self.vllm.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- parts ---

    async def _start_redis(self) -> None:
        if self._options.redis_url:
            return
        port = free_port()
        self.redis_url = f"redis://{HOST}:{port}/0"
        self._report("starting the Redis-protocol server")
        await self._supervise(
            "redis", redis_command(port, self.data / "redis"), {}, lambda: _answers_ping(port), _START_SECONDS
        )

    async def _start_engine(self) -> None:
        match self._options.engine:
            case ReplayOptions() as options:
                self.engine = await self._start_replay("engine", options, EngineKind.REPLAY)
            case ExternalOptions() as options:
                self.engine = await _external(options)
            case VllmOptions() as options:
                self.vllm = ManagedVllm(options, self._report)
                await self.vllm.start()
                kind = EngineKind.VLLM_CPU if choose_engine(options).runs_on_cpu else EngineKind.VLLM
                self.engine = EngineEndpoint(self.vllm.base_url, self.vllm.model, kind, options.max_num_seqs)

    async def _start_reward(self) -> None:
        """Starts the reward model, or finds it."""
        match self._options.reward:
            case ReplayReward(traces=traces, kind=kind, flags=flags):
                flags = ("--reward", kind.value.removeprefix("vllm-"), *flags)
                self.reward = await self._start_replay("reward", ReplayOptions(traces, flags=flags), kind)
            case ExternalOptions() as options:
                self.reward = await _external(options)

    async def _start_replay(self, name: str, options: ReplayOptions, kind: EngineKind) -> EngineEndpoint:
        port = free_port()
        url = f"http://{HOST}:{port}"
        self._report(f"starting the replay {name}")
        traces = [part for path in options.traces for part in ("--traces", str(path))]
        command = [
            sys.executable, "-m", "dynasor_serve.engines.replay", *traces, "--port", str(port),
            "--max-num-seqs", str(options.max_in_flight), *options.flags,
        ]  # fmt: skip
        await self._supervise(name, command, {}, lambda: _is_healthy(url), _START_SECONDS)
        external = ExternalOptions(url, kind=kind, max_in_flight=options.max_in_flight)
        return await _external(external)

    async def _start_services(self) -> None:
        trackers = [f"tracker-{number}" for number in range(self._options.trackers)]
        for name in ("evaluator", *self._schedulers, *trackers, "gateway"):
            self.ports[name] = free_port()
            self.metrics_ports[name] = free_port()
        if self._options.gateway_port:
            self.ports["gateway"] = self._options.gateway_port
        self.gateway = f"{HOST}:{self.ports['gateway']}"
        self._report("starting evaluator, scheduler, tracker and gateway")
        async with asyncio.TaskGroup() as starts:
            for name in self.ports:
                starts.create_task(self._start_service(name))
        await self._until_served()

    async def _start_service(self, name: str) -> None:
        process = name.partition("-")[0]
        prefix = f"DYNASOR_{process.upper()}_"
        settings = {
            "NAME": name if "-" in name else f"{name}-0",
            "LISTEN": self._address(name),
            "METRICS_PORT": str(self.metrics_ports[name]),
            "METRICS_HOST": HOST,
            "LOG_LEVEL": self._options.log_level,
        }
        if process != "evaluator":
            settings["REDIS_URL"] = self.redis_url
        if process == "gateway":
            settings["SCHEDULERS"] = json.dumps([self._address(scheduler) for scheduler in self._schedulers])
        if process == "tracker":
            settings["EVALUATOR"] = self._address("evaluator")
        if process == "scheduler":
            workers = [_worker(self.engine.model, self.engine)]
            if self.reward is not None:
                workers.append(_worker(f"reward-{self.reward.model}", self.reward))
            settings["WORKERS"] = json.dumps(workers)
        if process in ("tracker", "scheduler") and self._options.api_key:
            settings["ENGINE_API_KEY"] = self._options.api_key
        environment = {prefix + key: value for key, value in settings.items()}
        environment |= {key: value for key, value in self._options.environment.items() if key.startswith(prefix)}
        command = [sys.executable, "-m", f"dynasor_serve.{process}"]
        await self._supervise(name, command, environment, lambda: is_serving(self._address(name)), _START_SECONDS)

    async def _supervise(
        self, name: str, command: list[str], environment: dict[str, str], is_ready: ReadinessCheck, start_seconds: float
    ) -> None:
        log = self.data / "logs" / f"{name}.log"
        process = SupervisedProcess(
            name,
            command,
            environment=environment,
            log=log,
            is_ready=is_ready,
            start_seconds=start_seconds,
        )
        self.processes[name] = process
        await process.start()

    @property
    def _schedulers(self) -> list[str]:
        return ["scheduler", *(f"scheduler-{number}" for number in range(1, self._options.schedulers))]

    def _address(self, name: str) -> str:
        return f"{HOST}:{self.ports[name]}"

    async def _until_served(self) -> None:
        """Waits until the active scheduler knows a ready worker: then the first query is not refused."""
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        async with contextlib.AsyncExitStack() as channels:
            stubs = [
                SchedulerServiceStub(await channels.enter_async_context(open_channel(self._address(name))))
                for name in self._schedulers
            ]
            while True:
                trouble = "no scheduler answers"
                for stub in stubs:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        pools = (await stub.ListPools(scheduler_pb2.ListPoolsRequest(), timeout=_PROBE_SECONDS)).pools
                        workers = [worker for pool in pools for worker in pool.workers]
                        if workers and all(worker.state == scheduler_pb2.WORKER_STATE_READY for worker in workers):
                            return
                        trouble = "; ".join(worker.message for worker in workers) or "it is still starting"
                if asyncio.get_running_loop().time() > deadline:
                    raise StackError(f"no worker became ready at {self.engine.url}: {trouble}")
                await asyncio.sleep(0.05)


def _worker(pool: str, endpoint: EngineEndpoint) -> dict[str, str | int]:
    """A worker as the scheduler's settings name it."""
    return {
        "pool": pool,
        "model": endpoint.model,
        "name": "worker-0",
        "url": endpoint.url,
        "engine": endpoint.kind.value,
        "max_in_flight": endpoint.max_in_flight,
    }


async def is_serving(address: str) -> bool:
    """Whether a gRPC server says it is SERVING."""
    async with open_channel(address) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def _external(options: ExternalOptions) -> EngineEndpoint:
    """What is at a URL. Raises `EngineError` or `StackError`."""
    url = options.url.rstrip("/").removesuffix("/v1")
    async with aiohttp.ClientSession(headers=authorization(options.api_key)) as session:
        profile = await probe(session, url, timeout_seconds=_PROBE_SECONDS)
    served = ", ".join(profile.models) or "nothing"
    if options.model and options.model not in profile.models:
        raise StackError(f"{url} does not serve {options.model!r}; it serves {served}")
    if not options.model and len(profile.models) != 1:
        raise StackError(f"{url} serves {served}; say which with --model")
    # Of a foreign vLLM it is not known whether it runs on a CPU, which a seed would kill.
    kind = options.kind or (EngineKind.VLLM_CPU if profile.is_vllm else EngineKind.EXTERNAL)
    return EngineEndpoint(url, options.model or profile.models[0], kind, options.max_in_flight)


async def _is_healthy(url: str) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0)) as session:
        try:
            async with session.get(f"{url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


async def _answers_ping(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(b"PING\r\n")
        async with asyncio.timeout(1.0):
            return (await reader.readline()).startswith(b"+PONG")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
