"""Everything an upstream may do after a request, from a proper answer to a reset in mid-sentence."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from echo_model import Body, Count, ask, chat_chunks, chat_completion, words

Event = Body | str | bytes
CHUNKED_SSE = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}


@dataclass(slots=True)
class Request:
    """One request as it arrived: header names lower-case, `json` None when the body is not JSON."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    json: Any
    connection: int
    at: float


@dataclass(slots=True)
class Spent:
    """The tokens one answer claims; `complete` stays False when the client left before the answer was played."""

    model: str
    prompt_tokens: int
    counted_by: Count = words
    completion_tokens: int = 0
    complete: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def claim(self, usage: Body) -> None:
        """Takes over what a usage object says, lies included, as long as they are integers."""
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage.get(name), int):
                setattr(self, name, usage[name])

    def add(self, event: Event) -> None:
        """Adds what one event delivered; a usage object in it overrides the sum."""
        if not isinstance(event, dict):
            return
        if isinstance(event.get("usage"), dict):
            self.claim(event["usage"])
            return
        for choice in event.get("choices") or []:
            delta = choice.get("delta") or {}
            pieces = [delta.get("content") or ""]
            for call in delta.get("tool_calls") or []:
                function = call.get("function") or {}
                pieces += [function.get("name") or "", function.get("arguments") or ""]
            self.completion_tokens += sum(map(self.counted_by, pieces))


class Line(Protocol):
    """What an answer needs of a connection: the narrow port the server implements."""

    tokens: Count

    async def write(self, data: bytes) -> None:
        """Returns once the kernel has every byte."""

    def close(self, reset: bool = False) -> None:
        """Hangs up: FIN after what was written, or RST at once."""

    def spend(self, request: Request) -> Spent:
        """Opens this request's entry in the usage log with its prompt already counted."""


# --- bytes -----------------------------------------------------------------------------------------------------------


def sse_event(event: Event) -> bytes:
    """Frames one SSE event; bytes pass verbatim, so that a test can write any malformed one."""
    if isinstance(event, bytes):
        return event
    return (
        b"data: %s\n\n"
        % (event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)).encode()
    )


def framed(data: bytes) -> bytes:
    """Frames one chunk of Transfer-Encoding: chunked."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def head(status: int, *headers: dict[str, str]) -> bytes:
    """Renders a status line and headers; later dicts override earlier ones."""
    merged = {name.lower(): value for given in headers for name, value in given.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in merged.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode("latin-1")


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yields every way to cut data into two non-empty pieces."""
    return ([data[:at], data[at:]] for at in range(1, len(data)))


def bytewise(data: bytes) -> list[bytes]:
    """Cuts data into pieces of one byte."""
    return [data[at : at + 1] for at in range(len(data))]


# --- answers ---------------------------------------------------------------------------------------------------------


class Answer(ABC):
    """What happens on the wire after a request; an answer that returns without closing keeps the connection."""

    @abstractmethod
    async def play(self, request: Request, line: Line) -> None: ...


@dataclass
class Plain(Answer):
    """A whole answer with Content-Length: a dict or list goes out as JSON, a str as text, bytes as they are."""

    status: int = 200
    body: Body | list[Any] | str | bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False  # hang up afterwards without having said so: the stale keep-alive race

    def render(self) -> bytes:
        kinds = {
            dict: "application/json",
            list: "application/json",
            str: "text/plain; charset=utf-8",
        }
        kind, text = kinds.get(type(self.body)), self.body
        text = json.dumps(text) if isinstance(text, dict | list) else text
        data = text.encode() if isinstance(text, str) else text
        defaults = ({"content-type": kind} if kind else {}) | {"content-length": str(len(data))}
        return head(self.status, defaults, self.headers) + data

    async def play(self, request: Request, line: Line) -> None:
        if isinstance(self.body, dict) and isinstance(self.body.get("usage"), dict):
            line.spend(request).claim(self.body["usage"])
        await line.write(self.render())
        if self.close:
            line.close()


