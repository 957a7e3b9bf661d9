"""Decodes a stream of JSON lines as they arrive, however the bytes are cut."""

from __future__ import annotations

from chattable.adapters.sse import MAX_EVENT_BYTES, EventTooLarge


class LineDecoder:
    """Turns blocks of bytes into whole lines.

    Law: the lines do not depend on the cuts; empty ones are none.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._tail: list[bytes] = []  # pieces of the line that has no end yet
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        """Every line that this block completes."""
        first, newline, rest = block.partition(b"\n")
        if newline:
            lines = [b"".join((*self._tail, first)), *rest.split(b"\n")]
            first, self._tail, self._size = lines.pop(), [], 0
        else:
            lines = []
        if first:
            self._tail.append(first)
            self._size += len(first)
        if self._size > self._limit:
            raise EventTooLarge
        return [line for line in lines if line.strip()]

    def end(self) -> list[bytes]:
        """The line that a stream ended in."""
        return self.feed(b"\n")
