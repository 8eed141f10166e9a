"""What the clients of engines and of Redis cost, beside the general ones that they stand in for, measured in turns.

CPU is that of the client's thread alone; the servers are in another thread and another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import RedisError

from dynasor_serve.engines.http import HttpClient
from dynasor_serve.local.ports import HOST, free_port
from dynasor_serve.local.redis_server import redis_command
from dynasor_serve.state.redis_client import connect
from dynasor_serve.state.shared_connection import SharedConnection

_CONCURRENCY = 8
_TURNS = 3
_START_SECONDS = 30.0
_BODY = b"x" * 600
_EVENT = b'data: {"choices":[{"text":"so "}],"usage":{"prompt_tokens":8,"completion_tokens":1}}\n\n'
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + 4 * (b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
    + b"0\r\n\r\n"
)
_SCRIPT = "return ARGV[1]"
_ARGUMENTS = ("k", "x" * 400, 1, 2, 3, 4, 5, 6)  # as an append's

Ask = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ClientReport:
    """CPU of the client, in microseconds: the medians of several turns."""

    aiohttp_us_per_call: float  # a POST whose reply is streamed in four events
    ours_us_per_call: float
    pool_us_per_script: float  # redis-py, a connection of its own for each command
    shared_us_per_script: float  # one connection for all

    def as_json(self) -> str:
        return json.dumps(asdict(self))


async def measure_clients(calls: int) -> ClientReport:
    """Runs both clients of either kind in turns, so many calls each."""
    with _streaming_server() as url:
        http, session = HttpClient(connect_seconds=5.0, stall_seconds=60.0, headers={}), _session()
        theirs, ours = await _in_turns(calls, lambda: _by_aiohttp(session, url), lambda: _by_ours(http, url))
        await http.close()
        await session.close()
    async with _redis() as redis:
        sha, shared = await redis.script_load(_SCRIPT), SharedConnection(redis)
        pool, one = await _in_turns(
            calls,
            lambda: redis.evalsha(sha, 1, *_ARGUMENTS),
            lambda: shared.execute("EVALSHA", sha, 1, *_ARGUMENTS),
        )
    return ClientReport(theirs, ours, pool, one)


async def _in_turns(calls: int, *clients: Ask) -> list[float]:
    """Microseconds of CPU per call of each client."""
    turns = [[await _microseconds(calls, ask) for ask in clients] for _ in range(_TURNS)]
    return [sorted(each)[_TURNS // 2] for each in zip(*turns, strict=True)]


async def _microseconds(calls: int, ask: Ask) -> float:
    left = iter(range(calls))

    async def asking() -> None:
        for _ in left:
            await ask()

    began = time.thread_time()
    await asyncio.gather(*(asking() for _ in range(_CONCURRENCY)))
    return 1e6 * (time.thread_time() - began) / calls


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=60.0),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )


async def _by_aiohttp(session: aiohttp.ClientSession, url: str) -> None:
    async with session.post(url, data=_BODY, headers={"X-Request-Id": "q/0/1"}) as response:
        while await response.content.readany():
            pass


async def _by_ours(http: HttpClient, url: str) -> None:
    response = await http.post(url, _BODY, {"X-Request-Id": "q/0/1"})
    while await response.read_some():
        pass
    response.release()


@contextlib.contextmanager
def _streaming_server() -> Iterator[str]:
    """Answers every request with the same stream, in a thread of its own."""
    started: Future[tuple[str, Callable[[], object]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_listen(started)))
    thread.start()
    url, stop = started.result()
    try:
        yield url
    finally:
        stop()
        thread.join()


async def _listen(started: Future[tuple[str, Callable[[], object]]]) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    async with await asyncio.start_server(_serve, HOST, 0) as server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/"
        started.set_result((url, lambda: loop.call_soon_threadsafe(stopped.set)))
        await stopped.wait()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(len(_BODY))
            writer.write(_STREAM)
    writer.close()


@asynccontextmanager
async def _redis() -> AsyncIterator[Redis]:
    with tempfile.TemporaryDirectory(prefix="dynasor-bench-") as directory:
        port = free_port()
        command = redis_command(port, Path(directory))
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            async with connect(f"redis://{HOST}:{port}/0") as redis:
                async with asyncio.timeout(_START_SECONDS):
                    await _until_up(redis)
                yield redis
        finally:
            process.terminate()
            await process.wait()


async def _until_up(redis: Redis) -> None:
    while True:
        with contextlib.suppress(RedisError):
            await redis.ping()
            return
        await asyncio.sleep(0.05)
