"""What the tracker's links to the evaluator have in common: questions are asked again until answered, or given up.

A program has one request under way at most, and programs take turns at the evaluator, so what one program asks cannot
keep another's waiting. What a request did not reach is asked again, until the question's time is up, the evaluator has
been silent for too long, or it refuses; then it is given up, and the program is told so: it never hangs on a question.

`equality` and `verification` say what a question is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from dynasor_serve.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from dynasor_serve.rpc.channel import open_channel

logger = logging.getLogger(__name__)

# A request's time. Questions that come up meanwhile wait for its end, so it is short; what the evaluator has begun is
# remembered there, and answered when it is asked again.
CALL_SECONDS = 5.0
# Requests in a row that get no answer. With their pauses they cover a restart of the evaluator, some ten seconds.
_MOST_FAILURES = 6
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 4.0


class Questioner(Protocol):
    """Who asks: a program's driver."""

    @property
    def query_id(self) -> str:
        """The program's query."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        ...


class NoAnswer(Exception):
    """A request was lost; it may be sent again."""


class Refused(Exception):
    """The evaluator will not answer a request, however often it is sent."""


P = TypeVar("P", bound=Questioner)
Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class EvaluatorLink(ABC, Generic[P, Q, A]):
    """Asks the evaluator on behalf of all programs, for each by itself.

    Args:
        address: the evaluator's.
        patience_seconds: the time that a question has.
    """

    def __init__(self, address: str, patience_seconds: float) -> None:
        self._channel = open_channel(address)
        self._stub = EvaluatorServiceStub(self._channel)
        self._patience_seconds = patience_seconds
        self._open: dict[P, dict[Q, float]] = {}  # asker -> open question -> when its time is up (s, monotonic)
        self._newcomers: asyncio.Queue[P] = asyncio.Queue()  # bounded by the programs of a tracker

    async def run(self) -> None:
        """Asks until cancelled."""
        try:
            async with asyncio.TaskGroup() as askers:
                while True:
                    askers.create_task(self._serve(await self._newcomers.get()))
        finally:
            await self._channel.close()

    @abstractmethod
    def _batch(self, questions: Iterable[Q]) -> list[Q]:
        """Those that one request takes, of questions in the order asked; at least one."""

    @abstractmethod
    async def _answers(self, asker: P, questions: Sequence[Q]) -> dict[Q, A]:
        """What the evaluator says within `CALL_SECONDS`, of those questions that it has dealt with.

        Raises:
            NoAnswer: it did not answer, or not what was asked.
            Refused: it never will.
        """

    @abstractmethod
    def _tell(self, asker: P, answers: Mapping[Q, A], given_up: Sequence[Q], cause: str, *, is_refused: bool) -> None:
        """Tells the asker what is answered, and what is given up for the cause: a refusal, or silence."""

    def _add(self, asker: P, questions: Iterable[Q]) -> None:
        """Asks questions; the asker is told of each once."""
        if asker not in self._open:
            self._open[asker] = {}
            self._newcomers.put_nowait(asker)
        until = asyncio.get_running_loop().time() + self._patience_seconds
        self._open[asker].update(dict.fromkeys(questions, until))

    async def _serve(self, asker: P) -> None:
        """Asks for one program, until nothing of it is open."""
        still_open = self._open[asker]
        failures = 0
        while still_open and not asker.is_over:
            batch = self._batch(still_open)
            answers: dict[Q, A] = {}
            refused: list[Q] = []
            cause = "its turn did not come in time"
            try:
                answers = await self._answers(asker, batch)
                failures = 0
            except NoAnswer as error:
                cause = f"the evaluator does not answer ({error})"
                logger.warning("the evaluator does not answer", extra={"cause": str(error)})
                failures += 1
            except Refused as error:
                cause, refused = str(error), batch
            now = asyncio.get_running_loop().time() if failures < _MOST_FAILURES else math.inf
            late = [each for each, until in still_open.items() if until <= now and each not in answers]
            given_up = refused or late
            if given_up:
                extra = {"query_id": asker.query_id, "questions": len(given_up), "cause": cause}
                logger.error("questions to the evaluator are given up", extra=extra)
            for question in (*answers, *given_up):
                del still_open[question]
            if answers or given_up:
                self._tell(asker, answers, given_up, cause, is_refused=bool(refused))
            if still_open and not answers:
                pause = min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        del self._open[asker]
