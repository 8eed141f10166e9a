"""The tracker's link to the evaluator: pairs of answers that canonical strings cannot decide.

A program has one request under way at most, and requests take turns at the evaluator, so the answers of one program
cannot keep another's waiting. What a request did not reach is asked again, until the pair's time is up or the evaluator
has been silent for too long; then it counts as unequal: a program never hangs on a comparison.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from dynasor_serve.programs.events import AnswersCompared
from dynasor_serve.rpc.channel import open_channel

logger = logging.getLogger(__name__)

# A request's time. Pairs that come up meanwhile wait for its end, so it is short; it covers a pair and a new worker.
_CALL_SECONDS = 5.0
# A pair's time, which covers a queue of some ten programs with hostile answers.
_PATIENCE_SECONDS = 60.0
# Requests in a row that get no answer. With their pauses they cover a restart of the evaluator, some ten seconds.
_MOST_FAILURES = 6
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 4.0
_MOST_PAIRS = 1024

Pair = tuple[str, str]


class Asker(Protocol):
    """Who asks: a program's driver."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted."""
        ...

    def answers_compared(self, event: AnswersCompared) -> None:
        """Takes decisions, some at a time."""
        ...


class _NoAnswer(Exception):
    """A request was lost."""


class EqualityLink:
    """Asks the evaluator on behalf of all programs, for each by itself."""

    def __init__(self, address: str, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._channel = open_channel(address)
        self._stub = EvaluatorServiceStub(self._channel)
        self._patience_seconds = patience_seconds
        self._open: dict[Asker, dict[Pair, float]] = {}  # asker -> open pair -> when its time is up (s, monotonic)
        self._newcomers: asyncio.Queue[Asker] = asyncio.Queue()  # bounded by the programs of a tracker

    def ask(self, asker: Asker, pairs: Sequence[Pair]) -> None:
        """Asks about pairs; the asker is told of each once."""
        if asker not in self._open:
            self._open[asker] = {}
            self._newcomers.put_nowait(asker)
        until = asyncio.get_running_loop().time() + self._patience_seconds
        self._open[asker].update(dict.fromkeys(pairs, until))

    async def run(self) -> None:
        """Asks until cancelled."""
        try:
            async with asyncio.TaskGroup() as askers:
                while True:
                    askers.create_task(self._serve(await self._newcomers.get()))
        finally:
            await self._channel.close()

    async def _serve(self, asker: Asker) -> None:
        """Asks for one program, until nothing of it is open."""
        still_open = self._open[asker]
        failures = 0
        while still_open and not asker.is_over:
            try:
                is_equal = await self._decided(list(islice(still_open, _MOST_PAIRS)))
                failures = 0
            except _NoAnswer as error:
                logger.warning("the evaluator does not answer", extra={"cause": str(error)})
                is_equal = {}
                failures += 1
            now = asyncio.get_running_loop().time() if failures < _MOST_FAILURES else math.inf
            given_up = [pair for pair, until in still_open.items() if until <= now and pair not in is_equal]
            if given_up:
                logger.error("pairs of answers are given up and count as unequal", extra={"pairs": len(given_up)})
            for pair in (*is_equal, *given_up):
                del still_open[pair]
            if is_equal or given_up:
                equal = tuple(pair for pair, decision in is_equal.items() if decision)
                unequal = tuple(pair for pair, decision in is_equal.items() if not decision)
                asker.answers_compared(AnswersCompared(equal=equal, unequal=(*unequal, *given_up)))
            if still_open and not is_equal:
                pause = min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        del self._open[asker]

    async def _decided(self, pairs: list[Pair]) -> dict[Pair, bool]:
        """Those pairs of one request that the evaluator has dealt with, and whether they are equal.

        Raises:
            _NoAnswer: it did not answer, or not what was asked.
        """
        request = pb.DecideEqualityRequest(pairs=[pb.AnswerPair(left=left, right=right) for left, right in pairs])
        try:
            response = await self._stub.DecideEquality(request, timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _NoAnswer(error.details()) from error
        if len(response.decisions) != len(pairs):
            raise _NoAnswer(f"{len(response.decisions)} decisions on {len(pairs)} pairs")
        return {
            pair: decision == pb.EQUALITY_EQUAL
            for pair, decision in zip(pairs, response.decisions, strict=True)
            if decision != pb.EQUALITY_NOT_REACHED
        }
