"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from typing import Any

from litestar import Request, post
from litestar.types import ASGIApp, ControllerRouterHandler, Receive, Send
from msgspec.structs import replace

from chattable.adapters.vendors.withheld import BETAS
from chattable.agents.chat import Chat, Chunk
from chattable.agents.parsing import parse
from chattable.proxy.cache.controls import pop_controls
from chattable.proxy.dialects.chat_completions import DONE, KEEPALIVE, Frames, error_frame
from chattable.proxy.errors import describe
from chattable.proxy.http.leaving import on_leave
from chattable.proxy.identity.auth import Caller
from chattable.proxy.reply_stream import ReplyStream
from chattable.proxy.routes.documented import ASKED, BEARER, CHAT, errors
from chattable.proxy.routes.request_context import (
    caller_of,
    header,
    on_behalf,
    receive_json,
    upstream_headers,
)
from chattable.proxy.services import Services

PATH = "/v1/chat/completions"
JSON_HEADERS = [(b"content-type", b"application/json")]
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"x-accel-buffering", b"no"),
]


class ChatCompletions:
    """The route as an ASGI application; what it raises before its answer begins is not answered."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answers one request."""
        services = self._services
        caller = await caller_of(scope, services)
        body = await receive_json(scope, receive, services, caller)
        chat = parse(body, default_model=services.config.default_model)
        # cheaper than a look at every header
        if b"anthropic-beta" in dict(scope["headers"]):
            chat.params.setdefault(BETAS, header(scope, b"anthropic-beta"))
        chat, ref = services.pipeline.sessions.resolver.of_body(chat, caller.session_ref)
        if ref is not caller.session_ref:
            caller = replace(caller, session_ref=ref)
        chat, caller = pop_controls(chat, caller)
        caller = await on_behalf(caller, chat.params, services)
        reply = services.turns.reply(caller)
        scope["caller"], scope["trace"] = caller, reply.trace
        reply.trace.model = chat.model if chat.model.isprintable() else ""
        await _Answer(services, reply, chat, caller).send(scope, send)


def routes(endpoint: ChatCompletions) -> list[ControllerRouterHandler]:
    """The route of chat completions."""

    @post(
        PATH,
        status_code=200,
        operation_class=CHAT,
        responses=errors(*ASKED),
        security=BEARER,
        tags=["Models"],
        summary="Create a chat completion",
    )
    async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
        return endpoint

    return [chat_completions]


class _Answer:
    """Sends a reply.

    Law: a failure before the first chunk has its own status; after it, an error event and no
    `[DONE]`.
    """

    def __init__(self, services: Services, reply: ReplyStream, chat: Chat, caller: Caller) -> None:
        self._turns = services.turns
        self._keepalive = services.config.server.keepalive
        self._cancel = services.config.server.on_disconnect == "cancel"
        self._reply = reply
        self._chat = chat
        self._caller = caller
        self._scope: Any = {}

    async def send(self, scope: Any, send: Send) -> None:
        """Sends it, or raises before it begins."""
        self._scope = scope
        on_leave(scope, self._left)
        try:
            await (self._stream(send) if self._chat.stream else self._whole(send))
        finally:
            self._reply.leave()  # no await here: a client that left cancels every one of them
            self._scope = {}  # which holds this: a circle is memory until the next collection

    def _left(self, gone: bool) -> None:
        """By the config the answer is stopped; else who only closed their direction may read it."""
        if self._cancel:
            self._reply.leave(cancel=True)
        elif gone:
            self._reply.leave()
        else:
            self._reply.close()

    async def _whole(self, send: Send) -> None:
        fold = await self._turns.whole(self._chat, self._caller, self._reply)
        body = self._frames().completion(fold)
        await self._start(send, [*JSON_HEADERS, (b"content-length", b"%d" % len(body))])
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, send: Send) -> None:
        reply = self._reply
        self._turns.start(self._chat, self._caller, reply)
        chunks: list[Chunk] | None = await reply.take(self._keepalive)
        frames = self._frames()
        await self._start(send, SSE_HEADERS)
        try:
            while chunks is not None:
                block = frames.encode(chunks) if chunks else KEEPALIVE
                if reply.complete:
                    break
                if block:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
                chunks = await reply.take(self._keepalive)
            else:
                block = b""
            last = block + DONE
        except Exception as error:
            failure = describe(error)
            self._scope["error_code"] = failure.code
            last = error_frame(failure)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def _frames(self) -> Frames:
        """The answer's form, once the first chunk is there; a repeat has the first answer's id."""
        return Frames(self._reply, self._chat.model, include_usage=self._chat.include_usage)

    async def _start(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        trace = self._reply.trace
        overhead = max(0.0, time.monotonic() - self._caller.began - trace.waited)
        headers = [*headers, (b"x-chattable-overhead-ms", b"%.1f" % (overhead * 1000))]
        facts = upstream_headers(trace) | self._reply.headers
        headers += [(k.encode(), v.encode("ascii", "replace")) for k, v in facts.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
