"""What JSON from outside may cost: looked at before it is parsed, for parsing is what costs."""

from __future__ import annotations

from msgspec import Struct

from chattable.agents.errors import InvalidRequest

MAX_DEPTH = 100  # levels of arrays and objects
MAX_VALUES = 500_000  # commas and brackets: embeddings of token ids have 300,000
MAX_PARTS = 100_000  # arrays, objects and keys, which cost far more than other values

SHORTEST_KEY = 4  # bytes, with its value

KEPT = b'"[]{},:'
NOISE = bytes(set(range(256)) - set(KEPT))
AS_ARRAYS = bytes.maketrans(b"{}", b"[]")


class TooComplex(InvalidRequest):
    """JSON that would cost too much to parse."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The request body {what}.", code="request_too_complex")
        self.what = what


class Bounds(Struct, frozen=True, kw_only=True):
    """How much JSON may hold; None: of whatever depth."""

    depth: int | None
    values: int
    parts: int

    def check(self, body: bytes) -> None:
        """Raises `TooComplex` for too much; other mistakes are the parser's to find.

        What is said in texts does not count. Of what is no JSON, all counts up to the place
        where a parser stops.
        """
        most = None if self.depth is None else self.depth + 1
        opened = _count(body, b"[", most) + _count(body, b"{", most)
        if self.depth is None or opened <= self.depth:
            # a key is four bytes with its quotes and its value, a comma stands for one at least
            few = len(body) <= min(SHORTEST_KEY * (self.parts - opened), self.values - opened)
            if few or self._has_room(body, opened):
                return  # whatever stands in texts
        outline = self._outline(body)
        opened = outline.count(b"[") + outline.count(b"{")
        if not self._has_room(outline, opened):
            of_these = f"{self.parts:,} arrays, objects and keys"
            raise TooComplex(f"has too many values: at most {self.values:,}, and {of_these}")
        if self.depth is not None and opened > self.depth and _deeper(outline, self.depth):
            raise TooComplex(f"is nested deeper than {self.depth} levels")

    def _has_room(self, text: bytes, opened: int) -> bool:
        values, parts = opened + text.count(b","), opened + text.count(b":")
        return values <= self.values and parts <= self.parts

    def _outline(self, body: bytes) -> bytes:
        """The brackets, commas and colons that stand outside of texts."""
        if b"\\" in body:
            body = body.replace(rb"\\", b"").replace(rb"\"", b"")
        marks = body.translate(None, NOISE).replace(b'""', b"")  # most texts hold none of these
        most = self.values + self.parts
        if marks.count(b'"') > 2 * most:
            raise TooComplex(f"has more than {most:,} texts")
        return b"".join(marks.split(b'"')[::2])


def _count(body: bytes, mark: bytes, most: int | None) -> int:
    """How often a byte occurs; up to `most` times, for finding a few is quicker than counting."""
    if most is None:
        return body.count(mark)
    found, at = 0, body.find(mark)
    while at >= 0 and found < most:
        found, at = found + 1, body.find(mark, at + 1)
    return found


def _deeper(outline: bytes, depth: int) -> bool:
    """Whether anything is nested deeper: each step takes the innermost level away."""
    left = outline.translate(AS_ARRAYS, b",:")
    for _ in range(depth):
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            break  # what is left was never closed
        left = shorter
    return b"[]" in left or len(left) > depth


REQUEST = Bounds(depth=MAX_DEPTH, values=MAX_VALUES, parts=MAX_PARTS)
FILE = Bounds(depth=None, values=1_000_000, parts=1_000_000)  # one conversation that is imported
