"""The size of a picture in base64, from the bytes that say it: the rest is not decoded."""

from __future__ import annotations

import re
from binascii import a2b_base64

import imagesize

MAX_READ_BYTES = 65_536  # bytes of a picture that are looked at
MAX_READS = 2_000  # steps: a JPEG is a chain of segments, which nobody has to make long
# PNG, JPEG, GIF, WebP, HEIC and AVIF. Others no vendor takes, and their readers do more than these.
FORMATS = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|....ftyp", re.DOTALL)


class Encoded:
    """Base64 text from `start` on as a file, which decodes what is read of it and no more.

    After `MAX_READ_BYTES` bytes or `MAX_READS` reads it is as if it had ended.
    """

    def __init__(self, text: str, start: int = 0) -> None:
        self._text, self._start = text, start
        padding = 2 if text.endswith("==") else 1 if text.endswith("=") else 0
        self.size = max(0, (len(text) - start) * 3 // 4 - padding)
        self._at = self._read = self._reads = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes; raises `binascii.Error` where they are no base64."""
        self._reads += 1
        left = min(self.size - self._at, MAX_READ_BYTES - self._read)
        size = left if size < 0 else min(size, left)
        if size <= 0 or self._reads > MAX_READS:
            return b""
        first, last = self._at // 3, -(-(self._at + size) // 3)
        piece = self._text[self._start + 4 * first : self._start + 4 * last]
        data = a2b_base64(piece, strict_mode=True)[self._at - 3 * first :][:size]
        self._at += len(data)
        self._read += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a place, as files do."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at


def picture_size(text: str, start: int = 0) -> tuple[int, int] | None:
    """Width and height in pixels of a picture in base64; None where its header does not say."""
    file = Encoded(text, start)
    try:
        if FORMATS.match(file.read(16)) is None:
            return None
    except ValueError:
        return None
    width, height = imagesize.get(file, exif_rotation=False)
    return (width, height) if width > 0 and height > 0 else None
