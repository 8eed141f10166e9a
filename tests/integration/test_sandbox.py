"""The sandbox with real processes: what programs in it can do, what they cannot, and what is left of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynasor_serve.evaluator.sandbox.isolation import End, Ended

from fakes import isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what the sandbox is made of")


async def run(folder: Path, source: str, job: bytes = b"", **limits: float) -> Ended:
    program = folder / "program.py"
    program.write_text(source)
    return await isolation.sandbox(**limits).run(program, job)


async def until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.02)


LOOK_AROUND = """
import json, os, sys
seen = {"job": sys.stdin.read(), "here": os.getcwd(), "files": os.listdir("."), "root": sorted(os.listdir("/")),
        "pid": os.getpid(), "uid": os.getuid(), "path": [p for p in sys.path if "packages" in p or "services" in p],
        "environment": sorted(os.environ), "arguments": sys.argv, "descriptors": []}
for number in range(64):
    try:
        os.fstat(number)
        seen["descriptors"].append(number)
    except OSError:
        pass
open("mine", "w").write("x")
print(json.dumps(seen))
"""


async def test_a_program_sees_nothing_but_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_REDIS_PASSWORD", "do not tell")
    ended = await run(tmp_path, LOOK_AROUND, b"the job")

    assert (ended.end, ended.code) == (End.EXITED, 0)
    seen = json.loads(ended.report)
    assert seen["job"] == "the job"
    assert (seen["here"], seen["files"]) == ("/work", [])
    assert (seen["pid"], seen["uid"]) == (1, 65534)
    assert seen["path"] == [], "this package and those it stands on cannot be imported"
    assert set(seen["environment"]) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}
    assert seen["descriptors"] == [0, 1, 2]
    assert not {"proc", "sys", "home", "tmp", "old", "var", "run"} & (
        set(seen["root"]) - {Path(sys.base_prefix).parts[1]}
    )


async def test_what_the_kernel_says_of_a_program(tmp_path: Path) -> None:
    isolation.sandbox()
    running = asyncio.create_task(run(tmp_path, "while True: pass"))
    await until(lambda: any("/program.py" in proc_file(each, "cmdline") for each in isolation.processes_left()))
    (process,) = isolation.processes_left()
    status = dict(line.split(":\t", 1) for line in proc_file(process, "status").splitlines() if ":\t" in line)
    kinds = ("user", "mnt", "pid", "net", "ipc", "uts")
    shared = [kind for kind in kinds if namespace(process, kind) == namespace("self", kind)]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert shared == []
    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "0" not in status["Uid"].split()


def proc_file(process: int, name: str) -> str:
    try:
        return Path(f"/proc/{process}/{name}").read_text()
    except OSError:  # it ended meanwhile
        return ""


def namespace(process: int | str, kind: str) -> Path:
    return Path(f"/proc/{process}/ns/{kind}").readlink()


# What it does -> what becomes of it.
ATTEMPTS = {
    "import socket; socket.socket()": "PermissionError",
    "import socket; socket.create_connection(('127.0.0.1', 80))": "PermissionError",
    "import asyncio; asyncio.run(asyncio.sleep(0.01))": "done",
    "import os; os.fork()": "PermissionError",
    "import subprocess; subprocess.run(['/bin/true'])": "PermissionError",
    "import threading; t = threading.Thread(target=int); t.start(); t.join()": "done",
    "open('/etc/shadow')": "FileNotFoundError",
    "open('/etc/passwd')": "FileNotFoundError",
    "open('/proc/1/environ')": "FileNotFoundError",
    "open('/proc/self/mem')": "FileNotFoundError",
    "open('/program.py', 'w')": "PermissionError OSError",
    "import os; os.chmod('/program.py', 0o777)": "PermissionError OSError",
    "import os; os.mkdir('/new')": "OSError PermissionError",
    "import os; open(os.__file__, 'a')": "OSError PermissionError",
    "import os; os.mknod('device', 0o20600, os.makedev(1, 1))": "PermissionError",
    "import os; os.setuid(0)": "PermissionError OSError",
    "import os; os.kill(2, 9)": "ProcessLookupError",
    "import os; os.memfd_create('memory')": "PermissionError",
    "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))": "PermissionError ValueError",
    "call('unshare', 0x10000000)": "PermissionError",
    "call('unshare', 0x00020000)": "PermissionError",
    "call('mount', b'none', b'/work', b'tmpfs', 0, None)": "PermissionError",
    "call('umount2', b'/work', 0)": "PermissionError",
    "call('ptrace', 0, 0, 0, 0)": "PermissionError",
    "call('shmget', 1, 4096, 0o1600)": "PermissionError",
    "call('personality', 0x0400000)": "PermissionError",
    "call('syscall', 463)": "OSError",
    "data = bytearray(1 << 30)": "MemoryError",
    "f = open('big', 'wb'); [f.write(bytes(1 << 20)) for _ in range(10240)]": "OSError",
    "[open(str(n), 'w').write('x') for n in range(2000)]": "OSError",
    "[open(str(n), 'wb').write(bytes(1 << 20)) for n in range(100)]": "OSError",
    "held = [open('/dev/null') for _ in range(200)]": "OSError",
}
TRY = """
import ctypes, json, os, sys
def call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
results = {}
for attempt in json.load(sys.stdin):
    try:
        exec(attempt, {"call": call})
        results[attempt] = "done"
    except BaseException as error:
        results[attempt] = type(error).__name__
    for name in os.listdir("."):
        os.remove(name)
