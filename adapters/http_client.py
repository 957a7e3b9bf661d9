"""An HTTP/1.1 client: connections that are used again, one request at a time on each.

httptools reads what comes (docs/decisions/016).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from chattable.adapters.transport import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    InvalidHttp,
    Origin,
    Request,
    TransportError,
)

IDLE_S = 15.0  # that a connection is kept for the next request
ADDRESSES_S = 30.0  # that the addresses of a name are believed
NEXT_ADDRESS_S = 0.25  # until another address of a host is tried beside the first
MAX_HEAD_BYTES = 64 * 2**10  # of status and headers, those of interim responses included
MAX_UNREAD_BYTES = 128 * 2**10  # of a body that nobody has read: then no more is taken in

Addresses = list[tuple[Any, ...]]  # as getaddrinfo has them


class HttpClient:
    """Sends requests, each on a connection of its own while it lasts.

    Law: a connection is used again only where its response came to its proper end, nothing came
    behind it and the whole request was sent. Nothing is sent twice, no redirect is followed, no
    cookie kept, no proxy taken from the environment, no body unpacked.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._idle: dict[Origin, list[Connection]] = {}  # the last one used is the last
        self._sweep: asyncio.TimerHandle | None = None
        self._lookups: dict[tuple[str, int], tuple[float, asyncio.Task[Addresses]]] = {}

    def send(self, request: Request, connect: float | None = None) -> HttpResponse:
        """The response, of which nothing has come yet."""
        return HttpResponse(self, request, connect)

    async def aclose(self) -> None:
        """Closes the connections that are not in use."""
        for connection in [one for kept in self._idle.values() for one in kept]:
            connection.transport.abort()
        self._idle.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def take(self, origin: Origin) -> Connection | None:
        """A connection that is kept, the one that was used last."""
        kept = self._idle.get(origin)
        while kept:
            connection = kept.pop()
            if connection.transport.is_closing():
                continue
            if self.clock() - connection.since <= IDLE_S:
                return connection
            connection.transport.abort()
        return None

    def keep(self, connection: Connection) -> None:
        """Keeps a connection for the next request."""
        connection.since = self.clock()
        self._idle.setdefault(connection.origin, []).append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(IDLE_S, self._close_old)

    def _close_old(self) -> None:
        """Closes what was kept for too long."""
        self._sweep, now = None, self.clock()
        for kept in self._idle.values():
            for connection in kept:
                if now - connection.since > IDLE_S:
                    connection.transport.abort()
            kept[:] = [one for one in kept if not one.transport.is_closing()]
        if any(self._idle.values()):
            self._sweep = asyncio.get_running_loop().call_later(IDLE_S, self._close_old)

    async def connect(self, origin: Origin) -> Connection:
        """A new connection; raises what sockets and TLS do."""
        tls, host, port = origin
        addresses = await self._addresses(host, port)
        sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S)
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(origin),
            sock=sock,
            ssl=self._tls if tls else None,
            server_hostname=host if tls else None,
        )
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """What certificates must be: read when they are first needed."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _addresses(self, host: str, port: int) -> Addresses:
        """Where a host is, asked once for all who want to know; each begins with another one."""
        until, lookup = self._lookups.get((host, port), (0.0, None))
        if lookup is None or self.clock() >= until:
            asking = asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
            lookup = asyncio.ensure_future(asking)
            lookup.add_done_callback(partial(self._looked_up, (host, port)))
            self._lookups[host, port] = self.clock() + ADDRESSES_S, lookup
        found = await asyncio.shield(lookup)
        found.append(found.pop(0))
        return found[-1:] + found[:-1]

    def _looked_up(self, name: tuple[str, int], lookup: asyncio.Task[Addresses]) -> None:
        """What has failed is asked again."""
        if lookup.cancelled() or lookup.exception():
            self._lookups.pop(name, None)


class Connection(asyncio.Protocol):
    """A connection, and the response that comes on it now."""

    transport: asyncio.Transport
    response: HttpResponse | None = None
    since = 0.0  # when it was last used

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """What comes though nothing was asked would be taken for the next response."""
        if self.response is None:
            self.transport.abort()
        else:
            self.response.feed(data)

    def eof_received(self) -> None:
        """Is not used again, from this moment on."""
        if self.response is None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Ends."""
        if self.response is not None:
            self.response.lost(error)


