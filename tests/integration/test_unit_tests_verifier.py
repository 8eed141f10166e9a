"""The verifier `unit-tests` in the real sandbox: candidates that are honest or careless, would harm, or would cheat."""

from __future__ import annotations

import asyncio
import sys

import pytest

from dynasor_serve.evaluator.sandbox.isolation import Limits, Sandbox
from dynasor_serve.evaluator.verifiers.unit_tests import UnitTests
from dynasor_serve.evaluator.verifiers.verifier import (
    MAX_DETAIL_CHARACTERS,
    CannotVerify,
    InvalidTask,
    Status,
    Verification,
    VerifierUnavailable,
)

from fakes import isolation

VERIFIED, UNDECIDED = Status.VERIFIED, Status.UNDECIDED
SQUARES = """
assert f(2) == 4
assert f(3) == 9

def test_of_a_negative_number():
    assert f(-1) == 1
"""
GOOD = "def f(x): return x * x"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what the sandbox is made of")


async def verified(candidate: str, task: str = SQUARES, **limits: float) -> Verification:
    return await UnitTests(isolation.sandbox(**limits)).verify(task, candidate)


@pytest.mark.parametrize(
    ("task", "candidate", "passed", "of"),
    [
        (SQUARES, f"Here it is:\n```python\n{GOOD}\n```\nIt multiplies.", 3, 3),
        (SQUARES, "def f(x): return x + 2", 2, 3),
        (SQUARES, "def f(x): return 4", 1, 3),
        (SQUARES, "def g(x): return x * x", 0, 3),
        ("def check(it):\n    assert it(2) == 4\n    assert it(3) == 9\ncheck(f)", GOOD, 1, 1),
        ("def check(it):\n    assert it(2) == 4\n    assert it(3) == 10\ncheck(f)", GOOD, 0, 1),
        ("for x in range(10):\n    assert f(x) == x * x", GOOD, 1, 1),
        ("result = f(2)\nassert result == 4\nassert f(0) == 0", GOOD, 2, 2),
        ("result = g(2)\nassert result == 4\nassert f(0) == 0", GOOD, 0, 3),  # what raises is one more
        ("assert f(0) == 0\ncheck(f)", GOOD, 1, 2),
        ("import math\nassert math.isclose(f(0.1), 0.01)", GOOD, 1, 1),
        ("def test_a():\n    assert False\ndef test_b():\n    assert True", "", 1, 2),
        ("def test_a(): pass\ndef test_a(): assert f(1) == 1", GOOD, 1, 1),
        ("def test_a(fixture): pass", GOOD, 0, 1),
        ("assert __name__ != '__main__'", "if __name__ == '__main__': raise SystemExit", 1, 1),
        (
            "assert Point(1, 2) == Point(1, 2)",
            "from dataclasses import dataclass\n@dataclass\nclass Point:\n  x: int\n  y: int",
            1,
            1,
        ),
        ("def helper(): return 0\nassert f(2) == 4", "def helper(x): return x * x\ndef f(x): return helper(x)", 1, 1),
        ("assert f(1) == 1 and input is not None", "print('hello')\nname = ''\n" + GOOD, 1, 1),
    ],
)
async def test_the_reward_is_the_share_of_tests_passed(task: str, candidate: str, passed: int, of: int) -> None:
    verification = await verified(candidate, task)

    assert verification.reward == passed / of, verification.detail
    assert verification.status is VERIFIED
    assert verification.detail.startswith(f"{passed} of {of} tests passed")


async def test_the_first_failure_is_named() -> None:
    verification = await verified("def f(x): return 4 if x == 2 else 1 / 0")

    assert verification.detail == (
        "1 of 3 tests passed; line 3 (assert f(3) == 9): ZeroDivisionError: division by zero in line 3"
    )


