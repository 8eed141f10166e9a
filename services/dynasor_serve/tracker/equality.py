"""The tracker's link to the evaluator: pairs of answers that canonical strings cannot decide, in batches.

A pair that stays unanswered is given up after a few tries and counts as unequal: a program never hangs on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from dynasor_serve.programs.events import AnswersCompared
from dynasor_serve.rpc.channel import open_channel

logger = logging.getLogger(__name__)

_CALL_SECONDS = 15.0
_TRIES = 3
_PAUSE_SECONDS = 0.5
_MOST_PAIRS = 1024

Pair = tuple[str, str]


class Asker(Protocol):
    """Who asks: a program's driver."""

    def answers_compared(self, event: AnswersCompared) -> None:
        """Takes the decisions."""
        ...


class EqualityLink:
    """Gathers questions of all programs and asks the evaluator for them together."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub = EvaluatorServiceStub(self._channel)
        self._waiting: list[tuple[Asker, Sequence[Pair]]] = []
        self._wakeup = asyncio.Event()

    def ask(self, asker: Asker, pairs: Sequence[Pair]) -> None:
        """Asks about pairs; the asker is told once, with all of them."""
        self._waiting.append((asker, pairs))
        self._wakeup.set()

    async def run(self) -> None:
        """Asks until cancelled; batches run side by side."""
        try:
            async with asyncio.TaskGroup() as batches:
                while True:
                    await self._wakeup.wait()
                    self._wakeup.clear()
                    waiting, self._waiting = self._waiting, []
                    batches.create_task(self._ask(waiting))
        finally:
            await self._channel.close()

    async def _ask(self, waiting: list[tuple[Asker, Sequence[Pair]]]) -> None:
        pairs = list(dict.fromkeys(pair for _, asked in waiting for pair in asked))
        equal: set[Pair] = set()
        for first in range(0, len(pairs), _MOST_PAIRS):
            equal |= await self._equal(pairs[first : first + _MOST_PAIRS])
        for asker, asked in waiting:
            asker.answers_compared(
                AnswersCompared(
                    equal=tuple(pair for pair in asked if pair in equal),
                    unequal=tuple(pair for pair in asked if pair not in equal),
                )
            )

    async def _equal(self, pairs: list[Pair]) -> set[Pair]:
        request = pb.DecideEqualityRequest(pairs=[pb.AnswerPair(left=left, right=right) for left, right in pairs])
        for attempt in range(_TRIES):
            try:
                response = await self._stub.DecideEquality(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                extra = {"attempt": attempt + 1, "cause": error.details()}
                logger.warning("the evaluator does not answer", extra=extra)
                await asyncio.sleep(_PAUSE_SECONDS * (attempt + 1))
                continue
            return {
                pair for pair, decision in zip(pairs, response.decisions, strict=True) if decision == pb.EQUALITY_EQUAL
            }
        logger.error("pairs of answers are given up and count as unequal", extra={"pairs": len(pairs)})
        return set()
