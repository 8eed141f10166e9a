"""One connection for the commands of many: who gets which reply, also when replies do not come."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis
import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from dynasor_serve.state.redis_client import connect
from dynasor_serve.state.shared_connection import SharedConnection

from fakes.redis_process import RedisProcess, running_redis

_SLOW = ("EVAL", "local t = redis.call('TIME')[1] + 2 while redis.call('TIME')[1] + 0 < t do end return 'slow'", "0")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    async with running_redis(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def shared(server: RedisProcess) -> AsyncIterator[SharedConnection]:
    async with connect(server.url, timeout_seconds=1.0) as redis:
        yield SharedConnection(redis)


async def test_each_caller_gets_its_own_reply(shared: SharedConnection) -> None:
    async def ask(number: int) -> None:
        for step in range(20):
            said = f"{number}/{step}/" + "x" * (number * 997 % 5000)
            assert await shared.execute("ECHO", said) == said.encode()

    await asyncio.gather(*map(ask, range(50)))


async def test_an_error_is_its_callers_alone(shared: SharedConnection) -> None:
    replies = await asyncio.gather(
        shared.execute("ECHO", "one"), shared.execute("NOSUCH"), shared.execute("ECHO", "two"), return_exceptions=True
    )

    assert (replies[0], replies[2]) == (b"one", b"two")
    assert isinstance(replies[1], ResponseError)


async def test_a_cancelled_caller_takes_nobodys_reply(shared: SharedConnection) -> None:
    first = asyncio.ensure_future(shared.execute("ECHO", "first"))
    cancelled = asyncio.ensure_future(shared.execute("ECHO", "cancelled"))
    last = asyncio.ensure_future(shared.execute("ECHO", "last"))
    await asyncio.sleep(0)
    cancelled.cancel()

    assert (await first, await last) == (b"first", b"last")
    assert await shared.execute("ECHO", "later") == b"later"


async def test_what_waits_when_the_connection_ends_is_sent_again(
    server: RedisProcess, shared: SharedConnection
) -> None:
    async with connect(server.url) as other:
        for number in range(20):
            asked = [shared.execute("ECHO", str(each)) for each in range(5)]
            await asyncio.sleep(0.0005 * number)  # before, while and after it is sent
            asked += [shared.execute("ECHO", str(each)) for each in range(5, 10)]
            await other.client_kill_filter(_type="normal", skipme=True)
            assert await asyncio.gather(*asked) == [str(each).encode() for each in range(10)]


async def test_a_server_that_is_gone_is_told_to_all(server: RedisProcess, shared: SharedConnection) -> None:
    assert await shared.execute("ECHO", "here") == b"here"
    await server.kill()

    replies = await asyncio.gather(*(shared.execute("PING") for _ in range(5)), return_exceptions=True)

    assert {type(reply) for reply in replies} == {RedisConnectionError}
    await server.start()
    assert await shared.execute("ECHO", "back") == b"back"


async def test_a_server_that_hangs_is_given_up_in_time(server: RedisProcess, shared: SharedConnection) -> None:
    assert await shared.execute("ECHO", "here") == b"here"
    server.send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            replies = await asyncio.gather(*(shared.execute("PING") for _ in range(5)), return_exceptions=True)
    finally:
        server.send_signal(signal.SIGCONT)

    assert {type(reply) for reply in replies} == {RedisTimeoutError}
    assert await shared.execute("ECHO", "back") == b"back"


async def test_whoever_asks_while_a_reply_is_late_gets_no_earlier_one(shared: SharedConnection) -> None:
    """The connection of a reply that was given up is closed: the reply may still come."""
    with pytest.raises(RedisTimeoutError):
        await shared.execute(*_SLOW)

    for _ in range(3):
        try:
            assert await shared.execute("ECHO", "mine") == b"mine"
        except RedisTimeoutError:  # the script goes on for a while
            continue


@asynccontextmanager
async def replying(*replies: bytes) -> AsyncIterator[SharedConnection]:
    """A server whose connections give one reply to each command, the first connection the first, and so on."""
    left = iter(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = next(left)
        commands = hiredis.Reader()
        while data := await reader.read(65_536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                writer.write(b"+OK\r\n" if command[0] == b"CLIENT" else reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with connect(f"redis://{host}:{port}/0", timeout_seconds=1.0) as redis:
        yield SharedConnection(redis)
    server.close()


@pytest.mark.parametrize(
    "reply",
    [b"-READONLY You can't write here.\r\n", b"-LOADING Redis is loading\r\n", b"HTTP/1.1"],
)
async def test_a_server_that_cannot_serve_is_left_for_what_is_there_by_then(reply: bytes) -> None:
    """After a fail-over the same name leads elsewhere; what was connected before stays where it is."""
    async with replying(reply, b"+mine\r\n") as shared:
        assert await asyncio.gather(*(shared.execute("PING") for _ in range(3))) == [b"mine"] * 3


async def test_a_server_that_never_can_is_told() -> None:
    async with replying(*[b"-READONLY You can't.\r\n"] * 2, *[b"HTTP/1.1"] * 2) as shared:
        with pytest.raises(ReadOnlyError):
            await shared.execute("PING")
        with pytest.raises(RedisConnectionError, match="no reply of Redis"):
            await shared.execute("PING")
