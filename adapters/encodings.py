"""Content encodings, each undone piece by piece by a library that can stop at a size."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from chattable.adapters.errors import InvalidUpstreamResponse
from chattable.adapters.transport import InvalidHttp, Response

MAX_ZSTD_WINDOW_LOG2 = (
    23  # log2 of the memory that zstd may need: what every HTTP client keeps to (RFC 9659)
)
MAX_PIECE_BYTES = 2**20  # of a body, unpacked at a time
MAX_ENCODINGS = 2  # encodings on top of each other


class Unpacker(Protocol):
    """Undoes one encoding."""

    def feed(self, data: bytes, most: int) -> bytes:
        """What these bytes unpack to, at most so many; the rest comes with the next call.

        Raises `ValueError`.
        """
        ...

    def done(self) -> bool:
        """Whether the end has come, and nothing behind it."""
        ...


class _Zlib:
    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header

    def feed(self, data: bytes, most: int) -> bytes:
        try:
            return self._inflater.decompress(self._inflater.unconsumed_tail + data, most)
        except zlib.error as error:
            raise ValueError(str(error)) from None

    def done(self) -> bool:
        return self._inflater.eof and not self._inflater.unused_data


class _Zstd:
    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        self._error: Any = zstd.ZstdError
        self._reader = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: MAX_ZSTD_WINDOW_LOG2}
        )

    def feed(self, data: bytes, most: int) -> bytes:
        if self._reader.eof:
            return b""
        try:
            return self._reader.decompress(data, most)
        except self._error as error:
            raise ValueError(str(error)) from None

    def done(self) -> bool:
        return self._reader.eof and not self._reader.unused_data


class _Brotli:
    def __init__(self) -> None:
        import brotli

        self._error: Any = brotli.error
        self._reader = brotli.Decompressor()
        self._waiting = b""

    def feed(self, data: bytes, most: int) -> bytes:
        self._waiting += data
        try:
            if not self._reader.can_accept_more_data():
                out: bytes = self._reader.process(b"", output_buffer_limit=most)
                return out
            data, self._waiting = self._waiting, b""
            out = self._reader.process(data, output_buffer_limit=most)
        except self._error as error:
            raise ValueError(str(error)) from None
        return out

    def done(self) -> bool:
        return bool(self._reader.is_finished()) and not self._waiting


KNOWN: dict[str, Callable[[], Unpacker]] = {
    "gzip": _Zlib,
    "deflate": _Zlib,
    "zstd": _Zstd,
    "br": _Brotli,
}


def unpacked(response: Response, encoding: str) -> Response:
    """The response with its body unpacked; reading it may raise `InvalidUpstreamResponse`."""
    names = [name.strip().removeprefix("x-") for name in encoding.lower().split(",")]
    names = [name for name in names if name not in ("", "identity")]
    for name in reversed(names):
        undo = KNOWN.get(name) if len(names) <= MAX_ENCODINGS else None
        response = _Unpacked(response, undo and undo())
    return response


class _Unpacked:
    """A response whose body is unpacked as it comes, in pieces of a bounded size."""

    def __init__(self, packed: Response, unpacker: Unpacker | None) -> None:
        self.status = packed.status
        self.headers = packed.headers
        self.head = packed.head
        self.close = packed.close
        self._packed = packed
        self._unpacker = unpacker

    async def read(self, seconds: float) -> bytes:
        if self._unpacker is None:
            raise InvalidUpstreamResponse("sent a compressed answer that nobody asked for")
        block, until = b"", time.monotonic() + seconds
        try:
            while not (piece := self._unpacker.feed(block, MAX_PIECE_BYTES)):
                if not (block := await self._packed.read(until - time.monotonic())):
                    break
        except ValueError:
            raise InvalidUpstreamResponse("sent a compressed answer that is damaged") from None
        if not piece and not self._unpacker.done():
            raise InvalidHttp("the compressed body has no end")
        return piece
