"""A keep-alive load generator that costs next to nothing: N connections, M requests, every answer checked.

python tests/bench/load.py PORT /path CONNECTIONS REQUESTS [BODY]
"""

import asyncio
import itertools
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import uvloop

# in a body: replaced by a number that no other request carries, so that no cache can help
SERIAL = b"#########"
WHO = b"@@@@"  # anywhere in a request: replaced by the number of its connection
USER = b"&&&&"  # anywhere in a request: replaced by the next number of `Load.users`
SIZE = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r\n")  # the line before a chunk's data
_serials = itertools.count(time.time_ns() // 1_000_000 % 10**8)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to send, how often, and what must come back."""

    port: int
    path: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    connections: int = 32
    requests: int = 1000
    # the time of the first answer byte is when this has arrived; empty: any byte of body
    first: bytes = b""
    expect: bytes = b""  # an answer without it is bad, whatever its status
    users: Iterator[int] | None = None  # who asks, one after the other
    deadline_s: float = 1_200  # the slowest of the peers needs ten minutes for 8,000 streams

    @cached_property
    def pieces(self) -> list[bytes]:
        """The request around the places where its serial number goes."""
        common = {
            "host": f"127.0.0.1:{self.port}",
            "content-type": "application/json",
            "user-agent": "bench",
        }
        headers = common | {"content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (f"{self.method} {self.path} HTTP/1.1\r\n{lines}\r\n".encode() + self.body).split(
            SERIAL
        )

    def request(self, who: int) -> bytes:
        """Returns the next request of a connection."""
        alike = len(self.pieces) == 1
        text = self.pieces[0] if alike else (b"%09d" % next(_serials)).join(self.pieces)
        text = text.replace(WHO, b"%04d" % who)
        return text if self.users is None else text.replace(USER, b"%04d" % next(self.users))


@dataclass
class Result:
    """What came back; times in milliseconds."""

    requests: int
    bad: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_ms: float  # median time to the first answer byte
    sample: str  # the beginning of one bad answer

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def holds(answer: bytes, words: bytes) -> bool:
    """Says whether an answer has these words, which a server may have cut in two chunks."""
    return words in answer or words in unchunked(answer)


def unchunked(answer: bytes) -> bytes:
    """Returns the body of a chunked answer without the sizes between its chunks."""
    at, data = answer.find(b"\r\n\r\n") + 4, []
    while (size := SIZE.match(answer, at)) and (length := int(size[1], 16)):
        data.append(answer[size.end() : size.end() + length])
        at = size.end() + length + 2
    return b"".join(data)


class Run:
    """One run of a load: what is left to send and what has been seen."""

    def __init__(self, load: Load) -> None:
        self.load, self.left = load, load.requests
        self.times: list[float] = []
        self.firsts: list[float] = []
        self.bad, self.sample = 0, ""
        self.clients = itertools.count()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_request(self, who: int) -> bytes | None:
        if self.left <= 0:
            return None
        self.left -= 1
        return self.load.request(who)

    def answered(self, took: float, first: float, answer: bytes) -> None:
        self.times.append(took)
        self.firsts.append(first)
        if answer[9:10] != b"2" or not holds(answer, self.load.expect):
            self.bad += 1
            self.sample = self.sample or answer[:600].decode(errors="replace")
        if len(self.times) == self.load.requests:
            self.done.set_result(None)

    def result(self, seconds: float) -> Result:
        times, firsts = sorted(self.times), sorted(self.firsts)
        p50, p99, first = (
            times[len(times) // 2],
            times[int(len(times) * 0.99)],
            firsts[len(firsts) // 2],
        )
        return Result(len(times), self.bad, seconds, p50 * 1e3, p99 * 1e3, first * 1e3, self.sample)


class Client(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, run: Run) -> None:
        self.run, self.waiting, self.who = run, False, next(run.clients) % run.load.connections

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.buffer, self.body_at, self.size, self.first = bytearray(), 0, -1, 0.0
        request = self.run.next_request(self.who)
        self.waiting = request is not None
        if request is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.body_at and not self.read_head():
            return
        if (
            not self.first
            and len(self.buffer) > self.body_at
            and self.run.load.first in self.buffer
        ):
            self.first = time.perf_counter()
        if (
            len(self.buffer) >= self.body_at + self.size
            if self.size >= 0
            else self.buffer.endswith(b"\r\n0\r\n\r\n")
        ):
            self.finish()

    def read_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self.body_at = bytes(self.buffer[:end]).lower(), end + 4
        at = head.find(b"content-length:")
        if at >= 0:
            self.size = int(head[at + 15 :].split(b"\r\n", 1)[0])
        return True

    def finish(self) -> None:
        now = time.perf_counter()
        self.run.answered(now - self.sent, (self.first or now) - self.sent, bytes(self.buffer))
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.waiting:
            return
        # The server hung up on a request: that one is bad, the rest goes over a new connection.
        took = time.perf_counter() - self.sent
        self.run.answered(took, took, b"connection lost after: " + bytes(self.buffer))
        self.again = asyncio.ensure_future(connect(self.run))


async def connect(run: Run) -> None:
    """Opens one more connection for a run that has requests left; a refusal ends the run."""
    if run.left <= 0 or run.done.done():
        return
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: Client(run), "127.0.0.1", run.load.port
        )
    except OSError as problem:
        if not run.done.done():
            run.done.set_exception(problem)


async def measure(load: Load) -> Result:
    """Sends a load and returns what came back."""
    run, begun = Run(load), time.perf_counter()
    for _ in range(load.connections):
        await connect(run)
    await asyncio.wait_for(run.done, load.deadline_s)
    return run.result(time.perf_counter() - begun)


class Held(asyncio.Protocol):
    """A connection that sends one request and keeps what comes open."""

    def __init__(self, request: bytes, first: bytes) -> None:
        self.request, self.mark, self.buffer = request, first, b""
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.mark in self.buffer and not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.begun.done():
            self.begun.set_exception(ConnectionError(f"stream refused: {self.buffer[:300]!r}"))


async def hold(load: Load) -> list[Held]:
    """Opens `load.connections` streams and returns them once each has shown its first word."""
    held = []
    for _ in range(load.connections):
        request = load.request(0)
        _, stream = await asyncio.get_running_loop().create_connection(
            partial(Held, request, load.first), "127.0.0.1", load.port
        )
        await asyncio.wait_for(stream.begun, load.deadline_s)
        held.append(stream)
    return held


if __name__ == "__main__":
    port, path, connections, requests, *body = sys.argv[1:]
    given = (
        body[0].encode()
        if body
        else b'{"model":"m","messages":[{"role":"user","content":"Hello"}]}'
    )
    load = Load(
        port=int(port), path=path, connections=int(connections), requests=int(requests), body=given
    )
    print(uvloop.run(measure(load)))
