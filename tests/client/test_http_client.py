"""The client that asks upstreams, byte by byte: what it takes for a response, and when a connection is used again."""

import asyncio
import gc
import os
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from answers import bytewise, splits
from faults.world import certificate, never_accepting

from chattable.adapters.http_client import (
    IDLE_S,
    MAX_HEAD_BYTES,
    MAX_UNREAD_BYTES,
    Connection,
    HttpClient,
)
from chattable.adapters.transport import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimedOut,
    InvalidHttp,
    Request,
    Response,
    TransportError,
    Url,
    header,
    header_lines,
)

LONG = 20.0  # seconds: nothing here takes so long
NOW = 0.0  # seconds: for what has not come already


class Clock:
    """A clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


# --- without a socket: every cut of the bytes -------------------------------------------------------------------------

URL = Url.parse("http://vendor.test/v1/chat?x=1")
ASK = Request("POST", URL, b"authorization: Bearer k\r\n", b"{}")


class Line(asyncio.Transport):
    """A connection's transport, which notes what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.unsent, self.closed, self.paused = b"", 0, False, False

    def writelines(self, pieces: Any) -> None:
        self.sent += b"".join(pieces)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Asked:
    """A request that was sent on such a line."""

    def __init__(self, request: Request = ASK, client: HttpClient | None = None) -> None:
        self.client = client or HttpClient()
        self.line, self.connection = Line(), Connection(request.url.origin)
        self.connection.connection_made(self.line)
        self.client.keep(self.connection)
        self.response = self.client.send(request)

    async def __aenter__(self) -> "Asked":
        self.head = asyncio.ensure_future(self.response.head(LONG))
        await asyncio.sleep(0)  # it is sent
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()
        await asyncio.gather(self.head, return_exceptions=True)
        await self.client.aclose()

    def comes(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    @property
    def kept(self) -> bool:
        return self.connection.response is None and not self.line.closed

    async def told(self) -> tuple[int, bytes]:
        await self.head
        return self.response.status, await whole(self.response)


async def whole(response: Response, seconds: float = LONG) -> bytes:
    body = bytearray()
    while block := await response.read(seconds):
        body += block
    return bytes(body)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\nX-A: 1\r\n\r\n"
# what comes, the status and body that it means, and whether the connection may have another one
FRAMED: dict[str, tuple[bytes, int, bytes, bool]] = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "no body": (OK + b"content-length: 0\r\n\r\n", 200, b"", True),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", 200, b"hello", True),
    "no chunk": (CHUNKED + b"0\r\n\r\n", 200, b"", True),
    "extension": (CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
    "trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX-A: 2\r\n\r\n", 200, b"hello", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304, b"", True),
    "error": (b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}", 503, b"{}", True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\ncontent-type: y\r\n\r\n"
        + OK + b"content-length: 2\r\n\r\nhi", 200, b"hi", True,
    ),
    "close": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", False),
    "1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", False),
    "1.0 kept": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", True,
    ),
    "bare LF": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", 200, b"hi", True),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", True),
}  # fmt: skip
TO_THE_END = {
    "no length": OK + b"content-type: a\r\n\r\nhello",
    "another coding": OK + b"transfer-encoding: gzip\r\n\r\nhello",
    "1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
}


def every_cut(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield bytewise(data)
    yield from splits(data)


@pytest.mark.parametrize("name", FRAMED)
async def test_a_response_is_the_same_however_its_bytes_are_cut(name: str) -> None:
    data, status, body, kept = FRAMED[name]
    for pieces in every_cut(data):
        async with Asked() as asked:
            asked.comes(*pieces)
            assert (await asked.told(), asked.kept) == ((status, body), kept), pieces
            assert header(asked.response, b"link") == header(asked.response, b"content-type") == b""
            if b"X-A" in data:
                assert header(asked.response, b"x-a") == b"1"


@pytest.mark.parametrize("name", TO_THE_END)
async def test_a_body_may_last_as_long_as_its_connection(name: str) -> None:
    for pieces in every_cut(TO_THE_END[name]):
        async with Asked() as asked:
            asked.comes(*pieces)
            asked.connection.connection_lost(None)
            assert await asked.told() == (200, b"hello") and not asked.kept
    async with Asked() as asked:  # a reset is no end
        asked.comes(TO_THE_END[name])
        asked.connection.connection_lost(ConnectionResetError(104, "reset"))
        with pytest.raises(ConnectionLost):
            await asked.told()


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "reset")], ids=["end", "reset"])
@pytest.mark.parametrize("name", FRAMED)
async def test_what_ends_early_is_no_response(name: str, error: Exception | None) -> None:
    data = FRAMED[name][0]
    for size in range(len(data)):
        async with Asked() as asked:
            asked.comes(data[:size])
            asked.connection.connection_lost(error)
            if error is None and asked.head.done() and not asked.head.exception():
                # the header that says where the body ends may not have come yet: then it is whole
                assert asked.response.status
            with pytest.raises(ConnectionLost):
                await asked.told()
            assert not asked.kept