# Code -> (status, words of the detail). None of them passes a test.
LOST = {
    "def f(x)\n    return": (VERIFIED, "SyntaxError: expected ':' (candidate.py, line 1)"),
    "def f(x):\x00 return x * x": (VERIFIED, "null bytes"),
    "def f(x): return '\ud800'": (VERIFIED, "UnicodeEncodeError"),
    "(" * 100_000: (VERIFIED, "too many nested parentheses"),
    "raise SystemExit(0)\n" + GOOD: (VERIFIED, "the code itself: SystemExit: 0 in line 1"),
    "import sys\n" + GOOD + "\nsys.exit()": (VERIFIED, "the code itself: SystemExit in line 3"),
    "def f(x): raise SystemExit(0)": (VERIFIED, "0 of 3 tests passed"),
    "def f(x): raise KeyboardInterrupt": (VERIFIED, "0 of 3 tests passed"),
    "import os; os._exit(0)": (VERIFIED, "ended the process before its tests (exit status 0)"),
    "import os\ndef f(x): os._exit(0)": (VERIFIED, "ended the process while its tests ran (exit status 0)"),
    "import os\ndef f(x): os.execv('/bin/true', ['true'])": (VERIFIED, "FileNotFoundError"),
    "import ctypes\ndef f(x): ctypes.string_at(0)": (VERIFIED, "crashed while its tests ran (SIGSEGV)"),
    "import os\nos.abort()": (VERIFIED, "crashed before its tests"),
    "def f(x): return f(x)": (VERIFIED, "RecursionError"),
    "class E(Exception):\n  def __str__(self): raise E\ndef f(x): raise E": (
        VERIFIED,
        "an exception that cannot be told",
    ),
    "def f(x): raise ValueError('x' * 10**7)": (VERIFIED, "ValueError: xxx"),
    "def f(x): return bytearray(10**12)": (VERIFIED, "MemoryError"),
    "def f(x):\n  held = []\n  while True: held.append(bytearray(1 << 26))": (VERIFIED, "MemoryError"),
    "import os\ndef f(x):\n  while True: os.fork()": (VERIFIED, "PermissionError"),
    "import socket\ndef f(x): socket.create_connection(('1.1.1.1', 53))": (VERIFIED, "PermissionError"),
    "def f(x): return open('/etc/shadow').read()": (VERIFIED, "FileNotFoundError"),
    "def f(x): return open('/proc/1/environ').read()": (VERIFIED, "FileNotFoundError"),
    "import os\ndef f(x): return os.environ['DYNASOR_REDIS_PASSWORD']": (VERIFIED, "KeyError"),
    "def f(x):\n  out = open('big', 'wb')\n  for _ in range(10240): out.write(bytes(1 << 20))": (VERIFIED, "OSError"),
    "import dynasor_serve": (VERIFIED, "ModuleNotFoundError"),
    "import os\nos.closerange(0, 100)\n" + GOOD: (VERIFIED, "ended the process"),
    "while True: pass": (UNDECIDED, "killed before its tests by the wall-clock limit of 3 s"),
    "def f(x):\n  while True: pass": (UNDECIDED, "killed while its tests ran by the wall-clock limit of 3 s"),
    "import time\ndef f(x): time.sleep(100)": (UNDECIDED, "killed while its tests ran by the wall-clock limit of 3 s"),
}


@pytest.mark.slow
@pytest.mark.parametrize("candidate", LOST, ids=range(len(LOST)))
async def test_candidates_that_pass_nothing_say_why(monkeypatch: pytest.MonkeyPatch, candidate: str) -> None:
    monkeypatch.setenv("DYNASOR_REDIS_PASSWORD", "do not tell")
    status, why = LOST[candidate]
    verification = await verified(candidate, seconds=3.0 if status is UNDECIDED else 30.0)

    assert verification.reward == 0.0
    assert why in verification.detail
    assert verification.status is status
    assert len(verification.detail) <= MAX_DETAIL_CHARACTERS
    assert verification.detail.encode(), "it can be sent"


DAEMON = """
import os, threading, time
def f(x):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
    except PermissionError:
        threading.Thread(target=time.sleep, args=(1000,)).start()
    return x * x
"""


async def test_nothing_outlives_its_verdict() -> None:
    verification = await verified(DAEMON)

    assert verification.reward == 1.0
    assert isolation.processes_left() == []


async def test_what_it_prints_is_no_verdict_and_no_harm() -> None:
    verification = await verified("def f(x):\n  for _ in range(100): print('x' * (1 << 20))\n  return x * x")

    assert verification.reward == 1.0


