"""The HTTP client of engine calls, against scripted servers: what it reads, keeps, gives up and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from dynasor_serve.engines.http import ConnectTimeout, Disconnected, HttpClient, NoHttp, Stalled

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server that a test scripts.

    Attributes:
        connections: that were opened.
        requests: as they were read, head and body.
        hung_up: set when a client has closed its connection.
        asked: set once a request has been read.
    """

    url: str = ""
    connections: int = 0
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def read_request(self, reader: asyncio.StreamReader) -> bool:
        """Reads one request; False where the client hangs up instead."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up.set()
            return False
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-len"))
        self.requests.append((head, await reader.readexactly(length)))
        self.asked.set()
        return True


@asynccontextmanager
async def listening(serve: Handler) -> AsyncIterator[str]:
    """The URL of a server that hands its connections to `serve`; all have ended when it is left."""
    handling: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handling.add(task)
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*handling), 5)


@asynccontextmanager
async def serving(*replies: bytes, then_close: bool = False) -> AsyncIterator[Server]:
    """A server that gives one reply per request, over all connections, the last one again and again."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        while await server.read_request(reader):
            writer.write(replies[min(len(server.requests), len(replies)) - 1])
            await writer.drain()
            if then_close:
                return

    async with listening(serve) as server.url:
        yield server


@asynccontextmanager
async def client(
    *, stall_seconds: float = 5.0, headers: dict[str, str] | None = None, idle_seconds: float = 30.0
) -> AsyncIterator[HttpClient]:
    http = HttpClient(
        connect_seconds=5.0, stall_seconds=stall_seconds, headers=headers or {}, idle_seconds=idle_seconds
    )
    try:
        yield http
    finally:
        await http.close()


def sized(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + end


async def whole(http: HttpClient, url: str) -> bytes:
    response = await http.post(url, b"{}", {})
    parts = []
    while part := await response.read_some():
        parts.append(part)
    response.release()
    return b"".join(parts)


@pytest.mark.parametrize(
    "reply",
    [
        sized(b"hello world"),
        chunked(b"hello", b" ", b"world"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello world"),
        b"HTTP/1.1 200 OK\r\n\r\nhello world",  # to the end of the connection
    ],
)
async def test_a_body_is_read_to_its_end_however_that_is_told(reply: bytes) -> None:
    async with serving(reply, then_close=True) as server, client() as http:
        assert await whole(http, server.url) == b"hello world"


async def test_a_request_carries_its_body_and_headers() -> None:
    async with serving(sized(b"")) as server, client(headers={"Authorization": "Bearer key"}) as http:
        response = await http.post(server.url + "/v1/completions?a=b", b'{"n": 1}', {"X-Request-Id": "id/0/1"})
        response.release()

    head, body = server.requests[0]
    assert head.startswith("POST /v1/completions?a=b HTTP/1.1\r\n")
    assert {"Authorization: Bearer key", "X-Request-Id: id/0/1", "Content-Length: 8"} <= {*head.split("\r\n")}
    assert f"Host: {server.url.removeprefix('http://')}" in head
    assert body == b'{"n": 1}'


async def test_a_connection_serves_again_once_its_response_is_read() -> None:
    async with serving(sized(b"one"), chunked(b"two"), sized(b"three")) as server, client() as http:
        assert [await whole(http, server.url) for _ in range(3)] == [b"one", b"two", b"three"]

    assert server.connections == 1


async def test_a_connection_that_the_server_will_close_serves_no_more() -> None:
    async with serving(sized(b"one", "Connection: close\r\n")) as server, client() as http:
        assert [await whole(http, server.url) for _ in range(2)] == [b"one", b"one"]

    assert server.connections == 2


async def test_a_released_response_keeps_its_connection_if_its_end_is_near() -> None:
    """A stream is left at its `[DONE]`, some bytes before the end of the response."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        while await server.read_request(reader):
            writer.write(chunked(b"data: [DONE]", end=b""))
            await asyncio.sleep(0.02)
            writer.write(b"0\r\n\r\n")

    async with listening(serve) as url, client() as http:
        for _ in range(2):
            response = await http.post(url, b"", {})
            assert await response.read_some() == b"data: [DONE]"
            response.release()
            await asyncio.sleep(0.06)

    assert server.connections == 1


async def test_a_released_response_that_goes_on_is_hung_up_on() -> None:
    async with serving(chunked(b"on and on", end=b"")) as server, client() as http:
        response = await http.post(server.url, b"", {})
        response.release()
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_closing_a_response_hangs_up_at_once_and_wakes_its_reader() -> None:
    async with serving(chunked(b"first", end=b"")) as server, client() as http:
        response = await http.post(server.url, b"", {})
        assert await response.read_some() == b"first"
        reading = asyncio.ensure_future(response.read_some())
        await asyncio.sleep(0.01)
        response.close()
        with pytest.raises(Disconnected):
            await reading
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_cancelling_a_request_hangs_up() -> None:
    async with serving(b"") as server, client() as http:
        asking = asyncio.ensure_future(http.post(server.url, b"", {}))
        await server.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_a_kept_connection_that_the_server_has_closed_costs_no_request() -> None:
    """It closes just when the next request is sent: nothing has come of a response, so it is sent once more."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        await server.read_request(reader)
        writer.write(sized(b"yes"))
        if server.connections == 1:
            await server.read_request(reader)  # and no reply

    async with listening(serve) as url, client() as http:
        assert [await whole(http, url) for _ in range(2)] == [b"yes", b"yes"]

    assert (server.connections, len(server.requests)) == (2, 3)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", Disconnected),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Disconnected),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NoHttp),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, NoHttp),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", Disconnected),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NoHttp),
        (chunked(b"no end", end=b""), Disconnected),
    ],
)
async def test_what_is_no_whole_response_is_an_error(reply: bytes, error: type[Exception]) -> None:
    async with serving(reply, then_close=True) as server, client() as http:
        with pytest.raises(error):
            await whole(http, server.url)


