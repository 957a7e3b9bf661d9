"""Decodes server-sent events as they arrive, however the bytes are cut."""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = 8 * 2**20  # a picture inside a chunk fits, an endless line does not
MARK = b"\xef\xbb\xbf"  # of the byte order


class EventTooLarge(ValueError):
    """An event grew past `MAX_EVENT_BYTES`."""


class SseDecoder:
    """Turns blocks of bytes into the data of whole events.

    Law: the events do not depend on how the blocks are cut; a line ends with CR, LF or both, as the
    standard says. Comments, empty data and the fields id and retry are passed over. The data of an
    event that is named `error` says so, whatever its form.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
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
            block = self._without_mark(block)
        if (self._cr and block) or b"\r" in block:
            block = self._with_newlines(block)
        if b"\n" not in block:
            self._keep(block)
            return []
        if self._tail:
            self._size -= sum(map(len, self._tail))  # counted again with their line
            block = b"".join((*self._tail, block))
            self._tail.clear()
        *lines, rest = block.split(b"\n")
        events = self._events(lines)
        if rest:
            self._keep(rest)
        elif self._size > self._limit:
            raise EventTooLarge
        return events

    def _without_mark(self, block: bytes) -> bytes:
        """The first bytes without a byte order mark; nothing while they may be the half of one."""
        block = b"".join((*self._tail, block))
        self._tail.clear()
        self._size = 0
        if len(block) < len(MARK) and MARK.startswith(block):
            self._tail.append(block)
            return b""
        self._begun = True
        return block.removeprefix(MARK)

    def _with_newlines(self, block: bytes) -> bytes:
        """The block with LF at the end of every line."""
        if self._cr:
            self._cr = False
            block = block.removeprefix(b"\n")
        if b"\r" in block:
            self._cr = block.endswith(b"\r")
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return block

    def _events(self, lines: list[bytes]) -> list[bytes]:
        """The data of the events that end in these lines."""
        events = []
        for line in lines:
            if line[:5] == b"data:":
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
            elif line:
                if line.startswith(b"event:"):
                    self._failed = line[6:].strip() == b"error"
            else:
                if len(self._data) > 1 or self._failed:
                    self._join()
                event = b"".join(self._data)
                self._data.clear()
                if event and not event.isspace():
                    events.append(event)
                self._size = 0
        return events

    def _join(self) -> None:
        """Makes the lines of an event one, and an error of it where that is its name."""
        event = b"\n".join(self._data)
        self._data = [_error(event) if self._failed else event]
        self._failed = False

    def end(self) -> list[bytes]:
        """The event that a stream ended in without a blank line behind it."""
        return self.feed(b"\n\n")

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            raise EventTooLarge


def _error(data: bytes) -> bytes:
    """The data of an event that is named `error`, as an object that says so."""
    try:
        raw = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        raw = data.decode(errors="replace")
    if isinstance(raw, dict) and raw.get("error"):
        return data
    return msgspec.json.encode({"error": raw or "error"})
