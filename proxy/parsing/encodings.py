"""What a request's `Content-Encoding` may be."""

from __future__ import annotations

from litestar.exceptions import HTTPException

from chattable.adapters.encodings import KNOWN
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.errors import TooLargeError


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its encoding, at most `limit` bytes of it."""
    encoding = encoding.lower()
    if encoding == "identity":
        return body
    if encoding not in KNOWN:
        known = f"use one of {', '.join(KNOWN)}, or none"
        message = f"Content-Encoding '{clip(encoding)}' is not supported; {known}."
        raise HTTPException(message, status_code=415)
    unpacker = KNOWN[encoding]()
    try:
        plain = unpacker.feed(body, limit + 1)
    except ValueError as error:
        raise InvalidRequest(f"The request body is not valid {encoding}: {clip(error)}.") from None
    if len(plain) > limit:
        raise TooLargeError(limit)
    if not unpacker.done():
        raise InvalidRequest(
            f"The request body is not valid {encoding}: it has no end, or more behind it.",
        )
    return plain