@pytest.mark.parametrize(
    ("early", "late"),
    [
        (sized(b"evil"), b""),
        (b"HTTP/1.1 500 No\r\nContent-Length: 8\r\n\r\nevil", b"evil"),
        (b"HTTP/1.1 500 No\r\nContent-Le", b"ngth: 4\r\n\r\nevil"),
        (b"\r\n", b""),
    ],
)
async def test_what_follows_a_response_is_no_answer_to_anybody(early: bytes, late: bytes) -> None:
    """A response that nobody asked for, or the beginning of one, comes with one response and ends with the next."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        replies = iter([sized(b"one") + early, late + sized(b"two")] if server.connections == 1 else [sized(b"two")])
        while await server.read_request(reader):
            writer.write(next(replies))

    async with listening(serve) as url, client() as http:
        for expected in (b"one", b"two"):
            response = await http.post(url, b"", {})
            assert response.status == 200
            assert await response.read_some() == expected
            assert await response.read_some() == b""
            response.release()
            await asyncio.sleep(0.02)


async def test_what_comes_on_an_idle_connection_ends_it() -> None:
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        while await server.read_request(reader):
            writer.write(sized(b"%d" % server.connections))
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 200 OK\r\n")

    async with listening(serve) as url, client() as http:
        assert await whole(http, url) == b"1"
        async with asyncio.timeout(5):
            await server.hung_up.wait()
        assert await whole(http, url) == b"2"


async def test_a_connection_on_which_a_request_was_answered_unread_serves_no_more() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sized(b"too large"))
        await hung_up.wait()

    hung_up = asyncio.Event()
    async with listening(serve) as url, client(stall_seconds=1.0) as http:
        response = await http.post(url, bytes(50_000_000), {})
        response.release()
        assert await whole(http, url) == b"too large"
        hung_up.set()


async def test_a_large_response_that_is_released_unread_leaves_a_connection_that_hears() -> None:
    """More has come than is taken in at a time, and then the end: reading was paused."""
    server = Server()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        while await server.read_request(reader):
            writer.write(sized(bytes(280_000)))

    async with listening(serve) as url, client(stall_seconds=0.5) as http:
        async with asyncio.timeout(5):
            for _ in range(10):
                response = await http.post(url, b"", {})
                await asyncio.sleep(0.05)
                response.release()
                await asyncio.sleep(0)
        assert len(server.requests) == 10


async def test_what_was_idle_for_too_long_is_closed_though_nobody_asks_again() -> None:
    async with serving(sized(b"one")) as server, client(idle_seconds=0.05) as http:
        assert await whole(http, server.url) == b"one"
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_a_closed_client_opens_nothing() -> None:
    """Not even for a request that the closing interrupts, on a connection that was kept."""
    async with serving(sized(b"one"), b"") as server:
        async with client() as http:
            assert await whole(http, server.url) == b"one"
            server.asked.clear()
            asking = [asyncio.ensure_future(http.post(server.url, b"", {}))]
            await server.asked.wait()
            asking.append(asyncio.ensure_future(http.post(server.url, b"", {})))
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            errors = await asyncio.gather(*asking, return_exceptions=True)

    assert {type(error) for error in errors} == {Disconnected}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_becomes_of_calls_no_reply_is_anothers_and_nothing_is_left(seed: int) -> None:
    """A server that delays, splits and breaks off, and callers that leave at any moment."""
    chance = random.Random(seed)
    server = Server()
    open_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            while await server.read_request(reader):
                said = server.requests[-1][1]
                reply = chunked(said, said) if chance.random() < 0.5 else sized(said + said)
                at, end = 0, chance.choice([len(reply)] * 8 + [chance.randrange(len(reply))])
                while at < end:
                    piece = reply[at : min(end, at + chance.randrange(1, 60))]
                    writer.write(piece)
                    at += len(piece)
                    await asyncio.sleep(chance.choice([0, 0, 0, 0.001, 0.005]))
                if end < len(reply) or chance.random() < 0.05:
                    return
        finally:
            open_connections -= 1

    async def call(http: HttpClient, url: str, number: int) -> None:
        said = f"<{number}>".encode()
        with contextlib.suppress(Disconnected, ConnectionError):
            response = await http.post(url, said, {})
            try:
                parts = []
                while part := await response.read_some():
                    parts.append(part)
                    if chance.random() < 0.02:
                        return
                assert b"".join(parts) == said + said
                response.release()
            finally:
                response.close()
            ended.add(number)

    ended: set[int] = set()
    async with listening(serve) as url:
        async with client() as http:
            calls = set()
            for number in range(600):
                task = asyncio.create_task(call(http, url, number))
                calls.add(task)
                if chance.random() < 0.3:
                    asyncio.get_running_loop().call_later(chance.random() * 0.02, task.cancel)
                if number % 20 == 0:
                    await asyncio.wait(calls, timeout=0.02)
            results = await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(5):
            while open_connections:  # noqa: ASYNC110 - until the server has seen it
                await asyncio.sleep(0.01)

    assert not [each for each in results if isinstance(each, Exception)]
    assert len(ended) > 200


@pytest.mark.parametrize("reply", [b"", chunked(b"first", end=b"")])
async def test_a_silent_server_is_given_up(reply: bytes) -> None:
    async with serving(reply) as server, client(stall_seconds=0.1) as http:
        with pytest.raises(Stalled):
            await whole(http, server.url)
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_a_slow_stream_is_not_silent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Server().read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(b".")

    async with listening(serve) as url, client(stall_seconds=0.5) as http:
        assert await whole(http, url) == b"........"


async def test_a_body_that_nobody_reads_is_not_taken_in() -> None:
    """And the reader's own slowness is not the server's silence."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await Server().read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n")
        for _ in range(1000):
            writer.write(bytes(64_000))
            await writer.drain()
            sent += 64_000

    async with listening(serve) as url, client(stall_seconds=0.3) as http:
        response = await http.post(url, b"", {})
        await asyncio.sleep(0.7)
        assert sent < 32_000_000, "the kernel's buffers are filled, and no more"
        size = 0
        while part := await response.read_some():
            size += len(part)

    assert size == 64_000_000


async def test_nobody_there_is_an_error_of_the_system() -> None:
    async with serving(b"") as server:
        url = server.url
    async with client() as http:
        with pytest.raises(OSError, match="111"):
            await http.post(url, b"", {})


async def test_a_connection_that_does_not_come_about_is_given_up() -> None:
    http = HttpClient(connect_seconds=0.1, stall_seconds=5.0, headers={})
    with pytest.raises((ConnectTimeout, OSError)):  # an address of no machine: dropped, or refused by a gateway
        await http.post("http://192.0.2.1:9/", b"", {})
    await http.close()


@pytest.mark.parametrize("value", ["a\r\nX-Evil: b", "a\nb", "\x00", "schlüssel"])
def test_a_header_that_none_may_be_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="Authorization"):
        HttpClient(connect_seconds=1.0, stall_seconds=1.0, headers={"Authorization": value})


@pytest.mark.parametrize("url", ["ftp://here/", "here:8000", "http://"])
async def test_a_url_of_no_server_is_refused(url: str) -> None:
    async with client() as http:
        with pytest.raises(ValueError, match="no URL"):
            await http.post(url, b"", {})
