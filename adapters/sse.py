"""Decodes server-sent events as they arrive, however the bytes are cut."""

from __future__ import annotations

MAX_EVENT = 8 * 2**20  # bytes; a picture inside a chunk fits, an endless line does not


class EventTooLargeError(ValueError):
    """An event grew past `MAX_EVENT`."""


class SseDecoder:
    """Turns blocks of bytes into the data of whole events.

    Law: the events do not depend on how the blocks are cut; an event without its final blank line is never given out.
    Comments and the fields event, id and retry are passed over: no provider says anything there that its data does not.
    """

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._tail: list[bytes] = []  # pieces of the line that has no end yet
        self._data: list[bytes] = []  # lines of the event that has no end yet
        self._size = 0
        self._begun = False

    def feed(self, block: bytes) -> list[bytes]:
        """The data of every event that this block completes."""
        if not self._begun and block:
            block = b"".join((*self._tail, block))
            self._tail.clear()
            self._size = 0
            if len(block) < 3 and b"\xef\xbb\xbf".startswith(block):
                self._tail.append(block)
                return []
            self._begun = True
            block = block.removeprefix(b"\xef\xbb\xbf")
        if b"\n" not in block:
            self._keep(block)
            return []
        if self._tail:
            self._size -= sum(map(len, self._tail))  # counted again with their line
            block = b"".join((*self._tail, block))
            self._tail.clear()
        *lines, rest = block.split(b"\n")
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
            elif line in (b"", b"\r"):
                if self._data:
                    events.append(self._data[0].rstrip(b"\r") if len(self._data) == 1 else self._join())
                    self._data.clear()
                self._size = 0
        if rest:
            self._keep(rest)
        elif self._size > self._limit:
            raise EventTooLargeError
        return events

    def _join(self) -> bytes:
        return b"\n".join(line.rstrip(b"\r") for line in self._data)

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            raise EventTooLargeError
