"""Decodes server-sent events as they arrive, however the bytes are cut."""

from __future__ import annotations

import msgspec

MAX_EVENT = 8 * 2**20  # bytes; a picture inside a chunk fits, an endless line does not


class EventTooLargeError(ValueError):
    """An event grew past `MAX_EVENT`."""


class SseDecoder:
    """Turns blocks of bytes into the data of whole events.

    Law: the events do not depend on how the blocks are cut; a line ends with CR, LF or both, as the
    standard says. Comments, empty data and the fields id and retry are passed over. The data of an
    event that is named `error` says so, whatever its form.
    """

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._tail: list[bytes] = []  # pieces of the line that has no end yet
        self._data: list[bytes] = []  # lines of the event that has no end yet
        self._size = 0
        self._begun = False
        self._cr = False  # whether the last line ended with a CR, whose LF may be still to come
        self._failed = False  # whether the event is named `error`

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
        if self._cr and block:
            self._cr = False
            block = block.removeprefix(b"\n")
        if b"\r" in block:
            self._cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
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
            elif not line:
                if self._data or self._failed:
                    event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data.clear()
                    if self._failed:
                        self._failed, event = False, _error(event)
                    if event and not event.isspace():
                        events.append(event)
                self._size = 0
            elif line.startswith(b"event:"):
                self._failed = line[6:].strip() == b"error"
        if rest:
            self._keep(rest)
        elif self._size > self._limit:
            raise EventTooLargeError
        return events

    def end(self) -> list[bytes]:
        """The event that a stream ended in without a blank line behind it."""
        return self.feed(b"\n\n")

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            raise EventTooLargeError


def _error(data: bytes) -> bytes:
    """The data of an event that is named `error`, as an object that says so."""
    try:
        raw = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raw = data.decode(errors="replace")
    if isinstance(raw, dict) and raw.get("error"):
        return data
    return msgspec.json.encode({"error": raw or "error"})
