"""Verify over gRPC, asked of evaluator processes: one as it is, and one in a container that forbids namespaces."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dynasor_serve.api.evaluator.v1 import evaluator_pb2 as pb
from dynasor_serve.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from dynasor_serve.local.ports import free_port
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import reason_of

from fakes import isolation

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has what the sandbox is made of"),
]

RUN = "import runpy; runpy.run_module('dynasor_serve.evaluator', run_name='__main__')"
TESTS = "assert f(2) == 4\nassert f(3) == 9"
SECONDS = 8.0  # per candidate


@asynccontextmanager
async def evaluator(before: str = "") -> AsyncIterator[EvaluatorServiceStub]:
    """An evaluator process that serves; it is told to stop, and must."""
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", before + RUN),
        env={
            **os.environ,
            "DYNASOR_EVALUATOR_LISTEN": address,
            "DYNASOR_EVALUATOR_CANDIDATE_SECONDS": str(SECONDS),
            "DYNASOR_EVALUATOR_CANDIDATE_MEMORY_BYTES": str(isolation.MARK_BYTES),
        },
    )
    try:
        async with open_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            async with asyncio.timeout(30):
                while not await is_serving(health):  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.05)
            yield EvaluatorServiceStub(channel)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def is_serving(health: Any) -> bool:  # its stub has no types
    answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub() -> AsyncIterator[EvaluatorServiceStub]:
    async with evaluator() as running:
        yield running


async def refusal(stub: EvaluatorServiceStub, **request: object) -> tuple[grpc.StatusCode, str, str]:
    """(status, reason, message) of a request that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Verify(pb.VerifyRequest(**request), timeout=20)  # type: ignore[arg-type]
    return caught.value.code(), reason_of(caught.value), caught.value.details() or ""


async def test_game24(stub: EvaluatorServiceStub) -> None:
    candidates = ["(10 - 4) * (13 - 9) = 24", "4 * 6 = 24", ""]
    response = await stub.Verify(
        pb.VerifyRequest(verifier="game24", task="4 9 10 13", candidates=candidates), timeout=20
    )

    assert [each.reward for each in response.verifications] == [1.0, 0.0, 0.0]
    assert {each.status for each in response.verifications} == {pb.VERIFICATION_STATUS_VERIFIED}
    assert response.verifications[0].detail == "(10 - 4) * (13 - 9) is 24"


async def test_unit_tests(stub: EvaluatorServiceStub) -> None:
    isolation.sandbox()
    candidates = ["def f(x): return x * x", "def f(x): return 4", "while True: pass"]
    request = pb.VerifyRequest(verifier="unit-tests", task=TESTS, candidates=candidates)
    response = await stub.Verify(request, timeout=60)

    assert [each.reward for each in response.verifications] == [1.0, 0.5, 0.0]
    assert response.verifications[2].status == pb.VERIFICATION_STATUS_UNDECIDED
    assert "wall-clock limit of 8 s" in response.verifications[2].detail


async def test_a_deadline_is_met_with_what_there_is_and_asking_again_completes_it(stub: EvaluatorServiceStub) -> None:
    isolation.sandbox()
    candidates = ["def f(x): return x * x  # quick", "import time\ntime.sleep(2.5)\ndef f(x): return x * x"]
    request = pb.VerifyRequest(verifier="unit-tests", task=TESTS, candidates=candidates, query_id="a query")
    response = await stub.Verify(request, timeout=1.5)
    async with asyncio.timeout(40):
        while any(each.status == pb.VERIFICATION_STATUS_NOT_REACHED for each in response.verifications):
            response = await stub.Verify(request, timeout=1.5)

    assert [each.reward for each in response.verifications] == [1.0, 1.0]


async def test_candidates_that_are_run_do_not_keep_those_waiting_that_are_read(stub: EvaluatorServiceStub) -> None:
    isolation.sandbox()
    endless = [f"while True: pass  # {number}" for number in range(20)]
    running = stub.Verify(pb.VerifyRequest(verifier="unit-tests", task=TESTS, candidates=endless), timeout=60)
    await asyncio.sleep(0.2)
    request = pb.VerifyRequest(verifier="game24", task="4 9 10 13", candidates=["(10 - 4) * (13 - 9)"])
    response = await stub.Verify(request, timeout=20)

    assert response.verifications[0].reward == 1.0
    assert not running.done()
    running.cancel()


async def test_what_is_wrong_with_a_request_is_named(stub: EvaluatorServiceStub) -> None:
    invalid, malformed = grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"
    unknown = await refusal(stub, verifier="game25", task="4 9 10 13", candidates=["x"])
    assert unknown == (invalid, "INVALID_VERIFIER", "there is no verifier 'game25'; known are game24, unit-tests")
    task = await refusal(stub, verifier="game24", task="4 9 10", candidates=["x"])
    assert task[:2] == (invalid, "INVALID_VERIFIER")
    assert "four whole numbers" in task[2]
    many = await refusal(stub, verifier="game24", task="4 9 10 13", candidates=["x"] * 257)
    assert many == (invalid, malformed, "257 candidates in one request; send at most 256")
    long = await refusal(stub, verifier="game24", task="4 9 10 13", candidates=["x", "é" * (1 << 20)])
    assert long == (invalid, malformed, "candidate 1 has 2097152 bytes; send at most 1048576")


async def test_tests_that_cannot_be_run_are_the_requests_fault(stub: EvaluatorServiceStub) -> None:
    isolation.sandbox()
    code, reason, message = await refusal(stub, verifier="unit-tests", task="assert f(", candidates=["x", "y"])

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_VERIFIER")
    assert "the task is no Python" in message


async def test_no_candidates_are_no_work(stub: EvaluatorServiceStub) -> None:
    response = await stub.Verify(pb.VerifyRequest(verifier="game24", task="4 9 10 13"), timeout=20)

    assert not response.verifications


async def test_without_isolation_code_is_not_run_and_everything_else_is_served() -> None:
    async with evaluator(isolation.DENY_NAMESPACES) as stub:
        code, reason, message = await refusal(
            stub, verifier="unit-tests", task=TESTS, candidates=["def f(x): return 1"]
        )
        request = pb.VerifyRequest(verifier="game24", task="4 9 10 13", candidates=["(10 - 4) * (13 - 9)"])
        response = await stub.Verify(request, timeout=20)

    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERIFIER_UNAVAILABLE")
    assert message.startswith("unit-tests is not offered: no isolation: ")
    assert "unshare: Operation not permitted" in message
    assert response.verifications[0].reward == 1.0


async def test_an_evaluator_that_stops_leaves_no_candidate_running() -> None:
    isolation.sandbox()
    others = set(isolation.processes_left())  # an evaluator of another test may still be at work
    async with evaluator() as stub:
        endless = pb.VerifyRequest(verifier="unit-tests", task=TESTS, candidates=["while True: pass"])
        running = stub.Verify(endless, timeout=60)
        async with asyncio.timeout(20):
            while others.issuperset(isolation.processes_left()):  # noqa: ASYNC110 - the kernel sets no event
                await asyncio.sleep(0.02)
        running.cancel()

    assert others.issuperset(isolation.processes_left())
