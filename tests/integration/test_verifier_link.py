"""The tracker's link to verifiers over real gRPC: to a real evaluator, and to ones that behave badly."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1 import evaluator_pb2_grpc
from dynasor_serve.evaluator.equality_pool import EqualityPool
from dynasor_serve.evaluator.sandbox.isolation import Sandbox
from dynasor_serve.evaluator.servicer import EvaluatorServicer
from dynasor_serve.evaluator.verification_pool import VerificationPool
from dynasor_serve.evaluator.verifiers.registry import verifiers
from dynasor_serve.local.ports import free_port
from dynasor_serve.programs.events import ProgramError, Rewarded
from dynasor_serve.programs.query import Branch
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.rpc.server import GrpcServer
from dynasor_serve.telemetry.metrics import Metrics
from dynasor_serve.tracker.verification import VerifierLink

TASK = "4 9 10 13"
RIGHT, WRONG = "(10 - 4) * (13 - 9) = 24", "4 * 6 = 24"
VERIFIED, NOT_REACHED = pb.VERIFICATION_STATUS_VERIFIED, pb.VERIFICATION_STATUS_NOT_REACHED
UNDECIDED = pb.VERIFICATION_STATUS_UNDECIDED

Answer = Callable[[pb.VerifyRequest], list[pb.Verification]]


class Program:
    """Who asks."""

    def __init__(self, query_id: str = "query") -> None:
        self.query_id = query_id
        self.is_over = False
        self.told: list[Rewarded] = []
        self.heard = asyncio.Event()

    def rewarded(self, event: Rewarded) -> None:
        self.told.append(event)
        self.heard.set()

    @property
    def rewards(self) -> dict[int, float]:
        return {event.branch: event.reward for event in self.told}


class ScriptedEvaluator(evaluator_pb2_grpc.EvaluatorServiceServicer):
    """Answers as it is told to, request by request."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[pb.VerifyRequest] = []
        self._answer = answer

    async def DecideEquality(  # noqa: N802 gRPC names it
        self, request: pb.DecideEqualityRequest, context: object
    ) -> pb.DecideEqualityResponse:
        raise AssertionError("it is asked about no pairs")

    async def Verify(self, request: pb.VerifyRequest, context: object) -> pb.VerifyResponse:  # noqa: N802 gRPC names it
        self.asked.append(request)
        return pb.VerifyResponse(verifications=self._answer(request))


@asynccontextmanager
async def linked(
    servicer: evaluator_pb2_grpc.EvaluatorServiceServicer, *, patience_seconds: float = 60.0
) -> AsyncIterator[VerifierLink]:
    """A link to an evaluator."""
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name="dynasor_serve.api.evaluator.v1.EvaluatorService",
        register=lambda into: evaluator_pb2_grpc.add_EvaluatorServiceServicer_to_server(servicer, into),
    )
    await server.start()
    try:
        async with running(VerifierLink(f"127.0.0.1:{server.port}", patience_seconds=patience_seconds)) as link:
            yield link
    finally:
        await server.stop(0)


@asynccontextmanager
async def running(link: VerifierLink) -> AsyncIterator[VerifierLink]:
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def told(program: Program, count: int, within_seconds: float = 10.0) -> None:
    """Waits until the program has heard of so many branches."""
    async with asyncio.timeout(within_seconds):
        while len(program.told) < count:
            program.heard.clear()
            await program.heard.wait()


def all_of(status: pb.VerificationStatus.ValueType, reward: float = 0.0, detail: str = "") -> Answer:
    return lambda request: [pb.Verification(status=status, reward=reward, detail=detail)] * len(request.candidates)


def branches(*texts: str) -> list[tuple[Branch, str]]:
    return [(Branch(number), text) for number, text in enumerate(texts)]


async def test_branches_are_rewarded_by_a_real_verifier() -> None:
    pools = {name: VerificationPool(verifier) for name, verifier in verifiers(Sandbox()).items() if name == "game24"}
    await pools["game24"].start()
    program = Program()
    try:
        async with linked(EvaluatorServicer(EqualityPool(), pools, Metrics("evaluator"))) as link:
            link.ask(program, "game24", TASK, branches(RIGHT, WRONG, RIGHT))
            await told(program, 3)
    finally:
        await pools["game24"].close()

    assert program.rewards == {0: 1.0, 1: 0.0, 2: 1.0}, "branches with the same text are told apart"
    assert program.told[0].detail == "(10 - 4) * (13 - 9) is 24"


async def test_a_task_or_verifier_that_is_refused_is_asked_once_and_given_up_with_the_reason() -> None:
    program = Program()
    async with linked(EvaluatorServicer(EqualityPool(), {}, Metrics("evaluator"))) as link:
        link.ask(program, "game24", TASK, branches(RIGHT, WRONG))
        await told(program, 2, within_seconds=5)

    assert program.rewards == {0: 0.0, 1: 0.0}
    assert program.told[0].detail.startswith("not verified: there is no verifier 'game24'")
    error = program.told[0].error
    assert error is not None
    assert (error.reason, error.retryable) == ("VERIFIER_REFUSED", False)
    assert error.message.startswith("the verifier game24 refuses: there is no verifier 'game24'; known are")


@pytest.mark.parametrize("reason", [Reason.INVALID_VERIFIER, Reason.VERIFIER_UNAVAILABLE, Reason.MALFORMED_REQUEST])
async def test_refusals_are_final(reason: Reason) -> None:
    def refuse(_: pb.VerifyRequest) -> list[pb.Verification]:
        raise ServiceError(reason, "what is wrong")

    evaluator, program = ScriptedEvaluator(refuse), Program()
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1)
        await asyncio.sleep(0.5)

    error = ProgramError("VERIFIER_REFUSED", "the verifier game24 refuses: what is wrong")
    assert program.told == [Rewarded(Branch(0), 0.0, "not verified: what is wrong", error, is_judged=False)]
    assert len(evaluator.asked) == 1


