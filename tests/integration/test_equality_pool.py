"""The equality pool with real worker processes and real algebra."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynasor_serve.evaluator import equality_pool
from dynasor_serve.evaluator.equality_pool import Equality, EqualityPool, EqualityPoolClosed

EQUAL, DIFFERENT, UNDECIDED, NOT_REACHED = Equality

HOSTILE = [
    "9^{9^{9^9}}",
    r"\frac{" * 100 + "1" + "}{2}" * 100,
    "{" * 400 + "x" + "}" * 400,
    "(" * 900,
    r"\sum_{k=1}^{10^{12}} \frac{1}{k^k}",
    r"(x+1)^{10000}(y+1)^{10000}",
    r"\int_0^1 x^{x^{x^x}} dx",
    "(10^{10})!",
    r"\sqrt{" * 150 + "2" + "}" * 150,
    "__import__('os').system('touch hostile')",
    "\x00\u202e\ud800",
]


@pytest.fixture
async def pool() -> AsyncIterator[EqualityPool]:
    async with EqualityPool(workers=1, timeout_seconds=5.0) as running:
        yield running


def endless() -> list[tuple[str, str]]:
    """The pairs of ten answers that no worker gets done with."""
    answers = [f"(x+1)^{{10000}}(y+1)^{{1000{k}}}=1" for k in range(10)]
    return list(itertools.combinations(answers, 2))


def workers_of(parent: int) -> list[int]:
    """Return the worker processes among the children of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == parent and fields[0] != "Z" and "equality_worker" in command:
            found.append(int(status.parent.name))
    return found


async def until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(0.02)


