"""A gRPC server of the house: typed errors, health, reflection and drain, over a real connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dynasor_serve.api.tracker.v1 import tracker_pb2 as pb
from dynasor_serve.api.tracker.v1 import tracker_pb2_grpc
from dynasor_serve.rpc.channel import open_channel
from dynasor_serve.rpc.errors import DOMAIN, GRPC_CODES, Reason, ServiceError, reason_of
from dynasor_serve.rpc.server import GrpcServer

SERVICE = "dynasor_serve.api.tracker.v1.TrackerService"
PATIENCE_SECONDS = 10.0

Behaviour = Callable[[pb.StreamTextRequest], AsyncIterator[pb.StreamTextResponse]]


class ScriptedServicer(tracker_pb2_grpc.TrackerServiceServicer):
    """Does what a test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def StreamText(  # noqa: N802 - the rpc's name
        self,
        request: pb.StreamTextRequest,
        context: grpc.aio.ServicerContext[pb.StreamTextRequest, AsyncIterator[pb.StreamTextResponse]],
    ) -> AsyncIterator[pb.StreamTextResponse]:
        async for response in self._behaviour(request):
            yield response


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    servicer = ScriptedServicer(behaviour)
    server = GrpcServer(
        address="127.0.0.1:0",
        service_name=SERVICE,
        register=lambda to: tracker_pb2_grpc.add_TrackerServiceServicer_to_server(servicer, to),
    )
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, channel
    await server.stop(0)


async def heard(channel: grpc.aio.Channel) -> list[str]:
    stub = tracker_pb2_grpc.TrackerServiceStub(channel)
    call = stub.StreamText(pb.StreamTextRequest(query_id="q"), timeout=PATIENCE_SECONDS)
    return [response.text async for response in call]


async def refused(channel: grpc.aio.Channel) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await heard(channel)
    return raised.value


def raising(error: Exception, *before: str) -> Behaviour:
    async def behave(request: pb.StreamTextRequest) -> AsyncIterator[pb.StreamTextResponse]:
        for text in before:
            yield pb.StreamTextResponse(text=text)
        raise error

    return behave


def details_of(error: grpc.aio.AioRpcError) -> dict[str, object]:
    """The google.rpc details by the names of their types."""
    metadata = dict(error.trailing_metadata() or ())
    found: dict[str, object] = {}
    for packed in Status.FromString(bytes(metadata["grpc-status-details-bin"])).details:
        for kind in (ErrorInfo, BadRequest, RetryInfo):
            detail = kind()
            if packed.Unpack(detail):
                found[kind.__name__] = detail
    return found


@pytest.mark.parametrize("reason", Reason)
async def test_every_reason_arrives_with_its_status(reason: Reason) -> None:
    async with serving(raising(ServiceError(reason, "what is wrong; what is right"))) as (_, channel):
        error = await refused(channel)

    assert error.code() is GRPC_CODES[reason]
    assert error.details() == "what is wrong; what is right"
    assert reason_of(error) == reason.value


async def test_field_and_delay_arrive_as_google_rpc_details() -> None:
    given = ServiceError(Reason.QUEUE_FULL, "too many", field="tenant", retry_after_seconds=1.5)
    async with serving(raising(given)) as (_, channel):
        details = details_of(await refused(channel))

    info, request, retry = (details[name] for name in ("ErrorInfo", "BadRequest", "RetryInfo"))
    assert isinstance(info, ErrorInfo)
    assert (info.reason, info.domain) == ("QUEUE_FULL", DOMAIN)
    assert isinstance(request, BadRequest)
    assert [(each.field, each.description) for each in request.field_violations] == [("tenant", "too many")]
    assert isinstance(retry, RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_only_what_may_succeed_later_is_retryable() -> None:
    retryable = {reason for reason in Reason if ServiceError(reason, "").is_retryable}

    assert retryable == {
        Reason.TENANT_FULL,
        Reason.POOL_FULL,
        Reason.QUEUE_FULL,
        Reason.DEADLINE_UNREACHABLE,
        Reason.TENANT_BUDGET_SPENT,
        Reason.NO_READY_WORKER,
        Reason.NOT_ACTIVE,
        Reason.STATE_UNAVAILABLE,
        Reason.STATE_FULL,
        Reason.SCHEDULER_UNAVAILABLE,
    }


async def test_an_error_in_mid_stream_comes_after_what_was_sent() -> None:
    stub_texts: list[str] = []
    async with serving(raising(ServiceError(Reason.NOT_OWNER, "gone"), "a", "b")) as (_, channel):
        call = tracker_pb2_grpc.TrackerServiceStub(channel).StreamText(pb.StreamTextRequest(), timeout=PATIENCE_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # noqa: PT012 - the stream breaks while it is read
            async for response in call:
                stub_texts.append(response.text)  # noqa: PERF401

    assert stub_texts == ["a", "b"]
    assert reason_of(raised.value) == "NOT_OWNER"


async def test_a_defect_is_internal_and_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(raising(KeyError("secret"))) as (_, channel):
        error = await refused(channel)

    assert error.code() is grpc.StatusCode.INTERNAL
    assert reason_of(error) == "INTERNAL"
    assert "secret" not in (error.details() or "")
    assert "secret" in caplog.text


async def test_bytes_that_are_no_message_are_malformed() -> None:
    async with serving(raising(AssertionError("reached"))) as (_, channel):
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/StreamText")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await anext(aiter(method(b"\x0a\x01\xff", timeout=PATIENCE_SECONDS)))

    assert reason_of(raised.value) == "MALFORMED_REQUEST"


async def test_an_error_of_another_server_has_no_reason() -> None:
    async with serving(raising(ServiceError(Reason.NOT_OWNER, ""))) as (_, channel):
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/no.such.Service/Method")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await method(b"", timeout=PATIENCE_SECONDS)

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(raised.value) == ""


async def test_health_follows_readiness() -> None:
    async with serving(raising(ServiceError(Reason.NOT_OWNER, ""))) as (server, channel):
        health = health_pb2_grpc.HealthStub(channel)

        async def status(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return int((await health.Check(request, timeout=PATIENCE_SECONDS)).status)  # type: ignore[attr-defined]

        statuses = []
        for is_serving in (None, True, False):
            if is_serving is not None:
                await server.set_serving(is_serving)
            statuses.append((await status(""), await status(SERVICE)))

    serving_status, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert statuses == [(each, each) for each in (not_serving, serving_status, not_serving)]


async def test_a_stop_lets_streams_end_within_the_grace_and_refuses_new_ones() -> None:
    may_end = asyncio.Event()

    async def patient(request: pb.StreamTextRequest) -> AsyncIterator[pb.StreamTextResponse]:
        yield pb.StreamTextResponse(text="a")
        await may_end.wait()
        yield pb.StreamTextResponse(text="b")

    async with serving(patient) as (server, channel):
        running = asyncio.create_task(heard(channel))
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(server.stop(PATIENCE_SECONDS))
        await asyncio.sleep(0.2)
        async with open_channel(f"127.0.0.1:{server.port}") as late:
            assert (await refused(late)).code() is grpc.StatusCode.UNAVAILABLE
        may_end.set()

        assert await running == ["a", "b"]
        await stopping


async def test_an_address_that_is_taken_is_an_os_error() -> None:
    async with serving(raising(ServiceError(Reason.NOT_OWNER, ""))) as (server, _):
        taken = f"127.0.0.1:{server.port}"
        second = GrpcServer(address=taken, service_name=SERVICE, register=lambda _: None)

        with pytest.raises(OSError, match=f"cannot listen on {taken}"):
            await second.start()
