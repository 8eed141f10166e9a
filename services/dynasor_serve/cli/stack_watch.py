"""Says what dies in a running stack, and brings its vLLM back. The stack itself restarts the other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from dynasor_serve.local.stack import LocalStack
from dynasor_serve.local.vllm_engine import ManagedVllm
from dynasor_serve.local.vllm_options import EngineError

_LOOK_SECONDS = 0.5
_RESTART_PAUSE_SECONDS = 5.0
MOST_ENGINE_FAILURES = 5
"""Starts in a row that may fail before the engine is given up."""


async def watch_stack(stack: LocalStack, notify: Callable[[str], None]) -> None:
    """Runs until cancelled."""
    async with asyncio.TaskGroup() as watches:
        watches.create_task(_watch_processes(stack, notify))
        if stack.vllm is not None:
            watches.create_task(_keep_engine(stack.vllm, notify))


async def _watch_processes(stack: LocalStack, notify: Callable[[str], None]) -> None:
    seen = {name: process.restarts for name, process in stack.processes.items()}  # process -> restarts reported
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for name, process in stack.processes.items():
            if process.restarts > seen[name]:
                seen[name] = process.restarts
                log = stack.data / "logs" / f"{name}.log"
                notify(f"{_clock()} the {name} died and is started again (restart {process.restarts}; log: {log})")


async def _keep_engine(engine: ManagedVllm, notify: Callable[[str], None]) -> None:
    failures = 0
    while failures < MOST_ENGINE_FAILURES:
        status = await engine.wait()
        notify(f"{_clock()} vLLM ended with exit status {status} and is started again (log: {engine.log})")
        try:
            await engine.start()
            failures = 0
        except EngineError as error:
            failures += 1
            notify(f"{_clock()} {error}")
            await asyncio.sleep(_RESTART_PAUSE_SECONDS * failures)
    notify(
        f"{_clock()} vLLM could not be started {failures} times; queries wait. Mend it, then start `dynasor up` again"
    )
    await asyncio.Event().wait()


def _clock() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