async def test_what_came_before_the_end_is_read_before_it_is_told() -> None:
    async with Asked() as asked:
        asked.comes(CHUNKED + b"5\r\nhello\r\n")
        asked.connection.connection_lost(ConnectionResetError(104, "reset"))
        await asked.head
        assert await asked.response.read(LONG) == b"hello"
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await asked.response.read(LONG)


@pytest.mark.parametrize("behind", [b"H", OK, b"x" * 1000, FRAMED["length"][0]])
@pytest.mark.parametrize("name", FRAMED)
async def test_what_comes_behind_the_end_is_nobodys(name: str, behind: bytes) -> None:
    data, status, body, kept = FRAMED[name]
    async with Asked() as asked:  # at once with it
        asked.comes(data + behind)
        assert (await asked.told(), asked.kept) == ((status, body), False)
    async with Asked() as asked:  # while nobody asks
        asked.comes(data)
        assert asked.kept == kept
        asked.comes(behind)
        assert (await asked.told(), asked.kept) == ((status, body), False)


NO_HTTP = {
    "TLS": b"\x16\x03\x01hello\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "no status": b"HTTP/1.1 xyz OK\r\n\r\n",
    "status 0": b"HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "101 of nothing": b"HTTP/1.1 101 S\r\n\r\n",
    "two lengths": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "length and chunks": OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
    "negative length": OK + b"content-length: -2\r\n\r\n{}",
    "endless length": OK + b"content-length: 99999999999999999999\r\n\r\n{}",
    "no colon": OK + b"x\r\n\r\n",
    "no chunk": CHUNKED + b"zz\r\n{}\r\n",
    "endless chunk": CHUNKED + b"ffffffffffffffffffff\r\n{}",
    "chunk without an end": CHUNKED + b"2\r\n{}}}\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_is_told_and_never_used_again(name: str) -> None:
    for pieces in every_cut(NO_HTTP[name]):
        async with Asked() as asked:
            asked.comes(*pieces)
            with pytest.raises(InvalidHttp):
                await asked.told()
            assert not asked.kept


def head_of(size: int) -> bytes:
    """A head of so many bytes."""
    start = OK + b"content-length: 2\r\nx: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


MANY = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3000
TINY = OK + b"a:\r\n" * 30_000


async def test_a_head_has_a_bound_whatever_it_is_made_of() -> None:
    async with Asked() as asked:
        asked.comes(head_of(MAX_HEAD_BYTES) + b"hi")
        assert await asked.told() == (200, b"hi")
    data = head_of(MAX_HEAD_BYTES)
    for at in (1, 1000, MAX_HEAD_BYTES - 1, MAX_HEAD_BYTES):
        async with Asked() as asked:
            asked.comes(data[:at], data[at:] + b"hi")
            assert await asked.told() == (200, b"hi")
    for data in (head_of(MAX_HEAD_BYTES + 1), MANY, TINY, b"HTTP/1.1 200 " + b"O" * 70_000):
        for at in (0, 1, 1000, MAX_HEAD_BYTES):
            async with Asked() as asked:
                asked.comes(data[:at], data[at:])
                with pytest.raises(InvalidHttp, match="more than"):
                    await asked.head
                assert not asked.kept


async def test_a_reader_who_is_slow_stops_what_comes() -> None:
    async with Asked() as asked:
        size, block = 3 * MAX_UNREAD_BYTES, b"x" * 1024
        asked.comes(OK + b"content-length: %d\r\n\r\n" % size)
        await asked.head
        sent = read = 0
        while sent < size:
            while not asked.line.paused and sent < size:
                asked.comes(block)
                sent += len(block)
            assert sent - read <= MAX_UNREAD_BYTES + 2 * len(block)
            read += len(await asked.response.read(NOW))
            assert not asked.line.paused
        assert read == size and asked.kept


async def test_a_connection_is_read_again_before_it_is_used_again() -> None:
    async with Asked() as asked:
        asked.comes(OK + b"content-length: %d\r\n\r\n" % (2 * MAX_UNREAD_BYTES))
        asked.comes(b"x" * (MAX_UNREAD_BYTES + 1))
        assert asked.line.paused
        asked.comes(b"x" * (MAX_UNREAD_BYTES - 1))  # TLS had it already
        assert asked.kept and not asked.line.paused
        assert len(await whole(asked.response)) == 2 * MAX_UNREAD_BYTES


async def test_a_response_before_its_request_was_sent_is_the_last_one() -> None:
    async with Asked() as asked:
        asked.line.unsent = 1
        asked.comes(FRAMED["error"][0])
        assert await asked.told() == (503, b"{}") and not asked.kept


async def test_a_response_that_is_given_up_takes_its_connection_with_it() -> None:
    for data in (b"", OK, CHUNKED, CHUNKED + b"5\r\nhel"):
        async with Asked() as asked:
            asked.comes(data)
            await asyncio.sleep(0)
            asked.response.close()
            asked.response.close()
            assert asked.line.closed
            with pytest.raises(ConnectionLost):
                await asked.told()


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    data = FRAMED["chunks"][0]
    client = HttpClient()
    connection = Connection(URL.origin)
    connection.connection_made(Line())
    client.keep(connection)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            response = client.send(ASK)
            head = asyncio.ensure_future(response.head(LONG))
            await asyncio.sleep(0)
            connection.data_received(data)
            await head
            assert await whole(response) == b"hello"
            del response, head
        assert not [one for one in gc.get_objects() if type(one).__name__ == "HttpResponse"]
    finally:
        gc.enable()
    await client.aclose()


async def test_the_request_as_it_is_sent() -> None:
    async with Asked() as asked:
        assert asked.line.sent == (
            b"POST /v1/chat?x=1 HTTP/1.1\r\nhost: vendor.test\r\ncontent-length: 2\r\n"
            b"authorization: Bearer k\r\n\r\n{}"
        )


def test_a_url_is_taken_apart_once() -> None:
    url = Url.parse("https://[::1]:8443/a b")
    assert (url.origin, url.authority, url.target) == (
        (True, "::1", 8443),
        "[::1]:8443",
        "/a%20b",
    )
    url = Url.parse("http://Exämple.test.:80/v1")
    assert (url.origin, url.authority) == (
        (False, "xn--exmple-cua.test", 80),
        "xn--exmple-cua.test.",
    )
    assert Url.parse("https://x.test").origin == (True, "x.test", 443)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0", "ä", "\ud800"])
def test_no_header_carries_another_one(value: str) -> None:
    with pytest.raises(ValueError):
        header_lines([("x", value)])
    with pytest.raises(ValueError):
        header_lines([(value, "x")])
    assert header_lines([("a", "b"), ("c", "")]) == b"a: b\r\nc: \r\n"


# --- on sockets -------------------------------------------------------------------------------------------------------


class Server:
    """A server on raw sockets, which plays a script: for each request bytes, and how it goes on."""

    def __init__(self, *script: list[bytes | str]) -> None:
        self.script = list(script)
        self.requests: list[bytes] = []
        self.connections = self.open = self.sent = 0
        self.left = asyncio.Event()  # a client went while it was served

    @asynccontextmanager
    async def serving(self, context: ssl.SSLContext | None = None) -> AsyncIterator[Url]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        try:
            yield Url.parse(f"http{'s' if context else ''}://127.0.0.1:{port}/v1")
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.split(b"content-length: ")[1].split()[0]) if b"-le" in head else 0
                self.requests.append(head + await reader.readexactly(size))
                for step in self.script.pop(0) if self.script else [FRAMED["length"][0]]:
                    if isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                        self.sent += len(step)
                    elif step == "hold":
                        await reader.read()
                        self.left.set()
                    elif step == "close":
                        return None
                    elif step == "reset":
                        linger = struct.pack("ii", 1, 0)
                        line = writer.get_extra_info("socket")
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    running = HttpClient()
    yield running
    await running.aclose()


