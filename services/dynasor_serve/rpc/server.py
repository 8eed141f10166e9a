"""A gRPC server as every process here runs it: health, reflection, typed errors, a drain before the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from dynasor_serve.rpc.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

_WILDCARDS = ("0.0.0.0", "[::]", "")  # noqa: S104 compared with, not bound to

MAX_MESSAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands for a request that could not be parsed."""

    cause: str


@dataclass(slots=True)
class GrpcServer:
    """One listening gRPC server.

    `register` is the generated `add_…Servicer_to_server`, already bound to its servicer.
    """

    address: str
    service_name: str
    register: Callable[[grpc.aio.Server], None]
    port: int = 0
    _server: grpc.aio.Server = field(init=False)
    _health: health_aio.HealthServicer = field(init=False)

    async def start(self) -> None:
        """Listens and says NOT_SERVING until `set_serving`. Raises `OSError` where the address is taken."""
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.register(_TypedErrors(self._server))  # type: ignore[arg-type]
        names = (self.service_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        try:
            self.port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: {error}") from error
        await self.set_serving(False)
        await self._server.start()

    async def reachable_address(self) -> str:
        """HOST:PORT for peers, once it listens; for all interfaces it is the address of this machine's name."""
        host = self.address.rpartition(":")[0]
        if host not in _WILDCARDS:
            return f"{host}:{self.port}"
        name = socket.gethostname()
        family = socket.AF_INET if host == _WILDCARDS[0] else socket.AF_UNSPEC
        try:
            # In a pod the name means the pod's address, but only there: peers could not look it up.
            found = await asyncio.get_running_loop().getaddrinfo(name, self.port, family=family)
        except OSError:
            return f"{name}:{self.port}"
        address = str(found[0][4][0])
        return f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    async def set_serving(self, serving: bool) -> None:
        """What health checks hear: readiness."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", self.service_name):
            await self._health.set(name, status)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls and lets running ones end within the grace."""
        await self._server.stop(grace_seconds)


class _TypedErrors:
    """Passes handlers on to a server, wrapped so that errors leave as typed statuses and never as stack traces.

    Generated code registers each service twice, by both of these methods; the second names its methods one by one.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Leaves it to the other registration."""

    def add_registered_method_handlers(self, service_name: str, handlers: dict[str, Any]) -> None:
        wrapped = {name: _wrapped(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, wrapped),))


def _wrapped(handler: Any) -> Any:
    """The handler, with malformed requests and `ServiceError`s answered as typed statuses."""
    parse = handler.request_deserializer

    def tolerant_parse(data: bytes) -> Any:
        try:
            return parse(data)
        except (DecodeError, UnicodeDecodeError) as error:
            return Malformed(str(error))

    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _typed_stream(handler.stream_stream), tolerant_parse, handler.response_serializer
        )
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            _typed_stream(handler.unary_stream), tolerant_parse, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _typed_unary(handler.unary_unary), tolerant_parse, handler.response_serializer
    )


def _typed_unary(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            _refuse_malformed(request)
            return await method(request, context)
        except ServiceError as error:
            await context.abort_with_status(error.to_status())
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception:
            logger.exception("a call failed unexpectedly", extra={"method": method.__name__})
            await context.abort_with_status(_internal().to_status())

    return call


def _typed_stream(method: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            if isinstance(request, AsyncIterator):
                request = _checked(request)
            else:
                _refuse_malformed(request)
            async with contextlib.aclosing(method(request, context)) as responses:  # type: ignore[type-var]
                async for response in responses:
                    yield response
        except ServiceError as error:
            await context.abort_with_status(error.to_status())
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            logger.exception("a stream failed unexpectedly", extra={"method": method.__name__})
            await context.abort_with_status(_internal().to_status())

    return call


def _refuse_malformed(request: Any) -> None:
    if isinstance(request, Malformed):
        message = f"the request is no valid message ({request.cause}); strings must be UTF-8"
        raise ServiceError(Reason.MALFORMED_REQUEST, message)


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _refuse_malformed(request)
        yield request


def _internal() -> ServiceError:
    return ServiceError(Reason.INTERNAL, "an internal error; the server's log has the cause")
