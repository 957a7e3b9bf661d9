"""Cuts a file into values: one a line, the members of an array, or one after the other.

Only brackets and quotes are looked at: one broken value costs nothing but itself, and no more of a
file is in memory than the value under way and what was read with its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from msgspec import Struct

from chattable.agents.errors import clip
from chattable.proxy.importers.transcripts.transcript import Unreadable

CHUNK_BYTES = 2**18
MAX_OPEN_BRACKETS = 500_000
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
NOT_JSON = {
    b"PK": "a zip archive: unpack it and import the JSON file in it",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"--": "a form: send the file itself as the body, as `curl --data-binary @FILE` does",
}
# a lone quote: the string's end is yet to be read
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.S)
QUOTE, END = b'"', b"]"
OPENING = (b"[", b"{")
CLOSING = {b"]": b"[", b"}": b"{"}
Cut = Literal["begin", "end", "end of array", "string without end"]


class Piece(Struct, frozen=True):
    """The bytes of one value, and the line they begin on; `why` says why they are none."""

    line: int
    data: bytes
    why: str = ""


def split(stream: BinaryIO) -> Iterator[Piece]:
    """The values in a file.

    Law: what is no value is a piece too, and says why; only what is no JSON at all is refused.
    """
    source = _Source(stream)
    line = source.skip_blank()
    head = source.peek(2)
    for mark, what in NOT_JSON.items():
        if head.startswith(mark):
            raise Unreadable(f"This is no JSON, but {what}.", code="unsupported_format")
    if head.startswith(b"["):
        source.read(1)
        return _Nested(source, line, in_array=True).pieces()
    if _is_lines(source):
        return _lines(source, line)
    return _Nested(source, line, in_array=False).pieces()


class _Source:
    """A stream that takes back what was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead = stream.read(CHUNK_BYTES).removeprefix(BOM)

    def read(self, size: int) -> bytes:
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        return taken or self._stream.read(size)

    def readline(self) -> bytes:
        end = self._ahead.find(b"\n") + 1 or len(self._ahead)
        line, self._ahead = self._ahead[:end], self._ahead[end:]
        return line if line.endswith(b"\n") else line + self._stream.readline()

    def unread(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    def peek(self, size: int) -> bytes:
        return self._ahead[:size]

    def skip_blank(self) -> int:
        """Goes to the first byte that says something, and returns the number of its line."""
        line = 1
        while True:
            rest = self._ahead.lstrip(BLANK)
            line += self._ahead.count(b"\n", 0, len(self._ahead) - len(rest))
            self._ahead = rest or self._stream.read(CHUNK_BYTES)
            if rest or not self._ahead:
                return line


def _is_lines(source: _Source) -> bool:
    """Says whether each line is a value: the first is whole, or it is not and the second is."""
    first = source.readline()
    behind = [source.readline()]
    while behind[-1].isspace():
        behind.append(source.readline())
    source.unread(first + b"".join(behind))
    whole = [line.startswith(b"{") and line.rstrip().endswith(b"}") for line in (first, behind[-1])]
    return any(whole) or not first.startswith(b"{")


def _lines(source: _Source, number: int) -> Iterator[Piece]:
    while line := source.readline():
        if line := line.strip(BLANK):
            yield Piece(number, line)
        number += 1


class _Nested:
    """Cuts out values by their brackets: those of a file, or of the array that has begun in it."""

    def __init__(self, source: _Source, line: int, *, in_array: bool) -> None:
        self._source = source
        self._line = line
        self._in_array = in_array
        self._brackets = _OpenBrackets()
        self._held: list[bytes] = []  # read before this chunk, and yet to be dealt with

    def pieces(self) -> Iterator[Piece]:
        unread = b""  # begins with a string whose end is yet to be read
        while more := self._source.read(max(CHUNK_BYTES, len(unread))):
            chunk, begin, end = unread + more, 0, len(unread) + len(more)
            for cut, at in self._cuts(chunk):
                if cut == "string without end":
                    end = at
                    break
                data, begin = self._taken(chunk[begin:at]), at
                if cut == "end":
                    yield Piece(self._line, data)
                else:
                    yield from self._between(data)
                if cut == "end of array":
                    yield from self._behind(chunk[at + len(END) :])
                    return
                self._line += data.count(b"\n")
            self._held.append(chunk[begin:end])
            unread = chunk[end:]
        yield from self._ended(self._taken(unread))

    def _cuts(self, chunk: bytes) -> Iterator[tuple[Cut, int]]:
        """Where a value begins and ends, and the array; and where there is no going on."""
        for found in TOKEN.finditer(chunk):
            mark = found[0]
            if mark == QUOTE:
                yield "string without end", found.start()
            elif mark in OPENING:
                if not self._brackets.depth:
                    yield "begin", found.start()
                self._brackets.open(mark)
            elif mark in CLOSING and self._brackets.depth:
                self._brackets.close(CLOSING[mark])
                if not self._brackets.depth:
                    yield "end", found.end()
            elif mark == END and self._in_array:
                yield "end of array", found.start()

    def _taken(self, last: bytes) -> bytes:
        data = b"".join([*self._held, last])
        self._held.clear()
        return data

    def _between(self, data: bytes) -> Iterator[Piece]:
        if junk := data.strip(BLANK + b","):
            why = f"expected an object, but here is {shown(junk)}"
            yield Piece(self._line, junk[:CHUNK_BYTES], why)

    def _behind(self, rest: bytes) -> Iterator[Piece]:
        if rest := (rest + self._source.read(CHUNK_BYTES)).strip(BLANK):
            yield Piece(self._line, rest, f"the array has ended, but here is {shown(rest)}")

    def _ended(self, rest: bytes) -> Iterator[Piece]:
        """What a file that ends here leaves over."""
        if self._brackets.depth:
            yield Piece(self._line, rest[:CHUNK_BYTES], "the file ends in the middle of it")
            return
        yield from self._between(rest)
        if self._in_array:
            why = "the file ends before its array does: what came here is missing"
            yield Piece(self._line, b"", why)


class _OpenBrackets:
    """The brackets that are open.

    Law: one that closes another than the last closes those behind it too, if it closes any.
    """

    def __init__(self) -> None:
        self._open = bytearray()
        self._count = {b"[": 0, b"{": 0}

    @property
    def depth(self) -> int:
        return len(self._open)

    def open(self, mark: bytes) -> None:
        if len(self._open) == MAX_OPEN_BRACKETS:
            raise Unreadable(
                f"The file is nested more than {MAX_OPEN_BRACKETS:,} levels deep.",
                code="unsupported_format",
            )
        self._open += mark
        self._count[mark] += 1

    def close(self, mark: bytes) -> None:
        if not self._count[mark]:
            return
        at = self._open.rfind(mark)
        for kind in self._count:
            self._count[kind] -= self._open.count(kind, at)
        del self._open[at:]


def shown(data: bytes) -> str:
    """The beginning of some bytes, for an error message."""
    return f"`{clip(data[:200].decode(errors='replace'), 40)}`"