async def post(client: HttpClient, url: Url, body: bytes = b"{}") -> tuple[int, bytes]:
    response = client.send(Request("POST" if body else "GET", url, b"", body), 5.0)
    try:
        await response.head(LONG)
        return response.status, await whole(response)
    finally:
        response.close()


async def settled(done: Callable[[], bool]) -> None:
    """Lets the loop run until this holds."""
    async with asyncio.timeout(LONG):
        while not done():
            await asyncio.sleep(0.001)


HELLO = (200, b"hello")


async def test_one_connection_serves_one_after_the_other_and_many_at_once(
    client: HttpClient,
) -> None:
    server = Server()
    async with server.serving() as url:
        for _ in range(3):
            assert await post(client, url) == HELLO
        assert server.connections == 1
        assert await asyncio.gather(*(post(client, url) for _ in range(5))) == [HELLO] * 5
        assert server.connections == 5
        assert await post(client, url) == HELLO and server.connections == 5
        await client.aclose()
        await settled(lambda: not server.open)
        assert await post(client, url) == HELLO and server.connections == 6


@pytest.mark.parametrize("name", FRAMED)
async def test_the_next_response_is_its_own_whatever_the_one_before(
    client: HttpClient, name: str
) -> None:
    data, status, body, kept = FRAMED[name]
    server = Server([data])
    async with server.serving() as url:
        assert await post(client, url) == (status, body)
        assert await post(client, url) == HELLO
        assert server.connections == (1 if kept else 2)


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_connection_that_ended_idle_is_nobodys_business(
    client: HttpClient, end: str
) -> None:
    server = Server([FRAMED["length"][0], end])
    async with server.serving() as url:
        assert await post(client, url) == HELLO
        [connection] = client._idle[url.origin]
        await settled(connection.transport.is_closing)
        assert await post(client, url) == HELLO
        assert server.connections == 2


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_connection_that_ends_as_it_is_used_is_told_and_nothing_is_sent_twice(
    client: HttpClient, end: str
) -> None:
    server = Server([FRAMED["length"][0]], [end])
    async with server.serving() as url:
        assert await post(client, url) == HELLO
        with pytest.raises(ConnectionLost):
            await post(client, url)
        assert (len(server.requests), server.connections) == (2, 1)