async def test_a_refusal_of_one_task_is_none_of_another() -> None:
    def answer(request: pb.VerifyRequest) -> list[pb.Verification]:
        if request.task == "bad":
            raise ServiceError(Reason.INVALID_VERIFIER, "no such task")
        return all_of(VERIFIED, 1.0)(request)

    program = Program()
    async with linked(ScriptedEvaluator(answer)) as link:
        link.ask(program, "game24", "bad", [(Branch(0), "a")])
        link.ask(program, "game24", "good", [(Branch(1), "a")])
        await told(program, 2)

    assert program.rewards == {0: 0.0, 1: 1.0}
    assert {event.branch: event.error is None for event in program.told} == {0: False, 1: True}


async def test_only_what_was_not_reached_is_asked_again() -> None:
    answers = iter([[VERIFIED, NOT_REACHED, NOT_REACHED], [NOT_REACHED, UNDECIDED], [VERIFIED]])
    evaluator = ScriptedEvaluator(
        lambda _: [pb.Verification(status=each, reward=float(each == VERIFIED)) for each in next(answers)]
    )
    program = Program("query 7")
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches("a", "b", "c"))
        await told(program, 3)

    assert [list(each.candidates) for each in evaluator.asked] == [["a", "b", "c"], ["b", "c"], ["b"]]
    assert program.rewards == {0: 1.0, 2: 0.0, 1: 1.0}
    assert {(each.verifier, each.task, each.query_id) for each in evaluator.asked} == {("game24", TASK, "query 7")}


async def test_a_candidate_that_a_limit_has_ended_has_no_reward_and_says_which() -> None:
    program = Program()
    async with linked(ScriptedEvaluator(all_of(UNDECIDED, 0.0, "killed by the wall-clock limit of 10 s"))) as link:
        link.ask(program, "unit-tests", "assert f()", branches("a"))
        await told(program, 1)

    assert program.told == [Rewarded(Branch(0), 0.0, "killed by the wall-clock limit of 10 s")]


async def test_what_is_never_reached_has_no_reward_in_the_end() -> None:
    evaluator, program = ScriptedEvaluator(all_of(NOT_REACHED)), Program()
    async with linked(evaluator, patience_seconds=0.5) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1)

    assert program.told == [Rewarded(Branch(0), 0.0, "not verified: its turn did not come in time", is_judged=False)]
    assert len(evaluator.asked) > 1


@pytest.mark.parametrize("nonsense", [[], [1.0, 1.0], [2.0], [-1.0], [math.nan]])
async def test_an_evaluator_that_answers_something_else_is_asked_again(nonsense: list[float]) -> None:
    answers = iter([nonsense, [1.0]])
    program = Program()
    evaluator = ScriptedEvaluator(lambda _: [pb.Verification(status=VERIFIED, reward=each) for each in next(answers)])
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1)

    assert program.rewards == {0: 1.0}


async def test_requests_are_kept_within_the_evaluators_bounds() -> None:
    evaluator, program = ScriptedEvaluator(all_of(VERIFIED, 1.0)), Program()
    texts = ["x" * 900_000] * 20 + ["y"] * 300 + ["z" * (1 << 21)]
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches(*texts))
        await told(program, len(texts), within_seconds=30)

    assert all(len(each.candidates) <= 256 and each.ByteSize() < 9 << 20 for each in evaluator.asked)
    assert program.rewards == {**dict.fromkeys(range(320), 1.0), 320: 0.0}
    assert Rewarded(Branch(320), 0.0, "not verified: it is longer than 1 MiB", is_judged=False) in program.told


async def test_an_evaluator_of_an_older_release_refuses() -> None:
    server = GrpcServer(address="127.0.0.1:0", service_name="older", register=lambda into: None)
    await server.start()
    program = Program()
    async with running(VerifierLink(f"127.0.0.1:{server.port}")) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1)
    await server.stop(0)

    error = ProgramError("VERIFIER_REFUSED", "the verifier game24 refuses: Method not found!")
    assert program.told == [Rewarded(Branch(0), 0.0, "not verified: Method not found!", error, is_judged=False)]


@pytest.mark.slow
async def test_without_an_evaluator_no_program_hangs() -> None:
    program = Program()
    async with running(VerifierLink(f"127.0.0.1:{free_port()}")) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1, within_seconds=40)

    assert program.rewards == {0: 0.0}
    assert program.told[0].detail.startswith("not verified: the evaluator does not answer")
    assert program.told[0].error is None, "silence is no refusal"


async def test_a_program_that_is_over_is_asked_for_no_more() -> None:
    evaluator, program = ScriptedEvaluator(all_of(NOT_REACHED)), Program()
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        while not evaluator.asked:  # noqa: ASYNC110 - what is asked of the fake sets no event
            await asyncio.sleep(0.01)
        program.is_over = True
        asked = len(evaluator.asked)
        await asyncio.sleep(1.0)

    assert len(evaluator.asked) <= asked + 1
    assert not program.told


async def test_an_evaluator_that_fails_is_asked_again() -> None:
    failures = [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]

    class Failing(ScriptedEvaluator):
        async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:  # noqa: N802 gRPC names it
            if failures:
                await context.abort(failures.pop(), "not now")
            return await super().Verify(request, context)

    evaluator, program = Failing(all_of(VERIFIED, 0.5)), Program()
    async with linked(evaluator) as link:
        link.ask(program, "game24", TASK, branches(RIGHT))
        await told(program, 1, within_seconds=20)

    assert (program.rewards, failures, len(evaluator.asked)) == ({0: 0.5}, [], 1)
