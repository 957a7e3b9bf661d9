"""What a request's `Content-Encoding` may be: each undone by a library that can stop at a size."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable

from litestar.exceptions import HTTPException

from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.errors import TooLargeError

WINDOW = 23  # log2 of the memory that zstd may need: what every HTTP client keeps to (RFC 9659)


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its encoding, at most `limit` bytes of it."""
    encoding = encoding.lower()
    if encoding == "identity":
        return body
    undo = KNOWN.get(encoding)
    if undo is None:
        known = f"use one of {', '.join(KNOWN)}, or none"
        message = f"Content-Encoding '{clip(encoding)}' is not supported; {known}."
        raise HTTPException(message, status_code=415)
    try:
        plain, whole = undo(body, limit + 1)
    except (zlib.error, ValueError) as error:
        raise InvalidRequest(f"The request body is not valid {encoding}: {clip(error)}.") from None
    if len(plain) > limit:
        raise TooLargeError(limit)
    if not whole:
        raise InvalidRequest(
            f"The request body is not valid {encoding}: it has no end, or more behind it.",
        )
    return plain


def _zlib(body: bytes, most: int) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    return inflater.decompress(body, most), inflater.eof and not inflater.unused_data


def _zstd(body: bytes, most: int) -> tuple[bytes, bool]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    reader = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW})
    try:
        return reader.decompress(body, most), reader.eof and not reader.unused_data
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None


def _brotli(body: bytes, most: int) -> tuple[bytes, bool]:
    import brotli  # type: ignore[import-untyped]

    reader = brotli.Decompressor()
    try:
        return reader.process(body, output_buffer_limit=most), reader.is_finished()
    except brotli.error as error:
        raise ValueError(str(error)) from None


KNOWN: dict[str, Callable[[bytes, int], tuple[bytes, bool]]] = {
    "gzip": _zlib,
    "deflate": _zlib,
    "zstd": _zstd,
    "br": _brotli,
}
