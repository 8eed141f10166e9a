"""Starts Python processes of ours that will read what a model has written. `parent_death` is their half.

They are started with exec, never forked: gRPC's threads do not survive a fork.
"""

import asyncio
import os
import sys

# All that a child gets of the environment: what the dynamic linker needs, and no secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH")


async def start_python(module: str, *arguments: str, line_bytes: int = 1 << 16) -> asyncio.subprocess.Process:
    """Start `python -m MODULE PARENT_PID ARGUMENTS…` with pipes at its standard input and output.

    Args:
        line_bytes: longest line that can be read from it.

    Raises:
        OSError: there is no such program, or no process to be had.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # never import from the working directory
        "-m",
        module,
        str(os.getpid()),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C in a terminal is the parent's to answer
        limit=line_bytes,
    )