async def test_what_has_no_body_goes_on_a_new_connection(client: HttpClient) -> None:
    server = Server()
    async with server.serving() as url:
        assert await post(client, url) == HELLO
        assert await post(client, url, b"") == HELLO
        assert server.connections == 2
        assert (
            server.requests[1] == b"GET /v1 HTTP/1.1\r\nhost: %b\r\n\r\n" % url.authority.encode()
        )


async def test_a_connection_is_kept_for_a_while() -> None:
    clock, server = Clock(), Server()
    client = HttpClient(clock)
    async with server.serving() as url:
        await post(client, url)
        clock.now += IDLE_S
        await post(client, url)
        assert server.connections == 1
        clock.now += IDLE_S + 0.1
        await post(client, url)
        assert server.connections == 2
        await settled(lambda: server.open == 1)
        clock.now += IDLE_S + 0.1
        client._close_old()
        await settled(lambda: server.open == 0)
    await client.aclose()


async def test_a_large_request_and_a_large_response(client: HttpClient) -> None:
    size = 20 * 2**20
    block = b"x" * 2**20
    head = OK + b"content-length: %d\r\n\r\n" % size
    server = Server([head, *[block] * 20])
    async with server.serving() as url:
        status, body = await post(client, url, b"y" * size)
        assert (status, len(body), len(server.requests[0]) > size) == (200, size, True)
        assert await post(client, url) == HELLO and server.connections == 1


