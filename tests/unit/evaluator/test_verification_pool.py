"""The pool of a verifier, with verifiers that the test holds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dynasor_serve.evaluator.verification_pool import VerificationPool, VerificationPoolClosed
from dynasor_serve.evaluator.verifiers.verifier import (
    CannotVerify,
    InvalidTask,
    Status,
    Verification,
    VerifierUnavailable,
)


class Lengths:
    """Rewards a candidate that is as long as the task says; each waits until it is let go."""

    name = "lengths"

    def __init__(self, *, is_held: bool = False) -> None:
        self.asked: list[str] = []
        self.at_work = 0
        self.most_at_work = 0
        self.failures: list[Exception] = []
        self.go = asyncio.Event()
        if not is_held:
            self.go.set()

    async def prepare(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def check(self, task: str) -> None:
        if not task.isdecimal():
            raise InvalidTask(f"a task is a number, not {task!r}")

    async def verify(self, task: str, candidate: str) -> Verification:
        self.asked.append(candidate)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self.go.wait()
        finally:
            self.at_work -= 1
        if self.failures:
            raise self.failures.pop(0)
        return Verification(float(len(candidate) == int(task)), f"{len(candidate)} characters")


@asynccontextmanager
async def started(verifier: Lengths, workers: int = 1) -> AsyncIterator[VerificationPool]:
    pool = VerificationPool(verifier, workers=workers)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


async def until_at_work(verifier: Lengths, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while verifier.at_work < count:  # noqa: ASYNC110 - the fake sets no event
            await asyncio.sleep(0)


async def test_verdicts_come_in_the_order_asked_and_each_candidate_is_judged_once() -> None:
    verifier = Lengths()
    async with started(verifier, workers=2) as pool:
        verdicts = await pool.verify("3", ["a", "abc", "ab", "abc"])
        again = await pool.verify("3", ["abc"])
        other_task = await pool.verify("1", ["a"])

    assert [each.reward for each in (*verdicts, *again, *other_task)] == [0.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    assert sorted(verifier.asked) == ["a", "a", "ab", "abc"]


async def test_no_more_run_at_a_time_than_there_are_workers() -> None:
    verifier = Lengths(is_held=True)
    async with started(verifier, workers=3) as pool:
        asking = asyncio.create_task(pool.verify("1", [str(number) for number in range(10)]))
        await until_at_work(verifier, 3)
        verifier.go.set()
        await asking

    assert verifier.most_at_work == 3


async def test_what_is_not_reached_in_time_says_so_and_what_was_begun_is_remembered() -> None:
    verifier = Lengths(is_held=True)
    async with started(verifier) as pool:
        first = await pool.verify("1", ["a", "b"], within_seconds=0.05)
        verifier.go.set()
        second = await pool.verify("1", ["a", "b"], within_seconds=5)

    assert [each.status for each in first] == [Status.NOT_REACHED] * 2
    assert [(each.status, each.reward) for each in second] == [(Status.VERIFIED, 1.0)] * 2
    assert verifier.asked == ["a", "b"], "the first was judged once, though nobody waited for it any more"


async def test_a_request_without_time_still_has_what_is_remembered() -> None:
    verifier = Lengths()
    async with started(verifier) as pool:
        await pool.verify("1", ["a"])
        verifier.go.clear()
        verdicts = await pool.verify("1", ["a", "b"], within_seconds=0)

    assert [each.status for each in verdicts] == [Status.VERIFIED, Status.NOT_REACHED]


async def test_programs_take_turns() -> None:
    verifier = Lengths(is_held=True)
    async with started(verifier) as pool:
        first = asyncio.create_task(pool.verify("1", [f"first {number}" for number in range(5)], program="first"))
        await until_at_work(verifier)
        second = asyncio.create_task(pool.verify("1", ["second"], program="second"))
        await asyncio.sleep(0.01)  # of the worker's time, for the first
        verifier.go.set()
        await second
        assert not first.done()
        await first

    assert verifier.asked[:2] == ["first 0", "second"]


async def test_a_task_that_cannot_be_read_is_refused_at_once_or_at_a_closer_look() -> None:
    verifier = Lengths()
    async with started(verifier) as pool:
        with pytest.raises(InvalidTask, match="a task is a number, not 'three'"):
            await pool.verify("three", ["abc"])
        verifier.failures = [InvalidTask("it is too large")]
        with pytest.raises(InvalidTask, match="it is too large"):
            await pool.verify("99", ["abc"])
        with pytest.raises(InvalidTask, match="it is too large"):
            await pool.verify("99", ["abc"])

    assert verifier.asked == ["abc"], "that too is remembered"


async def test_a_machine_that_cannot_verify_for_a_while_is_asked_again() -> None:
    verifier = Lengths()
    async with started(verifier) as pool:
        verifier.failures = [CannotVerify("no process to be had")]
        first = await pool.verify("1", ["a"])
        second = await pool.verify("1", ["a"])

    assert [first[0].status, second[0].status] == [Status.NOT_REACHED, Status.VERIFIED]


async def test_a_defect_of_a_verifier_ends_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    verifier = Lengths()
    async with started(verifier) as pool:
        verifier.failures = [ZeroDivisionError()]
        verdicts = await pool.verify("1", ["a", "b"])

    assert [(each.status, each.reward) for each in verdicts] == [(Status.UNDECIDED, 0.0), (Status.VERIFIED, 1.0)]
    assert "a verifier failed unexpectedly" in caplog.text


async def test_a_verifier_that_cannot_work_here_is_not_offered(caplog: pytest.LogCaptureFixture) -> None:
    verifier = Lengths()
    verifier.failures = [VerifierUnavailable("no namespaces; allow them")]
    async with started(verifier) as pool:
        with pytest.raises(VerifierUnavailable, match="no namespaces; allow them"):
            await pool.verify("1", ["a"])

    assert not verifier.asked
    assert "a verifier is not offered" in caplog.text


async def test_cancelling_one_request_harms_no_other() -> None:
    verifier = Lengths(is_held=True)
    async with started(verifier) as pool:
        requests = [asyncio.create_task(pool.verify("1", ["a", str(number)])) for number in range(5)]
        await until_at_work(verifier)
        requests[0].cancel()
        verifier.go.set()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)

    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert all(isinstance(each, list) and [one.reward for one in each] == [1.0, 1.0] for each in outcomes[1:])
    assert "0" not in verifier.asked, "nobody waited for it any more"


async def test_a_closed_pool_leaves_nobody_waiting() -> None:
    verifier = Lengths(is_held=True)
    pool = VerificationPool(verifier)
    with pytest.raises(VerificationPoolClosed):
        await pool.verify("1", ["a"])
    await pool.start()
    waiting = [asyncio.create_task(pool.verify("1", [str(number), "shared"])) for number in range(3)]
    await until_at_work(verifier)
    await pool.close()
    await pool.close()

    verdicts = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert {one.status for each in verdicts for one in each} == {Status.NOT_REACHED}
    assert verifier.at_work == 0
    with pytest.raises(VerificationPoolClosed):
        await pool.verify("1", ["a"])
