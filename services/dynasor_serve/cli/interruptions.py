"""Ctrl-C and SIGTERM as something a command waits for, so that it can cancel and clean up in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import typer

from dynasor_serve.cli.exit_codes import ExitCode

Result = TypeVar("Result")

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Interrupted(Exception):
    """A signal ended the work.

    Attributes:
        exit_code: the exit status that the signal means.
    """

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(exit_code.name.lower())
        self.exit_code = exit_code


@contextlib.contextmanager
def interruptions() -> Iterator[asyncio.Future[ExitCode]]:
    """Yields a future that SIGINT or SIGTERM completes with the exit status it means.

    A second signal has its usual effect again: whoever insists gets out at once.
    """
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[ExitCode] = loop.create_future()

    def interrupt(number: signal.Signals) -> None:
        release()
        interrupted.set_result(_EXIT_CODES[number])

    def release() -> None:
        for each in _EXIT_CODES:
            loop.remove_signal_handler(each)

    for number in _EXIT_CODES:
        loop.add_signal_handler(number, interrupt, number)
    try:
        yield interrupted
    finally:
        release()
        interrupted.cancel()


async def until_interrupted(work: Coroutine[Any, Any, Result], notice: str) -> Result:
    """Runs work to its end; a signal cancels it, and it cleans up.

    Args:
        work: what to do.
        notice: said on standard error when a signal has come.

    Raises:
        Interrupted: a signal has come, and the work has ended.
    """
    with interruptions() as interrupted:
        task = asyncio.create_task(work)
        await asyncio.wait((task, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if interrupted.done():
            print(notice, file=sys.stderr, flush=True)
            task.cancel()
            await asyncio.wait((task,))
            raise Interrupted(interrupted.result())
        return task.result()


def run_async(command: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's coroutine; Ctrl-C ends it with the usual exit status and no traceback."""
    try:
        return asyncio.run(command)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
