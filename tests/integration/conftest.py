"""What integration tests share: one stack for all tests of a module that do not break it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from fakes.running_stack import RunningStack, running_stack

#: A sample of 40 to 400 tokens takes 0.04 to 0.4 s: short, and long enough to be cancelled.
STEADY = ("--ttft-ms", "5", "--time-per-output-token-ms", "1", "--stream-interval", "4", "--max-model-len", "8192")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[RunningStack]:
    """A stack that answers from the synthetic traces. A module that uses it sets `loop_scope="module"`."""
    async with running_stack(*STEADY) as running:
        yield running
