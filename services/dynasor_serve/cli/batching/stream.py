"""Asks a gateway many queries over one stream, and goes on through broken ones: what has no answer is sent again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import grpc

from dynasor_serve.api.reasoning.v1 import reasoning_pb2 as pb
from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli.batching.lines import Question
from dynasor_serve.cli.batching.results import ResultId
from dynasor_serve.cli.exit_codes import ExitCode
from dynasor_serve.cli.failures import UNREACHABLE, CommandFailed, refusal, unreachable
from dynasor_serve.rpc.errors import reason_of

BatchCall: TypeAlias = "grpc.aio.StreamStreamCall[pb.RunBatchRequest, pb.RunBatchResponse]"

PATIENCE_SECONDS = 300.0
"""How long a gateway may be away: its node may have to be replaced."""

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 10.0
# Streams in a row that broke without an answer: some four minutes of pauses, and as long as the streams held. A proxy
# that cuts every stream after a minute leaves a query half an hour.
_MOST_BREAKS = 30
_WRITE_FAILED, _BROKE = "Internal error from Core", "the stream broke"
"""What grpc.aio tells the reading side where a write has failed before it heard why, and what that means."""

_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Asked:
    """A line on its way. Its query carries its id as idempotency key."""

    result_id: ResultId
    custom_id: str
    question: Question

    def request(self, key: str) -> pb.RunBatchRequest:
        """The message that asks it."""
        return pb.RunBatchRequest(key=key, query=self.question.query)


async def answers(
    stub: ReasoningServiceStub,
    address: str,
    coming: Iterator[Asked | None],
    *,
    most_in_flight: int,
    away: Callable[[str], None],
) -> AsyncGenerator[tuple[Asked, pb.RunBatchResponse], None]:
    """Asks all lines and yields each with its answer, in the order they come.

    Args:
        stub, address: the gateway.
        coming: the lines, taken while there is room; None for one that need not be asked.
        most_in_flight: most lines that are asked and not answered.
        away: told why when the gateway is gone, and "" when it is back.

    Raises:
        CommandFailed: the gateway refuses the stream, has been away for too long, or breaks every stream.
        Exception: whatever else taking or sending a line has raised.
    """
    conversation = _Conversation(coming, most_in_flight)
    tries = breaks = 0  # since the last answer: streams that were tried, and those of them that broke
    away_since = time.monotonic()
    while True:
        trouble, is_connected = "the stream ended before all queries were answered", False
        call = stub.RunBatch()
        sending = asyncio.create_task(conversation.send(call))
        sending.add_done_callback(partial(_hang_up, call))
        try:
            await call.wait_for_connection()
            is_connected = True
            away("")
            async for answer in call:
                tries = breaks = 0
                yield conversation.answered(answer), answer
        except grpc.aio.AioRpcError as error:
            is_settled = bool(reason_of(error)) and error.code() is not grpc.StatusCode.UNAVAILABLE
            if is_settled or error.code() not in _PASSING:
                raise refusal(error, address) from error
            trouble = _BROKE if error.details() == _WRITE_FAILED else error.details() or error.code().name
        except asyncio.CancelledError:
            if _failure_of(sending) is None:  # it is we who are to end
                raise
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        failure = _failure_of(sending)
        if failure is not None:
            raise failure
        if conversation.is_over:
            break
        tries += 1
        breaks += is_connected
        if breaks >= _MOST_BREAKS:
            message = f"the gateway at {address} broke {breaks} streams in a row without an answer (last: {trouble})"
            raise CommandFailed(message, ExitCode.UNREACHABLE, UNREACHABLE)
        away_since = time.monotonic() if is_connected else away_since
        left = PATIENCE_SECONDS - (time.monotonic() - away_since)
        if left <= 0:
            raise unreachable(address, f"{trouble}; gave up after {PATIENCE_SECONDS:g} s")
        away(f"the gateway at {address} is away ({trouble}); trying again for another {left:.0f} s")
        await asyncio.sleep(_pause_seconds(tries))
    if conversation.trouble is not None:
        raise conversation.trouble


def _failure_of(sending: asyncio.Task[None]) -> BaseException | None:
    """What ended the sending side; None where it goes on, has sent all, or was cancelled."""
    return sending.exception() if sending.done() and not sending.cancelled() else None


def _hang_up(call: BatchCall, sending: asyncio.Task[None]) -> None:
    """Ends a stream whose sending side has failed: else the reading side would wait for what was never asked."""
    if _failure_of(sending) is not None:
        call.cancel()


def _pause_seconds(tries: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS * 2.0 ** min(tries, 10))
    return longest * random.uniform(0.5, 1.0)


class _Conversation:
    """What has been asked and not answered, through all streams."""

    def __init__(self, coming: Iterator[Asked | None], most_in_flight: int) -> None:
        self._coming = coming
        self._most_in_flight = most_in_flight
        self._in_flight: dict[str, Asked] = {}  # key in the stream -> line
        self._sent = 0  # keys given out
        self._all_taken = False
        self._room = asyncio.Event()
        self.trouble: CommandFailed | None = None  # why no more lines come

    @property
    def is_over(self) -> bool:
        """Whether every line that came has its answer, and no more come."""
        return self._all_taken and not self._in_flight

    def answered(self, answer: pb.RunBatchResponse) -> Asked:
        """The line that this answers."""
        self._room.set()
        return self._in_flight.pop(answer.key)

    async def send(self, call: BatchCall) -> None:
        """Sends what has no answer yet, then what comes, as far as there is room. Ends where the stream breaks."""
        try:
            for key, asked in list(self._in_flight.items()):
                await call.write(asked.request(key))
            while not self._all_taken:
                # From here to the next await a line is taken and noted at once: a broken stream loses none.
                key = self._taken()
                if key:
                    await call.write(self._in_flight[key].request(key))
                else:
                    await asyncio.sleep(0)
                while len(self._in_flight) >= self._most_in_flight:
                    self._room.clear()
                    await self._room.wait()
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reading side hears why

    def _taken(self) -> str:
        """The key of the next line; empty where it need not be asked, or there is none."""
        try:
            asked = next(self._coming)
        except (StopIteration, CommandFailed) as end:
            # What is in flight has been paid for: it is waited for all the same.
            self.trouble = None if isinstance(end, StopIteration) else end
            self._all_taken = True
            return ""
        if asked is None:
            return ""
        self._sent += 1
        key = str(self._sent)
        self._in_flight[key] = asked
        return key