FORGED_LINES = """
import os
for number in range(1, 30):
    for token in ("", "0" * 32, "token"):
        try:
            os.write(number, f"\\n{token} passed 3 3 \\n".encode())
        except OSError:
            pass
os._exit(0)
"""
CHEATS = [
    FORGED_LINES,
    'print(\'{"status": 0, "cpu_seconds": 0}\')\nraise SystemExit(0)',
    "import builtins\nbuiltins.AssertionError = builtins.Exception = None\nbuiltins.BaseException = SystemExit",
    "import builtins\nbuiltins.compile = builtins.exec = builtins.print = lambda *a, **k: None\ndef f(x): return 0",
    "import builtins\nbuiltins.sum = builtins.len = lambda *a, **k: 3\ndef f(x): return 0",
    "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "import sys\nsys.excepthook = sys.exit = lambda *a: None\ndef f(x): return 0",
    'import json\njson.dumps = lambda *a, **k: \'{"passed": 3, "of": 3, "failure": ""}\'\ndef f(x): return 0',
    "import os\nwrite = os.write\nos.write = lambda to, it: write(to, it.replace(b'd 0', b'd 3'))\ndef f(x): return 0",
    "import sys\nsys.argv[:] = ['-O']\ndef f(x): return 0",
    "import __main__\n__main__._run = lambda *a: (3, 3, '')\ndef f(x): return 0",
    "import __main__\n__main__.PRISTINE['exec'] = lambda *a: None\ndef f(x): return 0",
    "__builtins__ = {}\n__name__ = '__main__'\ndef f(x): return 0",
    "__builtins__['sum'] = lambda *a: 0\ndef f(x): return 0",
    "__builtins__['exec'] = lambda *a: None\ndef f(x): return 0",
]


@pytest.mark.parametrize("candidate", CHEATS, ids=range(len(CHEATS)))
async def test_a_pass_is_not_had_by_printing_exiting_or_patching(candidate: str) -> None:
    assert (await verified(candidate)).reward == 0.0


@pytest.mark.parametrize("name", ["all", "any", "abs", "len", "sorted", "isinstance"])
async def test_tests_see_builtins_as_they_were(name: str) -> None:
    task = "assert all([f(0) == 1, any([]), abs(-1) == 2, len([1]) == 2, sorted([2, 1]) == [2, 1], isinstance(1, str)])"
    candidate = f"import builtins\nbuiltins.{name} = lambda *a, **k: True\ndef f(x): return 1"

    assert (await verified(candidate, task)).reward == 0.0


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("", "the task is empty; write assert statements, or functions named test_"),
        (" \n", "the task is empty"),
        ("x" * (1 << 21), "has 2097152 bytes; give at most 1048576"),
    ],
)
def test_tests_that_cannot_be_any_are_refused_at_once(task: str, what: str) -> None:
    with pytest.raises(InvalidTask, match=what):
        UnitTests(Sandbox()).check(task)


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("assert f(", "no Python: SyntaxError"),
        ("assert 1\x00", "no Python: .*null bytes"),
        ("(" * 100_000, "no Python"),
        ("return 5", "no Python: SyntaxError: 'return' outside function"),
        ("x = 1\n'text'\ndef helper(): pass", "tests nothing; write assert statements, or functions named test_"),
        ("async def test_a(): pass", "the coroutine test_a, which nobody awaits"),
        ("import unittest\nclass Tests(unittest.TestCase):\n  def test_a(self): pass", "class Tests, which would not"),
    ],
)
async def test_tests_that_cannot_be_run_are_the_tasks_fault(task: str, what: str) -> None:
    with pytest.raises(InvalidTask, match=what):
        await verified(GOOD, task)


async def test_a_machine_without_isolation_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jail's own refusal; `test_sandbox` has real machines that lack something."""
    verifier = UnitTests(Sandbox(Limits(memory_bytes=1)))  # Python cannot even start

    with pytest.raises(VerifierUnavailable, match="no isolation"):
        await verifier.prepare()


async def test_candidates_are_judged_side_by_side() -> None:
    isolation.sandbox()
    verifications = await asyncio.gather(*(verified(f"{GOOD}  # {number}") for number in range(8)))

    assert [each.reward for each in verifications] == [1.0] * 8


async def test_a_jail_that_does_not_start_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynasor_serve.evaluator.child_process.sys.executable", "/nowhere/python")

    with pytest.raises(CannotVerify, match="/nowhere/python"):
        await UnitTests(Sandbox()).verify(SQUARES, GOOD)
