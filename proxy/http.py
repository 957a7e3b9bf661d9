"""The server's HTTP parser, with a bound on what comes before a body and a word of who leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 * 2**10  # bytes of a request's line and headers, or between two pieces of its body
ON_LEAVE, LEFT = "chattable_on_leave", "chattable_left"  # in a request's `state`


def on_leave(scope: Any, left: Callable[[], None]) -> None:
    """Calls `left` when a client is gone before its answer is complete, at once if it is."""
    state = scope.setdefault("state", {})
    state[ON_LEAVE] = left
    if state.get(LEFT):
        left()


class BoundedHttp(HttpToolsProtocol):
    """Law: at most `MAX_HEAD` bytes are taken in that are not a body; a client that sends more gets 400 and is cut off."""

    _idle = 0  # bytes since the last that meant something

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody reads any more."""
        super().connection_lost(exc)
        if self.cycle is not None and not self.cycle.response_complete:
            state: dict[str, Any] = self.cycle.scope["state"]
            state[LEFT] = True
            if left := state.get(ON_LEAVE):
                left()

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        self._idle += len(data)
        super().data_received(data)
        if self._idle > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response("Request header fields too large.")

    def on_headers_complete(self) -> None:
        """A request is complete but for its body."""
        self._idle = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._idle = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._idle = 0
        super().on_message_complete()
