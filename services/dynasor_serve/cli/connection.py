"""Where the gateway is, and a connection to it that fails at once and clearly where nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Annotated

import grpc
import typer

from dynasor_serve.api.reasoning.v1.reasoning_pb2_grpc import ReasoningServiceStub
from dynasor_serve.cli.failures import bad_input, unreachable
from dynasor_serve.rpc.channel import open_channel

DEFAULT_ADDRESS = "127.0.0.1:7001"
CALL_SECONDS = 15.0
"""Deadline of every call that is not a stream."""

_CONNECT_SECONDS = 5.0
_HOST_AND_PORT = re.compile(r"(?P<host>[^\s:/]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")

AddressOption = Annotated[
    str, typer.Option("--address", envvar="DYNASOR_ADDRESS", metavar="HOST:PORT", help="The gateway's gRPC address.")
]


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[ReasoningServiceStub]:
    """A connection to the gateway.

    Raises:
        CommandFailed: the address is malformed, or nobody answers there.
    """
    match = _HOST_AND_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise bad_input(f"the address {address!r} is not HOST:PORT; give one like {DEFAULT_ADDRESS}")
    async with open_channel(address) as channel:
        await _until_ready(channel, address)
        yield ReasoningServiceStub(channel)


async def _until_ready(channel: grpc.aio.Channel, address: str) -> None:
    """Connects, or raises at the first failure: without this the first call would wait for the server to appear."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise unreachable(address, "nobody listens there, or it is no gRPC server")
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise unreachable(address, f"no connection within {_CONNECT_SECONDS:g} s") from None
