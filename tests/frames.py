"""AWS's event streams as a server writes them."""

import json
import struct
from typing import Any
from zlib import crc32


def header(name: str, value: str) -> bytes:
    return (
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value.encode()))
        + value.encode()
    )


def frame(headers: bytes, payload: bytes) -> bytes:
    """One message: two lengths and their checksum, headers, payload, and a checksum of it all."""
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))


def event(kind: str, body: Any) -> bytes:
    """An event or, by its name, an exception."""
    is_error = kind.endswith("Exception")
    headers = header(":exception-type" if is_error else ":event-type", kind) + header(
        ":content-type", "application/json"
    )
    headers += header(":message-type", "exception" if is_error else "event")
    return frame(headers, json.dumps(body, ensure_ascii=False).encode())


def framed(lines: bytes) -> bytes:
    """A stream of which every line is an object with one field, named for the event."""
    return b"".join(
        event(kind, body) for line in lines.splitlines() for kind, body in json.loads(line).items()
    )