class HttpResponse:
    """The answer to one request while it comes; the methods `on_…` are the parser's."""

    _connecting: asyncio.Timeout | None = None
    _connection: Connection | None = None
    _parser: HttpResponseParser
    _head_room = MAX_HEAD_BYTES
    _unread = 0  # bytes that came since the last look
    _complete = False  # its end has come
    _reusable = False  # and its connection may have another one
    _over = False  # nothing more comes, because of `_error` if there is one
    _error: TransportError | None = None
    _waiter: asyncio.Future[None] | None = None
    _until = 0.0  # how long the waiter waits
    _timer: asyncio.TimerHandle | None = None
    _rings = 0.0  # when the timer does

    def __init__(self, client: HttpClient, request: Request, connect: float | None) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._client = client
        self._request = request
        self._connect = connect
        self._blocks: list[bytes] = []  # of the body, that nobody has read
        self.on_body = self._blocks.append

    async def head(self, seconds: float) -> None:
        """Sends the request, and waits for status and headers."""
        until = self._client.clock() + seconds
        try:
            # What has no body is asked rarely, and would not be asked again: not on a connection
            # that may have ended a moment ago.
            connection = self._client.take(self._request.url.origin) if self._request.body else None
            self._ask(connection or await self._connected(seconds))
            while not self.status:
                if self._over:
                    raise self._failure()
                await self._come(until)
        except BaseException:
            self.close()
            raise

    async def read(self, seconds: float) -> bytes:
        """The next bytes of the body, as many as have come; none at its end."""
        if not self._blocks and not self._over:
            until = self._client.clock() + seconds
            while not self._blocks and not self._over:
                await self._come(until)
        if not self._blocks:
            if self._error is not None:
                raise self._failure()
            return b""
        block = self._blocks[0] if len(self._blocks) == 1 else b"".join(self._blocks)
        self._blocks.clear()
        if self._unread > MAX_UNREAD_BYTES and self._connection is not None:
            self._connection.transport.resume_reading()
        self._unread = 0
        return block

    def close(self) -> None:
        """Ends it, for those who wait for it as well."""
        if not self._over:
            self._end(ConnectionLost("closed on this side"))
        if self._connecting is not None and not self._connecting.expired():
            self._connecting.reschedule(0)

    def _failure(self) -> TransportError:
        """Why nothing more comes: another one each time, for a raised one holds this."""
        error = self._error or ConnectionLost("closed by the server")
        return type(error)(*error.args)

    async def _connected(self, seconds: float) -> Connection:
        """A new connection."""
        own = self._connect is not None and self._connect < seconds
        limit = self._connecting = asyncio.timeout(self._connect if own else seconds)
        try:
            async with limit:
                connection = await self._client.connect(self._request.url.origin)
        except (OSError, RuntimeError, UnicodeError) as error:  # uvloop's may be the second
            # frames of those who tried hold it: a circle is memory until it is collected
            error.__traceback__ = None
            if self._error is not None:
                raise self._failure() from None
            if not limit.expired():
                raise ConnectFailed(str(error)) from error
            if own:
                raise ConnectTimedOut(f"no connection within {self._connect:g} s") from None
            raise
        finally:
            self._connecting = None
        if self._error is not None or connection.transport.is_closing():
            connection.transport.abort()
            raise self._failure() if self._error else ConnectFailed("closed at once")
        return connection

    def _ask(self, connection: Connection) -> None:
        """Sends the request."""
        self._connection, connection.response = connection, self
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(  # what clients forgive servers
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        request, url, size = self._request, self._request.url, len(self._request.body)
        length = f"content-length: {size}\r\n" if size else ""
        start = f"{request.method} {url.target} HTTP/1.1\r\nhost: {url.authority}\r\n{length}"
        head = b"%b%b\r\n" % (start.encode(), request.headers)
        connection.transport.writelines((head, request.body))

    def feed(self, data: bytes) -> None:
        """Takes what has come on the connection."""
        invalid = None
        try:
            if self.status:
                self._parser.feed_data(data)
            else:
                self._feed_head(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            invalid = InvalidHttp(str(error))
        self._unread += len(data)
        if self._complete:
            self._end(None, reusable=self._reusable and invalid is None)
        elif invalid is not None:
            self._end(invalid)
        else:
            if self._unread > MAX_UNREAD_BYTES and self._connection is not None:
                self._connection.transport.pause_reading()
            self._wake()

    def _feed_head(self, data: bytes) -> None:
        """Takes what may belong to the head, which has its bound."""
        room = self._head_room
        self._head_room -= len(data)
        self._parser.feed_data(data[:room])
        if self._head_room < 0:
            if not self.status:
                raise HttpParserError(f"a head of more than {MAX_HEAD_BYTES} bytes")
            self._parser.feed_data(data[room:])

    def lost(self, error: Exception | None) -> None:
        """The connection has ended: well, where nothing else says where the body does."""
        bounded = not self.status or any(
            name == b"content-length"
            or (name == b"transfer-encoding" and value.lower().endswith(b"chunked"))
            for name, value in self.headers
        )
        cut = bounded or error is not None
        self._end(ConnectionLost(str(error or "closed by the server")) if cut else None)

    def _end(self, error: TransportError | None, *, reusable: bool = False) -> None:
        """Nothing more is to come."""
        self._over, self._error = True, error
        if (connection := self._connection) is not None:
            self._connection = connection.response = None
            del self._parser  # which holds what it calls
            if reusable and not connection.transport.get_write_buffer_size():
                connection.transport.resume_reading()
                self._client.keep(connection)
            else:
                connection.transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def _come(self, until: float) -> asyncio.Future[None]:
        """What to wait for until something has come; fails with `TimeoutError` at that moment."""
        self._until = until
        if self._timer is None or until < self._rings:
            self._set_timer()
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_timer(self) -> None:
        """Sets the one timer of a response, which is set anew only for an earlier moment."""
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._until
        seconds = max(0.0, self._until - self._client.clock())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        """Ends a wait whose time is up."""
        self._timer = None
        if self._waiter is not None and not self._waiter.done():
            if self._client.clock() < self._until:
                self._set_timer()
            else:
                self._waiter.set_exception(TimeoutError())

    def on_message_begin(self) -> None:
        """Nothing may come behind the end."""
        if self._complete:
            raise InvalidHttp("bytes behind the end of a response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Notes a header, or nothing of a trailer."""
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Notes the status; an interim response is passed over."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        elif 100 <= status != 101:
            self.headers.clear()
        else:
            raise InvalidHttp(f"status {status}, for which nobody asked")

    def on_message_complete(self) -> None:
        """Notes the end."""
        if self.status:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()
