"""Decodes AWS's binary event streams as they arrive, however the bytes are cut.

Their media type is application/vnd.amazon.eventstream.

A frame: its length, the length of its headers, a checksum of these eight bytes; headers, payload; a
checksum of all before it.
"""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec

from chattable.adapters.errors import InvalidUpstreamResponse
from chattable.adapters.sse import MAX_EVENT_BYTES, EventTooLarge

PRELUDE = struct.Struct(">III")
CHECK = struct.Struct(">I")
MIN_FRAME_BYTES = PRELUDE.size + CHECK.size  # bytes of a frame with nothing in it
# of header values, by type; the other types say theirs
SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
BYTES, STRING = 6, 7
# What a message is, and the header that names its kind.
NAMES = {"event": ":event-type", "exception": ":exception-type"}


class EventStreamDecoder:
    """Turns blocks of bytes into events, each as the JSON object `{kind: payload}`.

    Law: the events do not depend on how the blocks are cut; no byte is believed whose checksum is
    wrong.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._size = 0  # of the frame that has begun, once it is known

    def feed(self, block: bytes) -> list[bytes]:
        """Every event that this block completes."""
        self._rest += block
        events = []
        while self._next():
            frame = bytes(self._rest[: self._size])
            del self._rest[: self._size]
            self._size = 0
            events.append(_event(frame))
        return events

    def end(self) -> list[bytes]:
        """Nothing: half a frame says nothing."""
        return []

    def _next(self) -> bool:
        """Whether a whole frame is there."""
        if not self._size and len(self._rest) >= PRELUDE.size:
            size, headers, check = PRELUDE.unpack_from(self._rest)
            if (
                crc32(self._rest[: PRELUDE.size - CHECK.size]) != check
                or MIN_FRAME_BYTES + headers > size
            ):
                raise InvalidUpstreamResponse("sent an event whose beginning is damaged")
            if size > self._limit:
                raise EventTooLarge
            self._size = size
        return bool(self._size) and len(self._rest) >= self._size


def _event(frame: bytes) -> bytes:
    if crc32(frame[: -CHECK.size]) != CHECK.unpack_from(frame, len(frame) - CHECK.size)[0]:
        raise InvalidUpstreamResponse("sent an event that is damaged")
    start = PRELUDE.size + PRELUDE.unpack_from(frame)[1]
    try:
        headers = _headers(frame[PRELUDE.size : start])
    except (IndexError, KeyError, ValueError, struct.error):
        raise InvalidUpstreamResponse("sent an event whose headers are damaged") from None
    kind = headers.get(":message-type", "event")
    if kind == "error":
        error = {
            "code": headers.get(":error-code", ""),
            "message": headers.get(":error-message", ""),
        }
        return msgspec.json.encode({"error": error})
    name = headers.get(NAMES.get(kind, ""), "")
    return b"{%b:%b}" % (msgspec.json.encode(name), frame[start : -CHECK.size] or b"{}")


def _headers(data: bytes) -> dict[str, str]:
    """The headers that are text; others are passed over."""
    headers, at = {}, 0
    while at < len(data):
        name = data[at + 1 : (at := at + 1 + data[at])].decode()
        kind = data[at]
        if kind in (BYTES, STRING):
            (size,) = struct.unpack_from(">H", data, at + 1)
            at += 3
        else:
            size, at = SIZES[kind], at + 1
        if at + size > len(data):
            raise IndexError
        if kind == STRING:
            headers[name] = data[at : at + size].decode()
        at += size
    return headers
