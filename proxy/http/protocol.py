"""The server's HTTP/1 connection: uvicorn's, with the bounds and the manners that it lacks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from chattable.proxy.errors import INVALID, Failure
from chattable.proxy.http.edge import EdgeMiddleware
from chattable.proxy.http.leaving import has_left

MAX_HEAD = 64 * 2**10  # bytes of a request's line and headers, or between two pieces of its body
PROGRESS = 16 * 2**10  # bytes of a body that give its sender more time
LINGER = 5.0  # seconds in which the rest of a refused request is read, so that its sender reads why
LAST_CHUNK = b"0\r\n\r\n"
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]").search
LEFTOVER = 2**20  # bytes of it, where not even its head made sense

NOT_HTTP = Failure(400, "This is not valid HTTP/1.1.", INVALID, code="invalid_http")
LONG_HEAD = Failure(
    431,
    f"The request's headers are larger than {MAX_HEAD // 2**10} KiB.",
    INVALID,
    code="headers_too_large",
)


class BoundedHttp(HttpToolsProtocol):
    """One connection.

    Law: at most `MAX_HEAD` bytes are taken in that are no body. A client that has connected or
    begun a request gets 408 when the head, or `PROGRESS` more bytes of the body, do not come
    within the edge's `patience` seconds. The rest of a request that is refused early is read,
    within bounds: closing at once would take the answer back. A client that has closed its own
    direction only (RFC 9112, 9.6) is answered. HTTP/1.0 gets no chunks: its answers end with the
    connection.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._edge: EdgeMiddleware = self.config.loaded_app
        self._idle = 0  # bytes since the last that meant something
        self._receiving = False  # whether a request has begun and is not whole
        self._headed = False  # whether its head is
        self._came = 0  # bytes of its body since it was given time
        self._deaf = False  # whether what comes is thrown away
        self._leftover = 0  # bytes thrown away
        self._most_leftover = 2 * self._edge.max_body
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._give_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._take_time()
        super().connection_lost(exc)
        if self._pending:
            has_left(self.cycle.scope, gone=True)

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        if self._deaf:
            self._throw_away(len(data))
            return
        self._idle += len(data)
        super().data_received(data)
        if self._deaf or self.transport.is_closing():
            return
        if self._idle > MAX_HEAD:
            self._refuse(LONG_HEAD)
        elif self._receiving or self.cycle is None or self.cycle.response_complete:
            self._give_time()
        elif self._deadline is not None:
            self._take_time()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client has closed its direction: what it asked wholly is answered.

        The application's `receive` returns once more, for most who do so are about to leave.
        """
        if self._deaf or self._receiving or not self._pending:
            return None
        self.cycle.keep_alive = False
        self.cycle.message_event.set()
        has_left(self.cycle.scope, gone=False)
        return True

    def send_400_response(self, msg: str) -> None:
        """What the parser does not understand."""
        self._refuse(NOT_HTTP)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._receiving, self._headed, self._came, self._leftover = True, False, 0, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is complete but for its body."""
        self._idle = 0
        if self._deadline is not None:
            self._take_time()
        super().on_headers_complete()
        self._headed = True

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._idle = 0
        if self.cycle.response_complete:  # it was answered without it
            self._throw_away(len(body))
            return
        self._came += len(body)
        if self._came >= PROGRESS:
            self._came = 0
            self._take_time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is complete."""
        self._idle = 0
        self._receiving = False
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server ends: what is under way is answered, also what is not whole yet."""
        if self._in_body and self._pending:
            # without a word in the head, so that it may be read
            self.cycle.on_response = self._close
        else:
            super().shutdown()

    def _close(self) -> None:
        self.on_response_complete()
        if self._in_body:
            self._linger()
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.__class__ = Exchange  # uvicorn makes it, and can be given no other class
        if not cycle.keep_alive or cycle.scope["http_version"] != "1.1":
            app = partial(self._answer_last, cycle, app)
        super()._start_asgi_task(cycle, app)

    async def _answer_last(
        self,
        cycle: RequestResponseCycle,
        app: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answers a request after which the connection ends."""
        if scope["http_version"] != "1.1":
            cycle.waiting_for_100_continue = False
            send = partial(_send_unchunked, cycle)
        if cycle.more_body:
            send = partial(self._send_early, cycle, send)
        await app(scope, receive, send)

    async def _send_early(self, cycle: RequestResponseCycle, send: Send, message: Message) -> None:
        """Sends an answer that may end before its request does."""
        last = message["type"] == "http.response.body" and not message.get("more_body")
        early = last and cycle.more_body and not cycle.keep_alive
        if early:
            cycle.keep_alive = True  # else uvicorn closes at once, and unread bytes are a reset
        await send(message)
        if early:
            self._linger()

    @property
    def _pending(self) -> bool:
        """Whether a request whose head is complete is yet to be answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _in_body(self) -> bool:
        """Whether the next byte belongs to the body of the request whose head came last."""
        return self._receiving and self._headed

    def _give_time(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._edge.patience, self._overdue)

    def _take_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _overdue(self) -> None:
        """What should have come did not."""
        self._deadline = None
        if self.flow.read_paused or (self._pending and not self._in_body):
            self._give_time()  # it is not the client who is waited for
        elif self._receiving or self.cycle is None:
            self._refuse(_slow(self._edge.patience))
        else:
            self.transport.close()

    def _refuse(self, failure: Failure) -> None:
        """Answers in the place of the application, where that is possible; hears nothing more."""
        if self._pending and not self._in_body:  # of a request before this one
            self._deaf, self.cycle.keep_alive = True, False
            return
        if self.pipeline or (self._in_body and self.cycle.response_started):
            self.transport.close()
            return
        scope: Any = {}
        if self._in_body:
            scope = self.cycle.scope
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(self._edge.refuse(failure, scope))
        self._most_leftover = LEFTOVER
        self._linger()

    def _linger(self) -> None:
        """Ends our direction, and gives the client a moment to end its own."""
        self._deaf = True
        self._take_time()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(LINGER, self.transport.close)

    def _throw_away(self, count: int) -> None:
        self._leftover += count
        if self._leftover > self._most_leftover:
            self.transport.close()


class Exchange(RequestResponseCycle):
    """A request and its answer: the head goes out with the first part of the body, in one write.

    Law: no header holds what would end its line.
    """

    _head = b""  # not sent yet

    async def send(self, message: Any) -> None:
        """Sends a part of the answer."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._head = self._begun(message["status"], message["headers"])
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += LAST_CHUNK
        else:
            self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("the body is not as long as its content-length says")
        if self._head:
            body, self._head = self._head + body, b""
        self.transport.write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _begun(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The head of the answer, from which its framing follows."""
        lines: list[bytes] = []
        closes = False
        for name, value in headers:
            lines += name, b": ", value, b"\r\n"
            if name == b"content-length" and self.chunked_encoding is None:
                self.chunked_encoding, self.expected_content_length = False, int(value)
            elif name == b"connection" and value.lower() == b"close":
                closes, self.keep_alive = True, False
        head = b"".join(lines)
        if head.count(b"\n") > len(headers) or head.count(b"\r") > len(headers) or CONTROL(head):
            raise RuntimeError("a header of the answer holds control characters")
        if not (self.keep_alive or closes):
            head += b"connection: close\r\n"
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status != 204:
            self.chunked_encoding = True
            head += b"transfer-encoding: chunked\r\n"
        self.response_started, self.waiting_for_100_continue = True, False
        return STATUS_LINE[status] + head + b"\r\n"


async def _send_unchunked(cycle: RequestResponseCycle, message: Message) -> None:
    """Sends to a client that knows no chunks.

    A body whose length is not said ends with the connection (RFC 9112, 6.3).
    """
    if message["type"] == "http.response.start":
        if not any(name == b"content-length" for name, _ in message.get("headers", ())):
            cycle.chunked_encoding = False
        cycle.keep_alive = False
    elif cycle.chunked_encoding is False and not cycle.expected_content_length:
        body: bytes = message.get("body", b"")  # type: ignore[assignment]
        cycle.expected_content_length = len(body)  # uvicorn compares the two
    await cycle.send(message)  # type: ignore[arg-type]


def _slow(seconds: float) -> Failure:
    message = f"The request did not come within {seconds:g} seconds."
    return Failure(408, message, INVALID, code="request_timeout")
