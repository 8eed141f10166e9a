"""Turns of questions, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from dynasor_serve.evaluator import questions as module
from dynasor_serve.evaluator.questions import Questions


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Questions, each of which costs a worker the seconds that its name ends with (`a1:3` costs three)."""

    def __init__(self, **options: object) -> None:
        self.clock = Clock()
        self.questions = Questions[str, str](clock=self.clock, **options)  # type: ignore[arg-type]
        self.asked: list[asyncio.Task[dict[str, str | None]]] = []

    async def ask(self, questions: Sequence[str], **options: object) -> asyncio.Task[dict[str, str | None]]:
        """A request, in its place."""
        request = asyncio.create_task(self.questions.answers(questions, **options))  # type: ignore[arg-type]
        self.asked.append(request)
        await asyncio.sleep(0)
        return request

    async def work(self, times: int) -> list[str]:
        """What one worker takes."""
        taken = []
        for _ in range(times):
            question = await asyncio.wait_for(self.questions.take(), 5)
            taken.append(question)
            self.clock.now += float(question.partition(":")[2] or 0)
            self.questions.settle(question, f"answer to {question}")
            await asyncio.sleep(0)
        return taken


async def test_programs_take_turns_by_the_time_they_have_had() -> None:
    desk = Desk()
    await desk.ask(["slow1:10", "slow2:10"], program="slow")
    await desk.ask([f"quick{number}:1" for number in range(12)], program="quick")

    taken = await desk.work(14)

    # Ten quick ones are worth one slow one; then the two are equal, and the earlier request is first.
    assert taken == ["slow1:10", *(f"quick{n}:1" for n in range(10)), "slow2:10", "quick10:1", "quick11:1"]


async def test_a_program_that_asks_again_does_not_begin_anew() -> None:
    desk = Desk()
    for number in range(10):
        await desk.ask([f"hostile{number}:3"], program=f"hostile {number}")
    await desk.work(10)
    for number in range(10):
        await desk.ask([f"again{number}:3"], program=f"hostile {number}")
    await desk.ask(["honest"], program="honest")

    assert await desk.work(1) == ["honest"], "all others have had three seconds each"


async def test_what_is_at_work_counts_already() -> None:
    desk = Desk()
    await desk.ask(["first1", "first2"], program="first")
    await desk.ask(["second1", "second2", "second3"], program="second")

    assert await desk.questions.take() == "first1"
    assert await desk.questions.take() == "second1", "no time has passed, but the first program is being served"
    assert await desk.questions.take() == "first2"


async def test_requests_without_a_name_are_programs_of_their_own() -> None:
    desk = Desk()
    await desk.ask(["a1:1", "a2:1", "a3:1"])
    await desk.ask(["b1:1", "b2:1", "b3:1"])

    assert await desk.work(6) == ["a1:1", "b1:1", "a2:1", "b2:1", "a3:1", "b3:1"]


async def test_among_newcomers_the_request_that_asks_least_is_first() -> None:
    desk = Desk()
    await desk.ask(["many1:1", "many2:1", "many3:1"], program="many")
    await desk.ask(["few1:1", "few2:1"], program="few")
    await desk.ask(["one:1"], program="one")

    assert await desk.work(4) == ["one:1", "few1:1", "many1:1", "few2:1"]


async def test_what_is_put_off_comes_after_everybody() -> None:
    put_off = {"a1"}
    desk = Desk(is_put_off=put_off.__contains__)
    await desk.ask(["a1", "a2"])
    await desk.ask(["b1", "b2", "b3"])

    assert await desk.work(5) == ["a2", "b1", "b2", "b3", "a1"]


async def test_a_question_of_two_requests_is_taken_once_and_outlives_the_first() -> None:
    desk = Desk()
    first = await desk.ask(["shared", "alone"])
    second = await desk.ask(["shared"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await desk.ask(["last"])

    assert await desk.work(2) == ["shared", "last"], "nobody waits for the other any more"
    assert await second == {"shared": "answer to shared"}


async def test_what_is_not_reached_in_time_is_none_and_what_is_at_work_is_remembered() -> None:
    desk = Desk()
    request = await desk.ask(["taken", "waiting"], within_seconds=0.01)
    assert await desk.questions.take() == "taken"

    assert await request == {"taken": None, "waiting": None}
    desk.questions.settle("taken", "late")
    assert desk.questions.remembered("taken") == "late"
    assert await (await desk.ask(["taken"])) == {"taken": "late"}


async def test_a_question_that_is_asked_again_while_its_first_asker_leaves_is_still_answered() -> None:
    desk = Desk()
    first = await desk.ask(["question"])
    assert await desk.questions.take() == "question"
    desk.questions.settle("question", None)  # the worker was lost
    second = await desk.ask(["question"])
    assert await first == {"question": None}

    assert await desk.work(1) == ["question"]
    assert await second == {"question": "answer to question"}


async def test_giving_up_leaves_nobody_waiting() -> None:
    desk = Desk()
    requests = [await desk.ask(["a", "b"]), await desk.ask(["b", "c"])]
    desk.questions.give_up()

    assert await asyncio.wait_for(asyncio.gather(*requests), 5) == [{"a": None, "b": None}, {"b": None, "c": None}]


async def test_the_least_recently_used_answer_is_forgotten_first() -> None:
    desk = Desk(most_remembered=2)
    await desk.ask(["a", "b"])
    await desk.work(2)
    assert desk.questions.remembered("a")
    await desk.ask(["c"])
    await desk.work(1)

    assert [desk.questions.remembered(each) is not None for each in "abc"] == [True, False, True]


async def test_programs_that_ask_nothing_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_PROGRAMS", 2)
    desk = Desk()
    for name in ("old", "new", "newer"):
        await desk.ask([f"{name}:5"], program=name)
        await desk.work(1)
    await desk.ask(["newer again"], program="newer")
    await desk.ask(["old again"], program="old")

    assert await desk.work(2) == ["old again", "newer again"], "the old program's five seconds are forgotten"
