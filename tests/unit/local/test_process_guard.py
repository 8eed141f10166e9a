"""Nothing that the guard starts outlives the process that asked for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dynasor_serve.local.child_processes import end, exclusive, log_tail, run_stage, start_guarded
from dynasor_serve.local.vllm_options import EngineError

ENVIRONMENT = dict(os.environ)

# Starts a child in a session of its own, tells both process ids, and hears neither SIGTERM nor the death of its parent.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def until(met: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, f"{what} did not come true in {seconds:.0f} s"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def told_pids(log: Path) -> list[int]:
    until(lambda: log.exists() and len(log.read_text().split()) == 2, "the command's start")
    return [int(word) for word in log.read_text().split()]


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
async def test_the_exit_status_is_the_commands(tmp_path: Path, code: str, status: int) -> None:
    guard = await start_guarded(
        [sys.executable, "-c", code], log=tmp_path / "log", environment=ENVIRONMENT, grace_seconds=1
    )
    assert await guard.wait() == status


async def test_ending_a_stubborn_command_kills_it_and_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    guard = await start_guarded([sys.executable, "-c", STUBBORN], log=log, environment=ENVIRONMENT, grace_seconds=0.2)
    pids = await asyncio.to_thread(told_pids, log)
    await end(guard, deadline_seconds=20)
    assert guard.returncode == 128 + signal.SIGKILL
    assert not any(runs(pid) for pid in pids)


async def test_a_command_may_use_its_grace_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = """
        import signal, sys, time
        def leave(*_):
            print("left in order", flush=True)
            sys.exit(3)
        signal.signal(signal.SIGTERM, leave)
        print("ready", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    guard = await start_guarded(command, log=log, environment=ENVIRONMENT, grace_seconds=20)
    await asyncio.to_thread(until, lambda: "ready" in log.read_text(), "the command's start")
    await end(guard, deadline_seconds=30)
    assert guard.returncode == 3
    assert "left in order" in log.read_text()


def test_nothing_is_left_when_the_asking_process_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"""
        import asyncio, os, sys
        from pathlib import Path
        from dynasor_serve.local.child_processes import start_guarded
        async def main():
            command = [sys.executable, "-c", {STUBBORN!r}]
            log = Path({str(log)!r})
            guard = await start_guarded(command, log=log, environment=dict(os.environ), grace_seconds=0.2)
            print(guard.pid, flush=True)
            await guard.wait()
        asyncio.run(main())
    """
    asking = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    with asking:
        assert asking.stdout is not None
        guard_pid = int(asking.stdout.readline())
        pids = told_pids(log)
        assert all(runs(pid) for pid in [guard_pid, *pids])
        asking.kill()
    until(lambda: not any(runs(pid) for pid in [guard_pid, *pids]), "the end of all processes")


async def test_a_failed_stage_says_what_failed_and_what_to_do(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(EngineError, match=r"(?s)baking: exit status 4 .*Buy flour.*no flour"):
        await run_stage(
            "baking …",
            [sys.executable, "-c", "print('no flour'); raise SystemExit(4)"],
            report=said.append,
            log=tmp_path / "log",
            environment=ENVIRONMENT,
            timeout_seconds=30,
            advice="Buy flour.",
        )
    assert said == ["baking …"]


async def test_a_stage_past_its_time_is_ended(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not done after 0 s"):
        await run_stage(
            "waiting …",
            [sys.executable, "-c", "import time; time.sleep(600)"],
            report=lambda _: None,
            log=tmp_path / "log",
            environment=ENVIRONMENT,
            timeout_seconds=0.2,
            advice="Wait.",
        )


async def test_a_cancelled_stage_ends_its_command(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stage = asyncio.create_task(
        run_stage(
            "waiting …",
            [sys.executable, "-c", "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"],
            report=lambda _: None,
            log=log,
            environment=ENVIRONMENT,
            timeout_seconds=60,
            advice="Wait.",
        )
    )
    pids = await asyncio.to_thread(told_pids, log)
    stage.cancel()
    await asyncio.gather(stage, return_exceptions=True)
    assert not any(runs(pid) for pid in pids)


async def test_two_do_not_hold_the_lock_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    lock = tmp_path / "lock"
    async with exclusive(lock, said.append, "installing"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), exclusive(lock, said.append, "installing"):
                pytest.fail("both hold it")
    assert said == ["waiting for another process that is installing …"]
    async with asyncio.timeout(5), exclusive(lock, said.append, "installing"):
        pass


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == "(no log)"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert log_tail(log, 2) == "line 9998\nline 9999"
