"""A replay engine in a process of its own, for tests that need an engine over HTTP.

async with running_replay("--max-num-seqs", "1") as replay:
    async with replay.http.post("/v1/chat/completions", json=...) as response: ...
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

SYNTHETIC_VOTES = Path(__file__).parent / "traces" / "synthetic-votes.jsonl"
SYNTHETIC_CHAINS = SYNTHETIC_VOTES.with_name("synthetic-chains.jsonl")
SYNTHETIC_TREES = SYNTHETIC_VOTES.with_name("synthetic-trees.jsonl")
MODEL = "replay-model"


@dataclass(frozen=True, slots=True)
class ReplayProcess:
    """A running replay engine.

    Attributes:
        url: Where it listens, `http://127.0.0.1:PORT`.
        http: A client session with that base.
        process: Its process, to be signalled or killed by the test.
    """

    url: str
    http: aiohttp.ClientSession
    process: asyncio.subprocess.Process

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of one sample of `/metrics`, found by its name and some of its labels."""
        async with self.http.get("/metrics") as response:
            text = await response.text()
        for line in text.splitlines():
            found = re.fullmatch(re.escape(name) + r"\{(.*)\} (\S+)", line)
            if found and all(f'{key}="{value}"' in found[1] for key, value in labels.items()):
                return float(found[2])
        raise LookupError(f"/metrics has no {name} with {labels}")


@asynccontextmanager
async def running_replay(*flags: str, traces: Path = SYNTHETIC_VOTES) -> AsyncIterator[ReplayProcess]:
    """Run a replay engine on a free port; it is killed at the end if it still lives.

    Args:
        *flags: Further command-line flags.
        traces: What it answers from.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dynasor_serve.engines.replay", "--port", "0", "--traces", str(traces), *flags),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), timeout=30)).decode()
        prefix = "listening on "
        assert line.startswith(prefix), f"the replay engine did not start: {line!r}"
        url = line.removeprefix(prefix).strip()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(url, connector=connector) as http:
            yield ReplayProcess(url, http, process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()
