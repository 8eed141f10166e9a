"""Who waits for which answer, whose turn it is, and what has been answered before.

The pools keep their questions here: `equality_pool` asks about pairs of answers, `verification_pool` about candidates.
Requests add questions and wait; workers take one at a time and settle it. A question that two requests wait for is
taken once, and outlives the first of them.

The next question is one of the program that has had the least of the workers' time, so that a program whose answers
take long delays another by the one question that is at work, and not by all it has; among those that have had as much,
as newcomers have, it is one of the request that asks least. A program's time is remembered when it asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")

_MOST_PROGRAMS = 4096  # whose time is remembered while they ask nothing


@dataclass(slots=True, eq=False)
class _Program(Generic[Q]):
    """What a program has had of the workers."""

    requests: int = 0
    seconds: float = 0.0
    running: dict[Q, float] = field(default_factory=dict)  # question at work -> since when

    def turn(self, now: float) -> tuple[float, int]:
        """Smaller comes first."""
        return self.seconds + sum(now - since for since in self.running.values()), len(self.running)


@dataclass(slots=True, eq=False)
class _Request(Generic[Q]):
    """What a request still wants."""

    program: _Program[Q]
    questions: deque[Q]
    late: deque[Q] = field(default_factory=deque)  # put off: they come after everybody's others


@dataclass(slots=True, eq=False)
class _Question(Generic[Q, A]):
    """What somebody waits for."""

    future: asyncio.Future[A | None]
    requests: int = 0  # that wait for it
    taker: _Program[Q] | None = None  # whose turn it was when a worker took it


class Questions(Generic[Q, A]):
    """Questions of programs, in the order of their turns.

    Args:
        most_remembered: answers that are remembered, the least recently used forgotten first.
        is_put_off: whether a question comes after everybody's others. It is asked when the question's turn has come.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        most_remembered: int = 65_536,
        is_put_off: Callable[[Q], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_remembered = most_remembered
        self._is_put_off = is_put_off
        self._clock = clock
        self._answers: OrderedDict[Q, A] = OrderedDict()
        self._open: dict[Q, _Question[Q, A]] = {}
        self._requests: list[_Request[Q]] = []  # in the order of their arrival
        self._programs: OrderedDict[str, _Program[Q]] = OrderedDict()  # the latest to ask last
        self._has_turns = asyncio.Event()

    def remembered(self, question: Q) -> A | None:
        """Return the answer to a question that has been asked before, or None."""
        if question in self._answers:
            self._answers.move_to_end(question)
        return self._answers.get(question)

    async def answers(
        self, questions: Sequence[Q], *, program: str = "", within_seconds: float | None = None
    ) -> dict[Q, A | None]:
        """Return the answer to each question; None to those that no worker was done with in time.

        What this request alone waits for is dropped when its time is up or it is cancelled; what a worker is at is
        still answered and remembered.

        Args:
            program: who asks; an empty name makes the request a program of its own.
            within_seconds: how long to wait; None waits for all.
        """
        answers = {question: self.remembered(question) for question in questions}
        asked = [question for question, answer in answers.items() if answer is None]
        if not asked:
            return answers
        waiting = {question: self._join(question) for question in asked}
        request = _Request(self._program(program), deque(asked))
        request.program.requests += 1
        self._requests.append(request)
        self._has_turns.set()
        try:
            # `wait`, unlike `gather`, leaves the futures alone when this call is cancelled: others share them.
            await asyncio.wait([question.future for question in waiting.values()], timeout=within_seconds)
            return answers | {each: wait.future.result() for each, wait in waiting.items() if wait.future.done()}
        finally:
            self._requests.remove(request)
            request.program.requests -= 1
            for question, wait in waiting.items():
                wait.requests -= 1
                if not wait.requests and wait.taker is None and not wait.future.done():
                    del self._open[question]

    async def take(self) -> Q:
        """Return the next question, once there is one. Whoever takes it settles it."""
        while True:
            taken = self._next()
            if taken is not None:
                question, program = taken
                self._open[question].taker = program
                program.running[question] = self._clock()
                return question
            self._has_turns.clear()
            await self._has_turns.wait()

    def is_open(self, question: Q) -> bool:
        """Whether somebody waits for a question, or a worker is at it."""
        return question in self._open

    def settle(self, question: Q, answer: A | None) -> None:
        """Answer a question that was taken; None leaves it unanswered, and unremembered."""
        settled = self._open.pop(question)
        if settled.taker is not None:
            settled.taker.seconds += self._clock() - settled.taker.running.pop(question)
        if answer is not None:
            self._answers[question] = answer
            if len(self._answers) > self._most_remembered:
                self._answers.popitem(last=False)
        settled.future.set_result(answer)

    def give_up(self) -> None:
        """Leave everything unanswered that somebody waits for; what is taken must have been settled."""
        for question in tuple(self._open):
            self.settle(question, None)

    def _program(self, name: str) -> _Program[Q]:
        if not name:
            return _Program()
        program = self._programs.setdefault(name, _Program())
        self._programs.move_to_end(name)
        if len(self._programs) > _MOST_PROGRAMS:
            idle = (each for each, its in self._programs.items() if not its.requests and its is not program)
            self._programs.pop(next(idle, ""), None)
        return program

    def _join(self, question: Q) -> _Question[Q, A]:
        waiting = self._open.get(question)
        if waiting is None:
            waiting = self._open[question] = _Question(asyncio.get_running_loop().create_future())
        waiting.requests += 1
        return waiting

    def _next(self) -> tuple[Q, _Program[Q]] | None:
        """The next question that nobody has taken, and whose turn it is; those put off only after all others."""
        now = self._clock()
        by_turn = sorted(self._requests, key=lambda request: (*request.program.turn(now), len(request.questions)))
        for request in by_turn:
            while request.questions:
                question = request.questions.popleft()
                if not self._is_waiting(question):
                    continue
                if not self._is_put_off(question):
                    return question, request.program
                request.late.append(question)
        for request in by_turn:
            while request.late:
                question = request.late.popleft()
                if self._is_waiting(question):
                    return question, request.program
        return None

    def _is_waiting(self, question: Q) -> bool:
        waiting = self._open.get(question)
        return waiting is not None and waiting.taker is None
