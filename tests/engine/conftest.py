"""A real vLLM for the whole run: installed into `$DYNASOR_HOME` (default `~/.cache/dynasor`) if it is not yet there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from dynasor_serve.local.vllm_engine import ManagedVllm, VllmOptions


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(request: pytest.FixtureRequest) -> AsyncIterator[ManagedVllm]:
    """The server with the packaged model; `base_url` and `model` say how to reach it. Slow to start, so shared."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            print(f"  {line}", flush=True)

    async with ManagedVllm(VllmOptions(), report) as engine:
        yield engine


@pytest_asyncio.fixture
async def http(vllm: ManagedVllm) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the server; paths are relative to its root. A request on a busy machine may take minutes."""
    timeout = aiohttp.ClientTimeout(total=240)
    async with aiohttp.ClientSession(vllm.base_url, timeout=timeout) as session:
        yield session
