"""What a JSON body may cost: looked at before it is parsed, for parsing is what costs."""

from __future__ import annotations

from chattable.agents.errors import InvalidRequest

MAX_DEPTH = 100  # levels of arrays and objects
MAX_VALUES = 500_000  # items of arrays and fields of objects: embeddings of token ids have 300,000
MAX_PARTS = 100_000  # arrays, objects and keys, which cost far more than other values

KEPT = b'"[]{},:'
NOISE = bytes(set(range(256)) - set(KEPT))


class TooComplex(InvalidRequest):
    """A body that would cost too much to parse."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The request body {what}.", code="request_too_complex")


def check_bounds(body: bytes) -> None:
    """Raises `TooComplex` for JSON that is nested too deeply or has too many values; other mistakes are the parser's to find.

    Where a body is no JSON, it is exact up to the place where the parser would stop.
    """
    opened = body.count(b"[") + body.count(b"{")
    few = opened <= MAX_DEPTH
    if few and (len(body) <= MAX_PARTS or _within(body, opened)):  # counting what is said in texts as well
        return
    outline = _outline(body)
    opened = outline.count(b"[") + outline.count(b"{")
    if not _within(outline, opened):
        raise TooComplex(f"has too many values: at most {MAX_VALUES:,}, and {MAX_PARTS:,} arrays, objects and keys")
    if opened > MAX_DEPTH and _depth(outline) > MAX_DEPTH:
        raise TooComplex(f"is nested deeper than {MAX_DEPTH} levels")


def _within(text: bytes, opened: int) -> bool:
    return opened + text.count(b",") <= MAX_VALUES and opened + text.count(b":") <= MAX_PARTS


def _outline(body: bytes) -> bytes:
    """The brackets, commas and colons that stand outside of texts."""
    if b"\\" in body:
        body = body.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = body.translate(None, NOISE).replace(b'""', b"")  # most texts hold none of these
    if marks.count(b'"') > 2 * (MAX_VALUES + MAX_PARTS):
        raise TooComplex(f"has more than {MAX_VALUES + MAX_PARTS:,} texts")
    return b"".join(marks.split(b'"')[::2])


def _depth(outline: bytes) -> int:
    """How deep it is, or a number above `MAX_DEPTH`: each step takes the innermost level away."""
    left = outline.translate(bytes.maketrans(b"{}", b"[]"), b",:")
    for depth in range(MAX_DEPTH + 1):
        shorter = left.replace(b"[]", b"")
        if len(shorter) == len(left):
            return depth + len(left)  # what is left was never closed
        left = shorter
    return MAX_DEPTH + 1
