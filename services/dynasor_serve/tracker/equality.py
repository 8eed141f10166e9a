"""The tracker's link to the evaluator: pairs of answers that canonical strings cannot decide.

A pair that is given up counts as unequal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

import grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.programs.events import AnswersCompared
from dynasor_serve.programs.query import Query
from dynasor_serve.tracker.evaluator_link import CALL_SECONDS, EvaluatorLink, NoAnswer, Questioner

# A pair's time, which covers a queue of some ten programs with hostile answers.
_PATIENCE_SECONDS = 60.0
_MOST_PAIRS = 1024
_MOST_CHARACTERS = 2_000_000  # of four bytes at most; gRPC's own limit is 16 MiB, and the tests are in it too

Pair = tuple[str, str]


class Asked(Protocol):
    """A program, as far as it matters here."""

    @property
    def query(self) -> Query:
        """What says how answers are compared."""
        ...


class Asker(Questioner, Protocol):
    """Who asks: a program's driver."""

    @property
    def program(self) -> Asked:
        """The program as it stands."""
        ...

    def answers_compared(self, event: AnswersCompared) -> None:
        """Takes decisions, some at a time."""
        ...


class EqualityLink(EvaluatorLink[Asker, Pair, bool]):
    """Asks which answers are equal."""

    def __init__(self, address: str, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        super().__init__(address, patience_seconds)

    def ask(self, asker: Asker, pairs: Sequence[Pair]) -> None:
        """Asks about pairs; the asker is told of each once."""
        self._add(asker, pairs)

    def _batch(self, questions: Iterable[Pair]) -> list[Pair]:
        batch: list[Pair] = []
        left = _MOST_CHARACTERS
        for pair in islice(questions, _MOST_PAIRS):
            left -= sum(map(len, pair))
            if batch and left < 0:
                break
            batch.append(pair)
        return batch

    async def _answers(self, asker: Asker, questions: Sequence[Pair]) -> dict[Pair, bool]:
        pairs = [pb.AnswerPair(left=left, right=right) for left, right in questions]
        query = asker.program.query
        request = pb.DecideEqualityRequest(
            pairs=pairs,
            query_id=asker.query_id,
            answer_type=query.answer_type.value,
            compared_by=query.compared_by,
        )
        try:
            response = await self._stub.DecideEquality(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise NoAnswer(error.details()) from error
        if len(response.decisions) != len(questions):
            raise NoAnswer(f"{len(response.decisions)} decisions on {len(questions)} pairs")
        return {
            pair: decision == pb.EQUALITY_EQUAL
            for pair, decision in zip(questions, response.decisions, strict=True)
            if decision != pb.EQUALITY_NOT_REACHED
        }

    def _tell(
        self, asker: Asker, answers: Mapping[Pair, bool], given_up: Sequence[Pair], cause: str, *, is_refused: bool
    ) -> None:
        equal = tuple(pair for pair, is_equal in answers.items() if is_equal)
        unequal = tuple(pair for pair, is_equal in answers.items() if not is_equal)
        asker.answers_compared(AnswersCompared(equal=equal, unequal=(*unequal, *given_up)))
