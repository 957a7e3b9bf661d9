"""The outermost layer: one request id, one spelling of every path, one access log line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Send

from chattable.agents.chat import Json
from chattable.agents.chattable import Trace
from chattable.agents.errors import clip
from chattable.proxy.errors import CLIENT_LEFT, Failure
from chattable.proxy.http import paths
from chattable.proxy.telemetry.access_log import AccessLog

# What OpenAI's API has at its top: these answer without /v1 as well.
ROOTS = re.compile(
    r"^/(audio|chat|models|completions|conversations|embeddings|images|moderations|rerank)(/|$)"
)
REPEATED = re.compile(r"^(/v1)+(?=/v1(/|$))")
MOST_FAILURES = 8  # attempts of a request that the log tells of
CHAT_PATH = "/v1/chat/completions"
HEADERS = [(b"cache-control", b"private, no-store"), (b"x-content-type-options", b"nosniff")]


class EdgeMiddleware:
    """Wraps the application.

    Law: every response has `x-request-id`, HEAD is GET without its body, and a path means the same
    with a trailing slash, with doubled slashes, with /v1 repeated, and, for OpenAI's own, without
    it. Nothing is redirected. A request whose client left before it was answered is logged with
    `CLIENT_LEFT`. A slash that is sent as %2F belongs to a name.
    """

    def __init__(
        self,
        app: ASGIApp,
        log: AccessLog,
        *,
        patience: float,
        max_body: int,
        failure_of: Callable[[Any, Exception], Failure],
        direct: ASGIApp | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        """`direct` answers chats in the place of the application, which takes what it does not."""
        self.app = app
        self._direct = direct or app
        self._failure_of = failure_of
        self.patience = patience  # seconds that a client may take for the parts of a request
        self.max_body = max_body  # bytes
        self._log = log
        self._redact = redact

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handles one connection event of the server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        # As `new_id`, spelled out: every request comes through here, and a call has its price.
        request_id = scope["request_id"] = f"req_{random.getrandbits(96):024x}"
        path, method = scope["path"], scope["method"]
        inner: Any = {**scope, "began": began}
        app = self._direct
        if path != CHAT_PATH or method != "POST":
            app = self.app
            decoded = paths.decoded(scope)
            path = paths.shown(decoded)
            inner["path"] = canonical(decoded)
            inner["raw_path"] = paths.shown(inner["path"]).encode()
        if method == "HEAD":
            inner["method"] = "GET"
        id_header = (b"x-request-id", request_id.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header, *HEADERS]
            await send(message)

        try:
            await app(inner, receive, send_with_id)
        except Exception as error:
            if status:  # the answer has begun
                raise
            await _answer(self._failure_of(inner, error), send_with_id)
        finally:
            if "refused" in scope:
                status = scope["refused"]
            line: Json = {
                "time": time.time(),
                "id": request_id,
                "method": method,
                "path": path,
                "status": status or CLIENT_LEFT,
                "ms": round((time.monotonic() - began) * 1000, 1),
            }
            self._log.add(line | self._outcome(inner))

    def _outcome(self, scope: dict[str, Any]) -> Json:
        """What the application found out of a request: who asked, which target, what went wrong."""
        found: Json = {}
        if "caller" in scope:
            found["user"] = scope["caller"].principal.user.name
        if "trace" in scope:
            trace: Trace = scope["trace"]
            found |= {"model": trace.model, "target": trace.asked, "attempts": trace.attempts}
            if trace.failures:
                found["failures"] = self._failures(trace)
        if "error_code" in scope and scope["error_code"] is not None:
            found["code"] = scope["error_code"]
        return found

    def _failures(self, trace: Trace) -> list[Json]:
        """How attempts failed: the last ones, of an agent that asks often."""
        return [
            {
                "target": failure.target,
                "status": failure.status,
                "error": clip(self._redact(failure.error)),
            }
            for failure in trace.failures[-MOST_FAILURES:]
        ]

    def refuse(self, failure: Failure, scope: dict[str, Any]) -> bytes:
        """A response to what is refused outside of the application, whose scope it marks."""
        request_id = scope.get("request_id") or new_id()
        if scope:  # its own log line is still to come
            scope["refused"] = failure.status
        else:
            unknown = {"method": "", "path": "", "status": failure.status, "ms": 0.0}
            self._log.add({"time": time.time(), "id": request_id, **unknown})
        body = failure.body()
        named = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
            *HEADERS,
        ]
        headers = b"".join(b"%b: %b\r\n" % header for header in named)
        phrase = HTTPStatus(failure.status).phrase.encode()
        return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (failure.status, phrase, headers, body)


async def _answer(failure: Failure, send: Send) -> None:
    """Answers with a failure."""
    body = failure.body()
    headers = [(name.encode(), value.encode("latin-1")) for name, value in failure.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": failure.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def new_id() -> str:
    """A request id."""
    return f"req_{random.getrandbits(96):024x}"


def canonical(path: str) -> str:
    """The one spelling of a path."""
    while "//" in path:
        path = path.replace("//", "/")
    path = REPEATED.sub("", path.rstrip("/") or "/")
    return f"/v1{path}" if ROOTS.match(path) else path