def is_running(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty: it has ended and waits for its parent
    except OSError:
        return False


def evaluated() -> bool:
    """Whether the Python among the hostile answers was run."""
    return Path("hostile").exists()


def proc_file(process: int, name: str) -> str:
    return Path(f"/proc/{process}/{name}").read_text()


@pytest.mark.parametrize(
    ("equal", "unequal"),
    [
        (
            [
                (r"\frac{1}{2}", "0.5"),
                (r"2\pi", r"\pi\cdot 2"),
                ("(x+1)^2", "x^2+2x+1"),
                (r"(3,\frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
                (r"(3,\frac{\pi}{2})", r"(3,\frac{2\pi}{4})"),
                (r"\sqrt{25}", "5"),
                ("2^{10}", "1024"),
                (r"\{1,2\}", r"\{2,1\}"),
                ("1<x<2", "(1,2)"),
                ("(1,2)", "1<x<2"),
                (r"\sin^2 x+\cos^2 x", "1"),
                (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\\frac{4}{2}\end{pmatrix}"),
                ("x=5", "5"),
                (r"(1,\sqrt{4})", "(1,2)"),
                (r"\{\sqrt{4},1\}", "1,2"),
                (r"1,\sqrt{4}", "(1,2)"),
                (r"(1,2]\cup(2,3)", "(1,3)"),
                (r"x>\sqrt{4}", r"(2,\infty)"),
                (r"(-\infty,\sqrt{4})\cup(5,\infty)", "x<2 or x>5"),
                (r"\{(1,\sqrt{4}),(3,4)\}", "(3,4),(1,2)"),
                ("2\\times 7!", "10080"),
                ("10.80+8.10", "18.90"),
                (r"f(2)+f(3)=\frac{14}{3}", r"\frac{14}{3}"),
            ],
            [
                ("5", r"500\%"),
                ("x+1", "x+2"),
                ("(1,2)", "(2,1)"),
                ("(1,2)", "[1,2]"),
                (r"10^{-13}\pi", r"2\cdot 10^{-13}\pi"),
                ("0.333333", r"\frac{\pi}{3\pi}"),
                (r"\text{even}", r"\text{odd}"),
                ("2^3", "2"),
                (r"(1,\sqrt{4})", "2,1"),
                (r"(1,\sqrt{4})", r"\{1,2\}"),
                (r"\{\sqrt{4},1\}", r"\{1,\sqrt{2}\}"),
                ("12x^3+14x^2-1=0", "0"),  # an equation, not the right side of one
            ],
        )
    ],
)
async def test_decisions(pool: EqualityPool, equal: list[tuple[str, str]], unequal: list[tuple[str, str]]) -> None:
    decisions = await pool.decide([*equal, *unequal])
    wrong = [
        (pair, decision)
        for pair, decision, expected in zip(
            [*equal, *unequal], decisions, [EQUAL] * len(equal) + [DIFFERENT] * len(unequal), strict=True
        )
        if decision is not expected
    ]
    assert not wrong


async def test_what_means_nothing_is_undecided(pool: EqualityPool) -> None:
    assert (
        await pool.decide([("(((", "x+1"), (r"\text{}", r"\text{}"), ("x" * 2000, "x+1"), (r"\frac{1}{0}", "x+1")])
        == [UNDECIDED] * 4
    )


async def test_an_empty_batch(pool: EqualityPool) -> None:
    assert await pool.decide([]) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_hostile_answers_are_bounded_and_the_pool_lives_on() -> None:
    restarts: list[None] = []
    async with EqualityPool(
        timeout_seconds=1.0, memory_bytes=1 << 29, on_restart=lambda: restarts.append(None)
    ) as pool:
        await pool.decide([("x", "x+y")])  # wait until it is warm
        started = time.monotonic()
        decisions = await pool.decide([(hostile, "x+1") for hostile in HOSTILE])
        elapsed = time.monotonic() - started
        assert all(decision in (UNDECIDED, DIFFERENT) for decision in decisions)
        # Each costs at most its second and a new worker, and never a second attempt.
        assert elapsed < len(HOSTILE) * 1.0 + len(restarts) * 8.0
        assert await pool.decide([("x+y", "y+x")]) == [EQUAL]
        again = time.monotonic()
        assert await pool.decide([(hostile, "x+1") for hostile in HOSTILE]) == decisions
        assert time.monotonic() - again < 0.5, "what cannot be decided is remembered too"
    assert not evaluated()


async def test_a_worker_killed_at_work_is_replaced_and_asked_again() -> None:
    restarts: list[None] = []
    async with EqualityPool(timeout_seconds=20.0, on_restart=lambda: restarts.append(None)) as pool:
        await pool.decide([("x", "x+y")])
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGSTOP)  # so that it is certainly at work when it dies
        asking = asyncio.create_task(pool.decide([("(x+1)^2", "x^2+2x+1")]))
        await asyncio.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        assert await asyncio.wait_for(asking, 30) == [EQUAL]
        assert len(restarts) == 1
        assert workers_of(os.getpid()) != [worker]


async def test_a_worker_that_stops_is_late() -> None:
    async with EqualityPool(timeout_seconds=0.5) as pool:
        await pool.decide([("x", "x+y")])
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGSTOP)
        assert await asyncio.wait_for(pool.decide([("x+z", "z+x+0")]), 5) == [UNDECIDED]
        assert await asyncio.wait_for(pool.decide([("x+w", "w+x+0")]), 30) == [EQUAL]


async def test_decisions_are_remembered_whichever_way_round(pool: EqualityPool) -> None:
    pair = ("(x+1)^2", "x^2+2x+1")
    assert await pool.decide([pair]) == [EQUAL]
    (worker,) = workers_of(os.getpid())
    os.kill(worker, signal.SIGSTOP)  # it cannot be asked again
    assert await asyncio.wait_for(pool.decide([pair, pair[::-1], ("$(x+1)^{2}$", "x^2 + 2x + 1")]), 1) == [EQUAL] * 3


async def test_concurrent_callers_share_a_pair_and_cancelling_one_harms_no_other(pool: EqualityPool) -> None:
    calls = [asyncio.create_task(pool.decide([("x+y", "y+x"), (f"x+{n}", f"{n}+x")])) for n in range(20)]
    await asyncio.sleep(0)
    calls[0].cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [[EQUAL, EQUAL]] * 19


@pytest.mark.slow
async def test_a_request_full_of_hostile_pairs_delays_others_by_one_pair() -> None:
    async with EqualityPool(timeout_seconds=1.0) as pool:
        await pool.decide([("x", "x+y")])  # wait until it is warm
        hostile = asyncio.create_task(pool.decide(endless()))
        await asyncio.sleep(0.1)
        assert await pool.decide([(r"2\pi", r"\pi\cdot 2")]) == [EQUAL]
        assert not hostile.done(), "the other request had its turn before this one was through"
        hostile.cancel()


@pytest.mark.slow
async def test_answers_that_have_cost_a_worker_come_after_all_others() -> None:
    async with EqualityPool(timeout_seconds=0.5) as pool:
        await pool.decide([("x", "x+y")])  # wait until it is warm
        costly = endless()[:3]  # of four answers
        assert await pool.decide(costly) == [UNDECIDED] * 3
        crowd = [asyncio.create_task(pool.decide([pair])) for pair in itertools.combinations([b for _, b in costly], 2)]
        await asyncio.sleep(0)
        assert await pool.decide([(r"2\pi", r"\pi\cdot 2")]) == [EQUAL]
        assert sum(request.done() for request in crowd) <= 1, (
            "it waited for one pair that was at work, and for no other"
        )
        assert await asyncio.gather(*crowd) == [[UNDECIDED]] * 3


async def test_what_is_not_reached_in_time_is_told_from_what_cannot_be_decided() -> None:
    async with EqualityPool(timeout_seconds=0.5) as pool:
        await pool.decide([("x", "x+y")])
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGSTOP)
        asked = [("x+z", "z+x+0"), ("x+w", "w+x+0"), ("5", "7")]
        assert await pool.decide(asked, within_seconds=0.1) == [NOT_REACHED, NOT_REACHED, DIFFERENT]
        assert await asyncio.wait_for(pool.decide(asked), 30) == [UNDECIDED, EQUAL, DIFFERENT]


