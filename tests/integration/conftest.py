"""What integration tests share: one stack, or one Redis server, for all tests of a module that do not break it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from dynasor_serve.state.redis_client import connect

from fakes.redis_process import RedisProcess, running_redis
from fakes.running_stack import RunningStack, running_stack

#: A sample of 40 to 400 tokens takes 0.04 to 0.4 s: short, and long enough to be cancelled.
STEADY = ("--ttft-ms", "5", "--time-per-output-token-ms", "1", "--stream-interval", "4", "--max-model-len", "8192")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """A stack that answers from the synthetic traces. A module that uses it sets `loop_scope="module"`."""
    async with running_stack(*STEADY) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisProcess]:
    """A Redis server. A module that uses it sets `loop_scope="module"`."""
    async with running_redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def redis(server: RedisProcess) -> AsyncIterator[Redis]:
    """A client of the module's server, which is empty at the beginning of each test."""
    client = connect(server.url, timeout_seconds=1.0)
    await client.flushall()
    yield client
    await client.aclose()