async def test_nobody_reads_and_little_is_taken_in(client: HttpClient) -> None:
    size = 64 * 2**20
    server = Server([OK + b"content-length: %d\r\n\r\n" % size, *[b"x" * 2**16] * 1024])
    async with server.serving() as url:
        response = client.send(Request("POST", url, b"", b"{}"))
        await response.head(LONG)
        connection = response._connection
        assert connection is not None
        await settled(lambda: not connection.transport.is_reading())
        assert response._unread <= MAX_UNREAD_BYTES + 2**18  # what a loop reads at once
        assert len(await whole(response)) == size
        response.close()


# --- deadlines, and those who give up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [[], [OK], [b"HTTP/1.1 100 Continue\r\n\r\n"]], ids=len)
async def test_no_head_in_time(client: HttpClient, sent: list[bytes]) -> None:
    server = Server([*sent, "hold"])
    async with server.serving() as url:
        response = client.send(Request("POST", url, b"", b"{}"))
        with pytest.raises(TimeoutError):
            await response.head(0.02)
        await asyncio.wait_for(server.left.wait(), LONG)


async def test_a_body_that_falls_asleep(client: HttpClient) -> None:
    server = Server([CHUNKED + b"5\r\nhello\r\n", "hold"])
    async with server.serving() as url:
        response = client.send(Request("POST", url, b"", b"{}"))
        await response.head(LONG)
        assert await response.read(LONG) == b"hello"
        for seconds in (-1.0, NOW, 0.02):  # sooner than the timer that is set
            with pytest.raises(TimeoutError):
                await response.read(seconds)
        response.close()
        await asyncio.wait_for(server.left.wait(), LONG)


async def test_what_has_come_is_read_though_the_time_is_up() -> None:
    async with Asked() as asked:
        asked.comes(FRAMED["length"][0])
        await asked.head
        assert await asked.response.read(NOW) == b"hello"
        assert await asked.response.read(-1.0) == b""


async def test_bytes_that_say_nothing_do_not_put_off_a_deadline() -> None:
    clock = Clock()
    async with Asked(client=HttpClient(clock)) as asked:
        asked.comes(CHUNKED)
        await asked.head
        reading = asyncio.ensure_future(asked.response.read(1.0))
        for byte in bytewise(b"0000000005\r\n"):
            await asyncio.sleep(0)
            asked.comes(byte)
            clock.now += 0.2
        asked.response._ring()
        with pytest.raises(TimeoutError):
            await reading


async def test_one_timer_rings_late_and_never_early() -> None:
    clock = Clock()
    async with Asked(client=HttpClient(clock)) as asked:
        asked.comes(CHUNKED)
        await asked.head
        reading = asyncio.ensure_future(asked.response.read(5.0))
        await asyncio.sleep(0)
        clock.now += 4.9
        asked.response._ring()
        await asyncio.sleep(0)
        assert not reading.done()
        clock.now += 0.1
        asked.response._ring()
        with pytest.raises(TimeoutError):
            await reading
        reading = asyncio.ensure_future(asked.response.read(5.0))
        await asyncio.sleep(0)
        asked.comes(b"1\r\nx\r\n")
        assert await reading == b"x"
        asked.response._ring()  # nobody waits


async def test_nobody_accepts(client: HttpClient) -> None:
    with never_accepting() as port:
        request = Request("POST", Url.parse(f"http://127.0.0.1:{port}/"), b"", b"{}")
        with pytest.raises(ConnectTimedOut):
            await client.send(request, 0.02).head(LONG)
        with pytest.raises(TimeoutError):
            await client.send(request, LONG).head(0.02)
        for give_up in (Response.close, None):
            response = client.send(request, LONG)
            head = asyncio.ensure_future(response.head(LONG))
            await asyncio.sleep(0.01)
            response.close() if give_up else head.cancel()
            with pytest.raises(ConnectionLost if give_up else asyncio.CancelledError):
                await head


