"""The tracker's link to the evaluator over real gRPC: to a real evaluator, and to ones that behave badly."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1 import evaluator_pb2_grpc
from dynasor_serve.certaindex.answers import AnswerType
from dynasor_serve.evaluator.equality_pool import EqualityPool
from dynasor_serve.evaluator.servicer import EvaluatorServicer
from dynasor_serve.local.ports import free_port
from dynasor_serve.programs.events import AnswersCompared
from dynasor_serve.programs.query import Query
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.equality import EqualityLink, Pair

HONEST = (r"2\pi", r"\pi\cdot 2")


@dataclass(frozen=True, slots=True)
class Asking:
    """A program that asks."""

    query: Query


class Program:
    """Who asks."""

    def __init__(
        self, query_id: str = "query", answer_type: AnswerType = AnswerType.MATH, compared_by: str = ""
    ) -> None:
        self.query_id = query_id
        query = Query(model="m", rule="even", prompt="?", answer_type=answer_type, compared_by=compared_by)
        self.program = Asking(query)
        self.is_over = False
        self.equal: list[Pair] = []
        self.unequal: list[Pair] = []
        self.heard = asyncio.Event()

    def answers_compared(self, event: AnswersCompared) -> None:
        self.equal += event.equal
        self.unequal += event.unequal
        self.heard.set()


class ScriptedEvaluator(evaluator_pb2_grpc.EvaluatorServiceServicer):
    """Answers as it is told to, request by request."""

    def __init__(self, answer: Callable[[list[Pair]], list[pb.Equality.ValueType]]) -> None:
        self.asked: list[list[Pair]] = []
        self.compared_by: list[tuple[str, str]] = []  # the answer type, and what answers are compared by
        self._answer = answer

    async def DecideEquality(  # noqa: N802 gRPC names it
        self, request: pb.DecideEqualityRequest, context: object
    ) -> pb.DecideEqualityResponse:
        self.asked.append([(pair.left, pair.right) for pair in request.pairs])
        self.compared_by.append((request.answer_type, request.compared_by))
        return pb.DecideEqualityResponse(decisions=self._answer(self.asked[-1]))

    async def Verify(self, request: pb.VerifyRequest, context: object) -> pb.VerifyResponse:  # noqa: N802 gRPC names it
        raise AssertionError("it is asked about no candidates")


@asynccontextmanager
async def linked(
    servicer: evaluator_pb2_grpc.EvaluatorServiceServicer, *, patience_seconds: float = 60.0
) -> AsyncIterator[EqualityLink]:
    """A link to an evaluator."""
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name="dynasor_serve.api.evaluator.v1.EvaluatorService",
        register=lambda into: evaluator_pb2_grpc.add_EvaluatorServiceServicer_to_server(servicer, into),
    )
    await server.start()
    try:
        async with running(EqualityLink(f"127.0.0.1:{server.port}", patience_seconds=patience_seconds)) as link:
            yield link
    finally:
        await server.stop(0)


@asynccontextmanager
async def running(link: EqualityLink) -> AsyncIterator[EqualityLink]:
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def told(program: Program, pairs: Sequence[Pair], within_seconds: float) -> None:
    """Waits until the program has heard of so many pairs."""
    async with asyncio.timeout(within_seconds):
        while len(program.equal) + len(program.unequal) < len(pairs):
            program.heard.clear()
            await program.heard.wait()


@pytest.mark.slow
async def test_hostile_answers_of_one_program_leave_another_its_equal_answers() -> None:
    endless = [f"(x+1)^{{10000}}(y+1)^{{1000{k}}}" for k in range(10)]  # two seconds a pair, and a new worker
    hostile, honest = Program("hostile"), Program("honest")
    async with (
        EqualityPool(timeout_seconds=2.0) as pool,
        linked(EvaluatorServicer(pool, {}, Metrics("evaluator"))) as link,
    ):
        link.ask(hostile, list(itertools.combinations(endless, 2)))
        await asyncio.sleep(3.0)
        began = time.monotonic()
        link.ask(honest, [HONEST])
        await told(honest, [HONEST], within_seconds=15)
        assert honest.equal == [HONEST], f"decided unequal after {time.monotonic() - began:.1f} s"
        hostile.is_over = True


async def test_only_what_was_not_reached_is_asked_again() -> None:
    pairs = [("a+1", "1+a"), ("b+1", "1+b"), ("c", "d")]
    answers = iter(
        [
            [pb.EQUALITY_EQUAL, pb.EQUALITY_NOT_REACHED, pb.EQUALITY_NOT_REACHED],
            [pb.EQUALITY_NOT_REACHED, pb.EQUALITY_UNDECIDED],
            [pb.EQUALITY_EQUAL],
        ]
    )
    evaluator, program = ScriptedEvaluator(lambda _: next(answers)), Program()
    async with linked(evaluator) as link:
        link.ask(program, pairs)
        await told(program, pairs, within_seconds=10)

    assert evaluator.asked == [pairs, pairs[1:], pairs[1:2]]
    assert program.equal == [pairs[0], pairs[1]]
    assert program.unequal == [pairs[2]]


async def test_a_program_has_one_request_under_way_and_programs_do_not_share_one() -> None:
    evaluator = ScriptedEvaluator(lambda pairs: [pb.EQUALITY_UNEQUAL] * len(pairs))
    first, second = Program("first"), Program("second")
    async with linked(evaluator) as link:
        link.ask(first, [("a", "b")])
        link.ask(first, [("a", "c")])
        link.ask(second, [("a", "b")])
        await told(first, [("a", "b"), ("a", "c")], within_seconds=10)
        await told(second, [("a", "b")], within_seconds=10)

    assert sorted(evaluator.asked) == [[("a", "b")], [("a", "b"), ("a", "c")]]


async def test_what_is_never_reached_counts_as_unequal_in_the_end() -> None:
    evaluator, program = ScriptedEvaluator(lambda pairs: [pb.EQUALITY_NOT_REACHED] * len(pairs)), Program()
    async with linked(evaluator, patience_seconds=0.5) as link:
        link.ask(program, [HONEST])
        await told(program, [HONEST], within_seconds=10)

    assert program.unequal == [HONEST]
    assert len(evaluator.asked) > 1


async def test_an_evaluator_that_answers_something_else_is_asked_again() -> None:
    answers = iter([[], [pb.EQUALITY_EQUAL] * 2, [pb.EQUALITY_EQUAL]])
    program = Program()
    async with linked(ScriptedEvaluator(lambda _: next(answers))) as link:
        link.ask(program, [HONEST])
        await told(program, [HONEST], within_seconds=10)

    assert program.equal == [HONEST]


@pytest.mark.slow
async def test_without_an_evaluator_no_program_hangs() -> None:
    program = Program()
    async with running(EqualityLink(f"127.0.0.1:{free_port()}")) as link:
        link.ask(program, [HONEST])
        await told(program, [HONEST], within_seconds=40)

    assert program.unequal == [HONEST]


async def test_a_program_that_is_over_is_asked_for_no_more() -> None:
    evaluator, program = ScriptedEvaluator(lambda pairs: [pb.EQUALITY_NOT_REACHED] * len(pairs)), Program()
    async with linked(evaluator) as link:
        link.ask(program, [HONEST])
        while not evaluator.asked:  # noqa: ASYNC110 - what is asked of the fake sets no event
            await asyncio.sleep(0.01)
        program.is_over = True
        asked = len(evaluator.asked)
        await asyncio.sleep(1.0)

    assert len(evaluator.asked) <= asked + 1
    assert not program.equal + program.unequal
