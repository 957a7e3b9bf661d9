"""A scripted OpenAI-compatible upstream on raw sockets: it answers properly, or exactly as badly as a test asks.

It has its own thread and event loop, so sync and async tests use it alike, and it keeps its own log
of the tokens it claims to have spent: the independent witness against which a ledger is checked.

    from answers import Gate, Reset, error

    with ScriptedUpstream() as upstream:
        upstream.script(error(429, "slow down", headers={"retry-after": "1"}), Gate(3), Reset(after_bytes=200))
        ...                                    # the 4th request and all later ones get a proper answer
        upstream.wait(lambda: upstream.aborted == 1)
"""

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from answers import Answer, Request, Spent, error, proper
from echo_model import Count, text_of, words


class Connection(asyncio.Protocol):
    """One connection: reads requests, plays answers, notices a client that leaves."""

    def __init__(self, upstream: "ScriptedUpstream", number: int) -> None:
        self.upstream, self.number, self.tokens = upstream, number, upstream.count
        self.buffer = bytearray()
        self.arrived, self.writable = asyncio.Event(), asyncio.Event()
        self.playing = self.hung_up = False
        self.spent: Spent | None = None
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # so that being writable means: the kernel has every byte
        transport.set_write_buffer_limits(high=0)
        self.task = asyncio.ensure_future(self.serve())
        self.upstream._opened(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.arrived.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.task.cancel()
        self.upstream._closed(self, aborted=self.playing and not self.hung_up)

    async def serve(self) -> None:
        while not self.transport.is_closing():
            try:
                await self.exchange(await self.receive())
            except (
                Exception
            ) as problem:  # odd input or a bug in a scripted answer: the test must see it, not hang
                await self.write(error(500, f"The stub could not answer: {problem!r}").render())
                self.close()

    async def exchange(self, request: Request) -> None:
        self.spent, self.playing = None, True
        await self.upstream._choose(request).play(request, self)
        self.playing = False
        if request.headers.get("connection", "").lower() == "close":
            self.close()
        self.upstream._finished(self.spent)

    async def receive(self) -> Request:
        while not (request := take_request(self.buffer, self.number)):
            self.arrived.clear()
            await self.arrived.wait()
        return request

    async def write(self, data: bytes) -> None:
        self.transport.write(data)
        # every write gets its own turn of the loop, and an endless one starves nobody
        await asyncio.sleep(0)
        await self.writable.wait()

    def close(self, reset: bool = False) -> None:
        self.hung_up = True
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
            self.transport.abort()
        else:
            self.transport.close()

    def spend(self, request: Request) -> Spent:
        body = request.json if isinstance(request.json, dict) else {}
        prompt = sum(self.tokens(text_of(message)) for message in body.get("messages") or [])
        self.spent = Spent(str(body.get("model")), prompt, self.tokens)
        self.upstream.usage_log.append(self.spent)
        return self.spent


def take_request(buffer: bytearray, connection: int) -> Request | None:
    """Removes one whole request from the buffer, or returns None while bytes are missing."""
    at = buffer.find(b"\r\n\r\n")
    if at < 0:
        return None
    first, *lines = bytes(buffer[:at]).decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers: dict[str, str] = {}
    for name, _, value in (line.partition(":") for line in lines):
        known = headers.get(name.lower())
        headers[name.lower()] = f"{known}, {value.strip()}" if known else value.strip()
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    size = int(headers.get("content-length", 0))
    taken = (
        _unchunk(buffer, at + 4)
        if chunked
        else (bytes(buffer[at + 4 : at + 4 + size]), at + 4 + size)
    )
    if taken is None or len(buffer) < taken[1]:
        return None
    body, end = taken
    del buffer[:end]
    parsed = None
    with suppress(ValueError, RecursionError):
        parsed = json.loads(body)
    return Request(method, path, headers, body, parsed, connection, time.monotonic())


def _unchunk(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    body = b""
    while (line_end := buffer.find(b"\r\n", at)) >= 0:
        size = int(buffer[at:line_end].split(b";")[0], 16)
        at = line_end + 2 + size + 2
        if len(buffer) < at:
            return None
        if size == 0:
            return body, at
        body += buffer[line_end + 2 : line_end + 2 + size]
    return None


class ScriptedUpstream:
    """The upstream as a context manager; the next request takes the next scripted answer, otherwise `reply(request)`.

    `reply` may be replaced to change every unscripted answer. Counters are read from the test's
    thread: use `wait` or `until` for those that change after a request has been answered.
    """

    def __init__(
        self,
        *,
        models: Iterable[str] = ("m",),
        count: Count = words,
        port: int = 0,
        ssl: ssl.SSLContext | None = None,
    ) -> None:
        self.count, self.port, self._ssl = count, port, ssl
        self.reply: Callable[[Request], Answer] = lambda request: proper(
            request, self.count, models
        )
        self._connections: set[Connection] = set()
        self._changed = threading.Condition()
        self.open_connections = self._numbered = 0
        self.clear()

    def clear(self) -> None:
        """Forgets requests, tokens, counters and the unplayed script; connections stay open."""
        self.requests: list[Request] = []
        self.usage_log: list[Spent] = []
        self.aborted = self.completed = 0
        self.peak_connections = self.open_connections
        self._script: list[tuple[str, Answer]] = []

    @property
    def url(self) -> str:
        """The base URL to configure, with /v1."""
        return f"{'https' if self._ssl else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def tokens(self) -> int:
        """All tokens claimed so far."""
        return sum(spent.total_tokens for spent in self.usage_log)

    def script(self, *answers: Answer, path: str = "") -> None:
        """Queues answers for the next requests whose path ends with `path`."""
        self._script += [(path, answer) for answer in answers]

    def wait(self, condition: Callable[..., bool], timeout: float = 10) -> None:
        """Blocks until the condition holds; it is looked at again whenever something happens here."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise TimeoutError(f"not within {timeout} s; upstream has {self!r}")

    async def until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        """Waits like `wait`, without blocking the test's loop."""
        await asyncio.to_thread(self.wait, condition, timeout)

    def hang_up(self) -> None:
        """Closes every open connection, idle ones included."""
        self._call(self._close_all)

    def _close_all(self) -> None:
        for connection in list(self._connections):
            connection.close()

    def __repr__(self) -> str:
        return (
            f"<{self.url}: {len(self.requests)} requests, {self.completed} completed, "
            f"{self.aborted} aborted, "
            f"{self.open_connections} connections open (peak {self.peak_connections}), "
            f"{len(self._script)} scripted>"
        )

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(started)), name="upstream", daemon=True
        )
        self._thread.start()
        started.result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop.set)
        self._thread.join(10)

    async def _run(self, started: "Future[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await self._loop.create_server(
                self._connection,
                "127.0.0.1",
                self.port,
                ssl=self._ssl,
                backlog=1024,
                reuse_address=True,
            )
        except OSError as problem:
            started.set_exception(problem)
            return
        self.port = server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.hung_up = True
            connection.transport.abort()
        await asyncio.gather(
            *(connection.task for connection in self._connections), return_exceptions=True
        )

    def _call(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10)

    def _connection(self) -> Connection:
        self._numbered += 1
        return Connection(self, self._numbered)

    def _opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        with self._changed:
            self.open_connections += 1
            self.peak_connections = max(self.peak_connections, self.open_connections)
            self._changed.notify_all()

    def _closed(self, connection: Connection, aborted: bool) -> None:
        self._connections.discard(connection)
        with self._changed:
            self.open_connections -= 1
            self.aborted += aborted
            self._changed.notify_all()

    def _choose(self, request: Request) -> Answer:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        for index, (path, _) in enumerate(self._script):
            if request.path.partition("?")[0].endswith(path):
                return self._script.pop(index)[1]
        return self.reply(request)

    def _finished(self, spent: Spent | None) -> None:
        with self._changed:
            self.completed += 1
            if spent:
                spent.complete = True
            self._changed.notify_all()
