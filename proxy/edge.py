"""The outermost layer of the server: one request id, one spelling of every path, one access log line."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from litestar.types import ASGIApp, Message, Receive, Send

from chattable.proxy import paths
from chattable.proxy.accesslog import AccessLog

# What OpenAI's API has at its top: these answer without /v1 as well.
ROOTS = re.compile(r"^/(audio|chat|models|completions|conversations|embeddings|images|moderations|rerank)(/|$)")
REPEATED = re.compile(r"^(/v1)+(?=/v1(/|$))")
HEADERS = [(b"cache-control", b"private, no-store"), (b"x-content-type-options", b"nosniff")]


class Edge:
    """Wraps the application.

    Law: every response has `x-request-id`, HEAD is GET without its body, and a path means the same with a trailing slash,
    with doubled slashes, with /v1 repeated, and, for OpenAI's own, without it. Nothing is redirected.
    A slash that is sent as %2F belongs to a name.
    """

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self.app = app
        self._log = log

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Handles one connection event of the server."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = f"req_{random.getrandbits(96):024x}"
        path, method = scope["path"], scope["method"]
        inner: Any = {**scope, "request_id": request_id, "began": began}
        if path != "/v1/chat/completions":
            inner["path"] = canonical(paths.decoded(scope))
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
            await self.app(inner, receive, send_with_id)
        finally:
            ms = round((time.monotonic() - began) * 1000, 1)
            self._log.add({"time": time.time(), "id": request_id, "method": method, "path": path, "status": status, "ms": ms})


def canonical(path: str) -> str:
    """The one spelling of a path."""
    while "//" in path:
        path = path.replace("//", "/")
    path = REPEATED.sub("", path.rstrip("/") or "/")
    return f"/v1{path}" if ROOTS.match(path) else path