async def test_pairs_that_two_requests_wait_for_outlive_the_first() -> None:
    async with EqualityPool(timeout_seconds=1.0) as pool:
        await pool.decide([("x", "x+y")])
        (worker,) = workers_of(os.getpid())
        os.kill(worker, signal.SIGSTOP)
        pairs = [("x+z", "z+x+0"), ("x+w", "w+x+0")]
        first = asyncio.create_task(pool.decide(pairs, within_seconds=0.1))
        await asyncio.sleep(0)  # before the smaller request, which would come first
        await asyncio.sleep(0)
        second = asyncio.create_task(pool.decide(pairs[1:]))
        assert await first == [NOT_REACHED] * 2
        assert await asyncio.wait_for(second, 30) == [EQUAL]


async def test_a_closed_pool_leaves_nothing_behind_and_nobody_waiting() -> None:
    pool = EqualityPool(workers=2)
    with pytest.raises(EqualityPoolClosed):
        await pool.decide([("x", "y+1")])
    await pool.start()
    await until(lambda: len(workers_of(os.getpid())) == 2)
    waiting = [asyncio.create_task(pool.decide([(f"x+{n}", f"{n}+x"), ("a+b", "b+a")])) for n in range(4)]
    await asyncio.sleep(0.05)
    await pool.close()
    await pool.close()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 5) == [[NOT_REACHED] * 2] * 4
    assert workers_of(os.getpid()) == []
    with pytest.raises(EqualityPoolClosed):
        await pool.decide([("x", "y+1")])


async def test_a_worker_that_cannot_start_leaves_pairs_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality_pool, "_WORKER_MODULE", "dynasor_serve.no_such_module")
    async with EqualityPool() as pool:
        assert await asyncio.wait_for(pool.decide([("x", "y+1"), ("5", "7")]), 20) == [NOT_REACHED, DIFFERENT]


PARENT = """
import asyncio, sys
from dynasor_serve.evaluator.equality_pool import EqualityPool

async def main():
    async with EqualityPool() as pool:
        await pool.decide([("x", "x+y")])
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
@pytest.mark.fault
async def test_workers_die_with_a_parent_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    assert await asyncio.wait_for(parent.stdout.readline(), 30) == b"ready\n"
    (worker,) = workers_of(parent.pid)
    parent.kill()
    await parent.wait()
    await until(
        lambda: not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()
    )


async def test_a_worker_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNASOR_REDIS_PASSWORD", "do not tell")
    async with EqualityPool() as pool:
        await pool.decide([("x", "x+y")])
        (worker,) = workers_of(os.getpid())
        environment, limits = proc_file(worker, "environ"), proc_file(worker, "limits")
    assert "do not tell" not in environment
    assert str(1 << 30) in next(line for line in limits.splitlines() if line.startswith("Max address space"))