async def test_nobody_is_there(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    for address in (
        f"http://127.0.0.1:{port}/",
        "http://nowhere.invalid/",
        f"http://{'a' * 64}.x/",
    ):
        with pytest.raises(ConnectFailed):
            await post(client, Url.parse(address))


def descriptors() -> int:
    return psutil.Process(os.getpid()).num_fds()


GIVEN_UP: dict[str, list[bytes | str]] = {
    "before the head": ["hold"],
    "in the head": [OK, "hold"],
    "before the body": [CHUNKED, "hold"],
    "in the body": [CHUNKED + b"5\r\nhel", "hold"],
}


@pytest.mark.parametrize("how", ["cancel", "close"])
@pytest.mark.parametrize("when", GIVEN_UP)
async def test_who_gives_up_leaves_no_connection_open(
    client: HttpClient, when: str, how: str
) -> None:
    server = Server(GIVEN_UP[when])
    async with server.serving() as url:
        before = descriptors()

        async def ask() -> None:
            try:
                await response.head(LONG)
                await whole(response)
            finally:
                response.close()

        response = client.send(Request("POST", url, b"", b"{}"), LONG)
        asking = asyncio.ensure_future(ask())
        await settled(lambda: len(server.requests) == 1)
        if "body" in when:
            await settled(lambda: response.status == 200)
        if how == "close":
            response.close()
        else:
            asking.cancel()
        with pytest.raises(ConnectionLost if how == "close" else asyncio.CancelledError):
            await asking
        await asyncio.wait_for(server.left.wait(), LONG)
        await settled(lambda: descriptors() == before and not server.open)


async def test_whoever_is_cancelled_at_any_moment_harms_nobody(client: HttpClient) -> None:
    """At every turn of the loop between the first and the last of a request."""
    server = Server()
    async with server.serving() as url:
        await post(client, url)
        for fresh in (True, False):
            for turns in range(40):
                if fresh:
                    await client.aclose()
                asking = asyncio.ensure_future(post(client, url))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                done = (await asyncio.gather(asking, return_exceptions=True))[0]
                assert done == HELLO or isinstance(done, asyncio.CancelledError)
                assert await post(client, url) == HELLO
        await client.aclose()
        await settled(lambda: not server.open)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, ssl.SSLContext], Path]:
    """Servers' contexts: one that is trusted, one of another name, one that nobody knows."""
    folder = tmp_path_factory.mktemp("certificates")
    names = {"good": "IP:127.0.0.1", "another": "DNS:elsewhere.test", "unknown": "IP:127.0.0.1"}
    made = {name: certificate(folder, name, subject) for name, subject in names.items()}
    (folder / "trust").write_bytes(made["good"][1] + made["another"][1])
    return {name: context for name, (context, _) in made.items()}, folder / "trust"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
async def test_tls(
    client: HttpClient,
    contexts: tuple[dict[str, ssl.SSLContext], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, trust = contexts
    monkeypatch.setenv("SSL_CERT_FILE", str(trust))
    size = 4 * 2**20
    async with AsyncExitStack() as stack:
        server = Server([OK + b"content-length: %d\r\n\r\n" % size, *[b"x" * 2**16] * 64])
        url = await stack.enter_async_context(server.serving(made["good"]))
        status, body = await post(client, url, b"y" * size)
        assert (status, len(body), server.connections) == (200, size, 1)
        assert await post(client, url) == HELLO and server.connections == 1
        server.script = [[CHUNKED + b"5\r\nhello\r\n", "hold"]]
        response = client.send(Request("POST", url, b"", b"{}"))
        await response.head(LONG)
        assert await response.read(LONG) == b"hello"
        with pytest.raises(TimeoutError):
            await response.read(NOW)
        response.close()
        await asyncio.wait_for(server.left.wait(), LONG)
        server.script = [[CHUNKED + b"5\r\nhello\r\n", "close"]]
        with pytest.raises(ConnectionLost):
            await post(client, url)
        for name in ("another", "unknown"):
            other = Server()
            with pytest.raises(ConnectFailed):
                await post(client, await stack.enter_async_context(other.serving(made[name])))
            assert not other.requests
        plain = await stack.enter_async_context(Server().serving())
        silent = Request("POST", Url.parse(plain.text.replace("http:", "https:")), b"", b"{}")
        with pytest.raises(ConnectTimedOut):  # it waits for the end of a head
            await client.send(silent, 0.05).head(LONG)
        with pytest.raises(TransportError):
            await post(client, Url.parse(url.text.replace("https:", "http:")))