def error(
    status: int,
    message: str,
    code: str | None = None,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Plain:
    """Answers with OpenAI's error envelope."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Plain(status, body, headers or {})


def Redirect(location: str, status: int = 302) -> Plain:
    """Sends the client elsewhere."""
    return Plain(status, b"", {"location": location})


def Html(status: int = 200) -> Plain:
    """Answers like a captive portal."""
    return Plain(status, b"<!doctype html><title>Sign in</title>", {"content-type": "text/html"})


@dataclass
class Sse(Answer):
    """A stream, every event its own write; `events=None` takes the proper chunks for the request."""

    events: Iterable[Event] | None = None
    delay_s: float = 0
    done: bool = True
    # close: EOF inside the chunked body; reset: RST
    end: Literal["finish", "close", "reset"] = "finish"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    async def play(self, request: Request, line: Line) -> None:
        spent = line.spend(request)
        await line.write(head(self.status, CHUNKED_SSE, self.headers))
        events = chat_chunks(request.json, line.tokens) if self.events is None else self.events
        sent = 0
        for sent, event in enumerate(events, 1):
            await self.before(sent - 1)
            await line.write(framed(sse_event(event)))
            spent.add(event)
        await self.before(sent)
        # One write: a client that leaves right after [DONE] has seen everything and is not counted
        # as aborting.
        last = framed(sse_event("[DONE]")) if self.done else b""
        await line.write(last + framed(b"") if self.end == "finish" else last)
        if self.end != "finish":
            line.close(reset=self.end == "reset")

    async def before(self, index: int) -> None:
        """Waits as long as the script says before event number `index`."""
        if self.delay_s and index:
            await asyncio.sleep(self.delay_s)


class Gate(Sse):
    """Sends n events, says so, and waits for `release()`; an unstreamed request waits before its first byte."""

    def __init__(self, n: int = 0, events: Iterable[Event] | None = None, **sse: Any) -> None:
        super().__init__(events, **sse)
        self.n = n
        self.reached: Future[None] = Future()
        self.released: Future[None] = Future()

    def wait(self, timeout: float = 10) -> None:
        """Blocks the test until a request is held here."""
        self.reached.result(timeout)

    async def arrival(self, timeout: float = 10) -> None:
        """Waits, in an async test, until a request is held here."""
        await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self.reached)), timeout)

    def release(self) -> None:
        """Lets every held request, and all later ones, go on; from any thread."""
        _resolve(self.released)

    async def play(self, request: Request, line: Line) -> None:
        if isinstance(request.json, dict) and request.json.get("stream"):
            return await super().play(request, line)
        await self.before(self.n)
        return await proper(request, line.tokens).play(request, line)

    async def before(self, index: int) -> None:
        if index == self.n:
            _resolve(self.reached)
            # The shield keeps a client that leaves from cancelling the gate for everybody else.
            await asyncio.shield(asyncio.wrap_future(self.released))


def _resolve(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass
class Raw(Answer):
    """Bytes as they are, status line included, each piece its own write."""

    chunks: Iterable[bytes]
    close: bool = True
    delay_s: float = 0

    async def play(self, request: Request, line: Line) -> None:
        for chunk in self.chunks:
            await line.write(chunk)
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
        if self.close:
            line.close()


@dataclass
class Reset(Answer):
    """The first `after_bytes` bytes of the proper answer (0: not even headers), then RST."""

    after_bytes: int = 0

    async def play(self, request: Request, line: Line) -> None:
        if isinstance(request.json, dict) and request.json.get("stream"):
            events = b"".join(
                framed(sse_event(event)) for event in chat_chunks(request.json, line.tokens)
            )
            data = head(200, CHUNKED_SSE) + events
        else:
            data = Plain(200, chat_completion(request.json, line.tokens)).render()
        if self.after_bytes:
            await line.write(data[: self.after_bytes])
        line.close(reset=True)


class Silent(Answer):
    """Never a byte, until the client leaves."""

    async def play(self, request: Request, line: Line) -> None:
        await asyncio.get_running_loop().create_future()


@dataclass
class Slow(Answer):
    """A body byte by byte; `raw` when it brings its own status line, so that the headers crawl as well."""

    body: bytes
    per_second: float
    raw: bool = False
    content_type: str = "text/event-stream"

    async def play(self, request: Request, line: Line) -> None:
        if not self.raw:
            await line.write(
                head(
                    200, {"content-type": self.content_type, "content-length": str(len(self.body))}
                )
            )
        for byte in bytewise(self.body):
            await line.write(byte)
            await asyncio.sleep(1 / self.per_second)
        if self.raw:
            line.close()


@dataclass
class Endless(Answer):
    """A stream that never ends, as fast as it is read: proper content chunks, or one line without a newline."""

    kind: Literal["sse", "line"] = "sse"
    sent: int = field(default=0, init=False)  # bytes of body so far

    async def play(self, request: Request, line: Line) -> None:
        spent, chunk = line.spend(request), chat_chunks(ask("on"))[1]
        await line.write(head(200, CHUNKED_SSE))
        data = sse_event(chunk) if self.kind == "sse" else b"data: "
        while True:
            await line.write(framed(data))
            self.sent += len(data)
            if self.kind == "sse":
                spent.add(chunk)
            else:
                data = b"x" * 65536


def proper(request: Request, count: Count = words, models: Iterable[str] = ("m",)) -> "Answer":
    """Chooses the answer a well-behaved upstream gives."""
    path = request.path.partition("?")[0]
    if (request.method, path) == ("GET", "/v1/models"):
        data = [
            {"id": name, "object": "model", "created": 1, "owned_by": "stub"} for name in models
        ]
        return Plain(200, {"object": "list", "data": data})
    if (request.method, path) != ("POST", "/v1/chat/completions"):
        return error(404, f"Invalid URL ({request.method} {path})")
    if not isinstance(request.json, dict) or not request.json.get("messages"):
        return error(400, "Missing required parameter: 'messages'.", param="messages")
    if request.json.get("stream"):
        return Sse(chat_chunks(request.json, count))
    return Plain(200, chat_completion(request.json, count))
