"""Asking many lines over one stream, against a real gRPC server that breaks as told."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1 import reasoning_pb2_grpc
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli.batching import stream
from dynasor_serve.cli.batching.input_file import LineKey
from dynasor_serve.cli.batching.lines import Question
from dynasor_serve.cli.batching.results import ResultId
from dynasor_serve.cli.batching.stream import Asked, answers
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import CommandFailed, bad_input
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import Reason, ServiceError


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_SHORTEST_PAUSE_SECONDS", 0.001)


class BreakingGateway(reasoning_pb2_grpc.ReasoningServiceServicer):
    """Answers so many queries per stream, the latest first, then breaks it as told.

    Attributes:
        asked: idempotency key -> how often it came.
        streams: how many were opened.
        most_held: most queries at once that had come and had no answer.
    """

    def __init__(
        self, *, answers_per_stream: int = 1_000_000, hold: int = 1, status: grpc.Status | None = None
    ) -> None:
        self.asked = Counter[str]()
        self.streams = 0
        self.most_held = 0
        self._answers_per_stream = answers_per_stream
        self._hold = hold
        self._status = status

    async def RunBatch(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.RunBatchRequest], context: Any
    ) -> AsyncIterator[pb.RunBatchResponse]:
        self.streams += 1
        await context.send_initial_metadata(())
        held: list[pb.RunBatchRequest] = []
        left = self._answers_per_stream
        async for request in request_iterator:
            self.asked[request.query.idempotency_key] += 1
            held.append(request)
            self.most_held = max(self.most_held, len(held))
            if len(held) == self._hold:
                while held and left:
                    left -= 1
                    yield self._answer(held.pop())
            if not left:
                break
        while held and left:
            left -= 1
            yield self._answer(held.pop())
        if not left and self._status is not None:
            await context.abort_with_status(self._status)
        if not left:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway restarts")

    def _answer(self, request: pb.RunBatchRequest) -> pb.RunBatchResponse:
        return pb.RunBatchResponse(key=request.key, state=pb.QueryState(query_id=request.query.idempotency_key))


def breaking(**fields: Any) -> BreakingGateway:
    return BreakingGateway(**fields)  # type: ignore[abstract]  # what a batch does not call is left out


@asynccontextmanager
async def served(gateway: BreakingGateway) -> AsyncIterator[str]:
    server = grpc.aio.server()
    reasoning_pb2_grpc.add_ReasoningServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def line(number: int) -> Asked:
    query = pb.Query(prompt=f"question {number}", idempotency_key=f"key-{number}")
    question = Question(query, is_chat=False, answer_type="text", gold=None)
    return Asked(ResultId("batch-0", LineKey(b""), 0), f"q{number}", question)


class Answered:
    """What came of asking.

    Attributes:
        ids: custom_id -> query id, as answered.
        trouble: what was told while the gateway was away.
        refusal: why asking ended early.
    """

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.trouble: list[str] = []
        self.refusal: CommandFailed | None = None

    async def ask(self, address: str, coming: Iterator[Asked | None], most_in_flight: int = 256) -> Answered:
        async with open_channel(address) as channel:
            stub = ReasoningServiceStub(channel)
            try:
                async for asked, answer in answers(
                    stub, address, coming, most_in_flight=most_in_flight, away=self.trouble.append
                ):
                    assert asked.custom_id not in self.ids, f"{asked.custom_id} was answered twice"
                    self.ids[asked.custom_id] = answer.state.query_id
            except CommandFailed as refusal:
                self.refusal = refusal
        return self


def right_ids(count: int) -> dict[str, str]:
    return {f"q{number}": f"key-{number}" for number in range(count)}


async def test_every_line_gets_its_own_answer_though_they_come_out_of_order() -> None:
    gateway = breaking(hold=7)
    async with served(gateway) as address:
        answered = await Answered().ask(address, map(line, range(100)))

    assert answered.ids == right_ids(100)
    assert (gateway.streams, answered.trouble) == (1, [""])


async def test_lines_that_need_no_answer_are_passed_over() -> None:
    coming = (None if number % 3 else line(number) for number in range(99))
    async with served(breaking()) as address:
        answered = await Answered().ask(address, coming)

    assert len(answered.ids) == 33


async def test_no_lines_at_all_are_answered_at_once() -> None:
    async with served(breaking()) as address:
        assert (await Answered().ask(address, iter([None, None]))).ids == {}


async def test_broken_streams_ask_again_what_has_no_answer_and_nothing_else() -> None:
    gateway = breaking(answers_per_stream=8, hold=5)
    async with served(gateway) as address:
        answered = await Answered().ask(address, map(line, range(100)), most_in_flight=20)

    assert answered.ids == right_ids(100)
    assert gateway.streams >= 10
    assert set(gateway.asked) == set(answered.ids.values())
    assert max(gateway.asked.values()) > 1, "no stream broke with a line under way"
    away = [each for each in answered.trouble if each]
    assert away
    assert all(re.search(r"is away \((the gateway restarts|the stream broke)\); trying again", each) for each in away)
    assert answered.trouble[-1] == "", "it was never said to be back"


async def test_no_more_lines_are_taken_than_may_be_in_flight() -> None:
    gateway = breaking(hold=8)
    taken = 0

    def coming() -> Iterator[Asked]:
        nonlocal taken
        for number in range(100):
            taken += 1
            assert taken - len(answered.ids) <= 8, "taken and not answered"
            yield line(number)

    answered = Answered()
    async with served(gateway) as address:
        await answered.ask(address, coming(), most_in_flight=8)

    assert answered.ids == right_ids(100)
    assert gateway.most_held == 8


async def test_a_typed_refusal_of_the_stream_ends_it() -> None:
    error = ServiceError(Reason.MALFORMED_REQUEST, "the request is no valid message")
    gateway = breaking(answers_per_stream=3, status=error.to_status())
    async with served(gateway) as address:
        answered = await Answered().ask(address, map(line, range(10)))

    assert answered.refusal is not None
    assert answered.refusal.reason == Reason.MALFORMED_REQUEST
    assert len(answered.ids) < 10, "it went on"


async def test_a_gateway_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.5)
    answered, all_asked = Answered(), asyncio.Event()

    def coming() -> Iterator[Asked | None]:
        yield from map(line, range(5))  # the fifth waits for three more
        all_asked.set()
        while True:
            yield None

    async with served(breaking(hold=4)) as address:
        asking = asyncio.create_task(answered.ask(address, coming()))
        await all_asked.wait()
    await asking

    assert "q4" not in answered.ids
    assert answered.refusal is not None
    assert answered.refusal.exit_code is ExitCode.UNREACHABLE
    assert "gave up after 0.5 s" in str(answered.refusal)


async def test_where_no_more_lines_can_be_read_those_in_flight_are_waited_for() -> None:
    def coming() -> Iterator[Asked]:
        yield from map(line, range(5))
        raise bad_input("cannot read the rest")

    async with served(breaking(hold=5)) as address:
        answered = await Answered().ask(address, coming())

    assert answered.ids == right_ids(5)
    assert "cannot read the rest" in str(answered.refusal)


async def test_a_gateway_that_breaks_every_stream_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_MOST_BREAKS", 4)
    gateway = breaking(answers_per_stream=0)
    async with served(gateway) as address, asyncio.timeout(30):
        answered = await Answered().ask(address, map(line, range(10)))

    assert gateway.streams == 4
    assert answered.refusal is not None
    assert answered.refusal.exit_code is ExitCode.UNREACHABLE
    said = rf"the gateway at {address} broke 4 streams in a row without an answer \(last: the (gateway|stream) \w+\)"
    assert re.fullmatch(said, str(answered.refusal))


async def test_a_stream_that_brought_an_answer_was_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_MOST_BREAKS", 2)
    async with served(breaking(answers_per_stream=1)) as address:
        answered = await Answered().ask(address, map(line, range(10)))

    assert answered.refusal is None
    assert answered.ids == right_ids(10)


async def test_what_keeps_lines_from_being_sent_is_raised() -> None:
    def coming() -> Iterator[Asked]:
        yield from map(line, range(5))
        raise ZeroDivisionError("a defect")

    answered = Answered()
    async with served(breaking(hold=8)) as address, asyncio.timeout(30):
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await answered.ask(address, coming())


async def test_being_cancelled_is_no_defect_of_the_sender() -> None:
    all_asked = asyncio.Event()

    def coming() -> Iterator[Asked | None]:
        yield from map(line, range(5))
        all_asked.set()
        while True:
            yield None

    async with served(breaking(hold=8)) as address:
        asking = asyncio.create_task(Answered().ask(address, coming()))
        await all_asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