print(json.dumps(results))
"""


async def test_what_programs_attempt(tmp_path: Path) -> None:
    ended = await run(tmp_path, TRY, json.dumps(list(ATTEMPTS)).encode())

    results = json.loads(ended.report)
    wrong = {
        attempt: results[attempt] for attempt, allowed in ATTEMPTS.items() if results[attempt] not in allowed.split()
    }
    assert not wrong


@pytest.mark.parametrize(
    ("source", "end", "code"),
    [
        ("", End.EXITED, 0),
        ("raise SystemExit(3)", End.EXITED, 3),
        ("import os; os._exit(7)", End.EXITED, 7),
        ("1 / 0", End.EXITED, 1),
        ("import ctypes; ctypes.string_at(0)", End.CRASHED, signal.SIGSEGV),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", End.EXITED, 0),  # the first process is immune
        ("while True: pass", End.WALL_CLOCK, 0),
        ("import time; time.sleep(100)", End.WALL_CLOCK, 0),
        (
            "import signal; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15, 24)]\nwhile True: pass",
            End.WALL_CLOCK,
            0,
        ),
        ("while True: print('x' * 65536)", End.REPORT, 0),
        ("import sys; sys.stdout.write('x' * 100_000_000)", End.REPORT, 0),
        ("import sys; sys.stderr.write('x' * 100_000_000)", End.EXITED, 0),
    ],
)
async def test_ends(tmp_path: Path, source: str, end: End, code: int) -> None:
    ended = await run(tmp_path, source, seconds=2.0)

    assert (ended.end, ended.code) == (end, code)
    assert len(ended.report) <= 64 << 10
    assert isolation.processes_left() == []


async def test_what_a_program_says_last_is_not_taken_for_its_end(tmp_path: Path) -> None:
    ended = await run(tmp_path, """print('\\n{"status": 0, "cpu_seconds": 0}', end=""); raise SystemExit(5)""")

    assert (ended.end, ended.code) == (End.EXITED, 5)


async def test_time_on_the_processor_is_limited_too(tmp_path: Path) -> None:
    source = "import hashlib, threading\nfor _ in range(4):\n"
    source += "  threading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'', b'', 10**9)).start()"
    ended = await run(tmp_path, source, seconds=2.0)

    # Threads that share no lock spend it faster than the clock goes; on one core the clock comes first.
    assert ended.end in (End.CPU, End.WALL_CLOCK)


async def test_a_program_that_does_not_read_its_job_is_no_obstacle(tmp_path: Path) -> None:
    ended = await run(tmp_path, "print('done')", b"x" * (8 << 20))

    assert ended == Ended(End.EXITED, 0, b"done\n")


async def test_a_cancelled_run_leaves_nothing(tmp_path: Path) -> None:
    isolation.sandbox()
    running = asyncio.create_task(run(tmp_path, "while True: pass"))
    await until(isolation.processes_left)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert isolation.processes_left() == []


DAEMON = """
import asyncio, sys
from pathlib import Path
from typing import Any
from dynasor_serve.evaluator.sandbox.isolation import Limits, Sandbox
asyncio.run(Sandbox(Limits(seconds=60, memory_bytes=int(sys.argv[2]))).run(Path(sys.argv[1]), b""))
"""


@pytest.mark.fault
async def test_programs_die_with_a_service_that_is_killed(tmp_path: Path) -> None:
    isolation.sandbox()
    program = tmp_path / "program.py"
    program.write_text("while True: pass")
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DAEMON, str(program), str(isolation.MARK_BYTES), env={"PYTHONPATH": isolation.SERVICES}
    )
    await until(isolation.processes_left)
    service.kill()
    await service.wait()
    await until(lambda: not isolation.processes_left())


def test_without_namespaces_nothing_runs() -> None:
    said = isolation.inspected(sys.executable, isolation.DENY_NAMESPACES)

    assert said.startswith("no isolation:"), said
    assert "unshare: Operation not permitted" in said, "it says what is missing"
    assert "allow it to create namespaces" in said or "run it as a user who is not root" in said, "and what is right"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")
@pytest.mark.parametrize("user", [65534, 12345])
def test_other_users_are_isolated_as_root_is(user: int) -> None:
    isolation.sandbox()
    python = isolation.python_for_anybody()

    as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []}
    assert isolation.inspected(python, **as_user) == isolation.ISOLATED
    refusal = isolation.inspected(python, isolation.DENY_NAMESPACES, **as_user)
    assert "no isolation: a user namespace ([Errno 1] unshare: Operation not permitted)" in refusal


def test_what_still_works_behind_the_walls_is_named(tmp_path: Path) -> None:
    """The inspection itself, run where there are no walls: it must find fault."""
    inspection = Path(isolation.SERVICES) / "dynasor_serve" / "evaluator" / "sandbox" / "inspection.py"
    done = subprocess.run([sys.executable, "-I", inspection], capture_output=True, text=True, timeout=60, cwd=tmp_path)

    found = done.stdout
    assert "sees /proc" in found
    assert "opens a socket" in found
    assert "starts a process" in found
