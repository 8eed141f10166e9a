"""HTTP/1.1 as engines are asked: POST a body, read a long stream of small pieces, hang up at any moment.

A call to an engine is the one thing that this system does for every sample, and a general HTTP client takes several
times as long over it (`dynasor bench clients`). So the protocol is spoken here, on `httptools` (llhttp, Node's
parser, as in uvicorn): no redirects, no cookies, no proxies, no compression. Used by `transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

_DRAIN_SECONDS = 0.1  # for what is left of a response that nobody reads on
_MOST_BUFFERED_BYTES = 1 << 18  # of a response that is read more slowly than it comes
_MOST_HEADER_BYTES = 1 << 16


class HttpError(Exception):
    """No response, or no whole one."""


class ConnectTimeout(HttpError):
    """No connection within the time for it."""


class Stalled(HttpError):
    """Not a byte within the time for it."""


class Disconnected(HttpError):
    """The connection ended before the response did."""


class NoHttp(HttpError):
    """What came is no HTTP response."""


class _Origin(NamedTuple):
    host: str
    port: int
    is_tls: bool
    authority: str  # as in the Host header


class HttpClient:
    """Connections to any number of servers, kept for the next request."""

    def __init__(
        self, *, connect_seconds: float, stall_seconds: float, headers: Mapping[str, str], idle_seconds: float = 30.0
    ) -> None:
        """Builds a client.

        Args:
            connect_seconds: longest wait for a connection.
            stall_seconds: longest silence of a server that is to answer, before the response and within it.
            headers: of every request.
            idle_seconds: a connection that nobody has used for so long is not used again, and closed before long.

        Raises:
            ValueError: a header has a character that no header may have.
        """
        self._connect_seconds = connect_seconds
        self._stall_seconds = stall_seconds
        self._headers = "".join(_header_line(name, value) for name, value in headers.items())
        self._idle_seconds = idle_seconds
        self._idle: dict[_Origin, deque[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._is_closed = False
        self._sweeping: asyncio.TimerHandle | None = None  # while any connection is idle
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Closes every connection, those too that are still being opened. Whoever waits for a response is told so."""
        self._is_closed = True
        for connection in list(self._open):
            connection.abort()
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.sleep(0)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpResponse:
        """Sends a request. Returns its response once its headers are there.

        Raises:
            HttpError, OSError: there is no response.
            ValueError: the URL is none.
        """
        origin, path = _parts(url)
        lines = "".join(_header_line(name, value) for name, value in headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {origin.authority}\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n"
        request = (head + self._headers + lines + "\r\n").encode("latin-1") + body
        connection = self._kept(origin)
        if connection is not None:
            try:
                return await connection.ask(request)
            except Disconnected:
                # The server closed what it had kept just when it was used again. Sent once more, the request can do no
                # harm: an engine's reply to it counts once.
                if connection.has_heard:
                    raise
        return await (await self._connect(origin)).ask(request)

    def _kept(self, origin: _Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if self._is_usable(connection):
                return connection
        return None

    def _is_usable(self, connection: _Connection) -> bool:
        """Whether an idle connection is open, and was not idle for too long."""
        if asyncio.get_running_loop().time() - connection.heard_at < self._idle_seconds:
            return connection.is_open
        connection.abort()
        return False

    def _sweep(self) -> None:
        """Closes what was idle for too long: a server that went away without a word would else be kept for ever."""
        self._sweeping = None
        for connection in [each for idle in self._idle.values() for each in idle]:
            self._is_usable(connection)
        self._watch_idle()

    def _watch_idle(self) -> None:
        if self._idle and self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(self._idle_seconds, self._sweep)

    async def _connect(self, origin: _Origin) -> _Connection:
        loop = asyncio.get_running_loop()
        context = None
        if origin.is_tls:
            context = self._tls = self._tls or ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, origin, loop, self._stall_seconds), origin.host, origin.port, ssl=context
                )
        except TimeoutError as error:
            raise ConnectTimeout(f"no connection to {origin.authority}") from error
        return connection

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)
        if self._is_closed:
            connection.abort()

    def rests(self, connection: _Connection) -> None:
        """A connection's response is complete: it is there for the next request."""
        self._idle.setdefault(connection.origin, deque()).append(connection)
        self._watch_idle()

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None:
            with contextlib.suppress(ValueError):
                idle.remove(connection)
            if not idle:
                del self._idle[connection.origin]


class HttpResponse:
    """A response whose headers have come. Read it to its end, or `close` or `release` it.

    Attributes:
        status: the HTTP status.
    """

    __slots__ = ("_connection", "status")

    def __init__(self, connection: _Connection, status: int) -> None:
        self._connection: _Connection | None = connection
        self.status = status

    async def read_some(self) -> bytes:
        """What has come of the body since the last time; waits for something. Empty at the end.

        Raises:
            HttpError: the rest will not come.
        """
        return b"" if self._connection is None else await self._connection.read_some()

    def close(self) -> None:
        """Hangs up, whatever is left of the response. Safe at any time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def release(self) -> None:
        """Nobody reads on: the connection is kept if the end is near, else closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, client: HttpClient, origin: _Origin, loop: asyncio.AbstractEventLoop, stall: float) -> None:
        self.origin = origin
        self.has_heard = False  # something of the present response
        self.heard_at = 0.0  # by the loop's clock; the request counts
        self._client = client
        self._loop = loop
        self._stall_seconds = stall
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []  # of the body, not yet read
        self._buffered = 0  # bytes in them
        self._header_bytes = 0
        self._ends_with_connection = False  # the response says neither its length nor its chunks
        self._is_begun = False  # the headers are there
        self._status = 0
        self._is_complete = True
        self._keeps_alive = False  # the server does, after the response
        self._is_released = False  # nobody reads on
        self._is_paused = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._error is None

    async def ask(self, request: bytes) -> HttpResponse:
        """Sends a request and waits for the headers of its response."""
        if self._error is not None:
            raise self._error
        self.has_heard = self._is_begun = self._is_complete = self._is_released = False
        self._header_bytes = 0
        self.heard_at = self._loop.time()
        self._transport.write(request)
        self._watch(self._stall_seconds)
        try:
            while not self._is_begun:
                if self._error is not None:
                    raise self._error
                await self._wait()
        except BaseException:
            self.abort()
            raise
        return HttpResponse(self, self._status)

    async def read_some(self) -> bytes:
        while not self._pieces and not self._is_complete:
            if self._error is not None:
                raise self._error
            await self._wait()
        data = b"".join(self._pieces)
        self._forget_pieces()
        return data

    def abort(self) -> None:
        """Closes the connection at once."""
        self._fail(Disconnected("the connection was closed"))

    def release(self) -> None:
        self._is_released = True
        self._forget_pieces()
        if self._is_complete:
            self._rest()
        else:
            self._watch(_DRAIN_SECONDS)

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        self._client.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            self._fail_unasked()
            return
        self.heard_at = self._loop.time()
        self.has_heard = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(NoHttp(str(error)))
        except httptools.HttpParserUpgrade:
            self._fail(NoHttp("it goes over to another protocol"))
        if not self._is_begun:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES:
                self._fail(NoHttp(f"more than {_MOST_HEADER_BYTES} bytes of headers"))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_begun and self._ends_with_connection and error is None and not self._is_complete:
            self._is_complete = True
        self._fail(Disconnected(str(error or "the server closed the connection")))

    # --- what the parser says ---

    def on_message_begin(self) -> None:
        if self._is_complete:  # there was only one request, and its response is not to be mixed up with others
            self._fail_unasked()
        else:
            self._ends_with_connection = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_headers_complete(self) -> None:
        if not self._is_complete:
            self._status = self._parser.get_status_code()
            self._is_begun = self._status >= 200  # before that it is only said that one will come

    def on_body(self, data: bytes) -> None:
        if self._is_released or self._is_complete:
            return
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > _MOST_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if not self._is_begun or self._is_complete:
            return
        self._is_complete, self._keeps_alive = True, self._parser.should_keep_alive()
        if self._is_released or not self._keeps_alive:
            self._loop.call_soon(self._rest)  # the parser is still at it

    # --- steps ---

    def _rest(self) -> None:
        """The response is at its end: the connection waits for the next request, where the server allows it."""
        if self._error is not None:
            return
        if not self._keeps_alive or self._transport.get_write_buffer_size():  # who has answered may not read on
            self.abort()
        elif self._is_released:
            self._watch(None)
            self._client.rests(self)

    def _forget_pieces(self) -> None:
        """They are read, or nobody wants them: there is room for more."""
        self._pieces.clear()
        self._buffered = 0
        if self._is_paused:
            self._is_paused = False
            self.heard_at = self._loop.time()  # it could not be heard
            self._transport.resume_reading()

    def _watch(self, seconds: float | None) -> None:
        """Looks after so many seconds whether anything was heard meanwhile; None: looks no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        left = self.heard_at + self._stall_seconds - self._loop.time()
        if self._is_complete:
            return
        if self._is_released:  # and the end did not come soon
            self.abort()
        elif self._is_paused:
            self._watch(self._stall_seconds)
        elif left > 0:
            self._watch(left)
        else:
            self._fail(Stalled(f"nothing for {self._stall_seconds:g} s"))

    def _fail_unasked(self) -> None:
        self._fail(NoHttp("a response to no request"))

    def _fail(self, error: HttpError) -> None:
        if self._error is not None:
            return
        self._error = error
        self._watch(None)
        self._transport.abort()
        self._client.lost(self)
        self._wake()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@lru_cache(maxsize=1024)
def _parts(url: str) -> tuple[_Origin, str]:
    """Where a request goes, and its path there. Raises `ValueError`."""
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ValueError(f"{url!r} is no URL of a server")
    is_tls = split.scheme == "https"
    authority = split.netloc.rpartition("@")[2]
    origin = _Origin(split.hostname, split.port or (443 if is_tls else 80), is_tls, authority)
    return origin, (split.path or "/") + (f"?{split.query}" if split.query else "")


def _header_line(name: str, value: str) -> str:
    if not (name + value).isprintable() or not value.isascii():
        raise ValueError(f"the value of the header {name} has a character that no header may have")
    return f"{name}: {value}\r\n"
