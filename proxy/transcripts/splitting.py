"""Cuts a file into the values it holds: a value a line, the members of an array, or one after the other.

Only brackets and quotes are looked at: one broken value costs nothing but itself, and no more of a
file is in memory than the value under way and what was read with its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from msgspec import Struct

from chattable.agents.errors import clip
from chattable.proxy.transcripts.transcript import Unreadable

CHUNK = 2**18
DEEPEST = 500_000  # brackets that may be open
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r\n"
WRONG = {
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
    for mark, what in WRONG.items():
        if head.startswith(mark):
            raise Unreadable(f"This is no JSON, but {what}.", code="unsupported_format")
    if head.startswith(b"["):
        source.read(1)
        return _nested(source, line, within=1)
    return _lines(source, line) if _is_lines(source) else _nested(source, line, within=0)


class _Source:
    """A stream that takes back what was read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ahead = stream.read(CHUNK).removeprefix(BOM)

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
            self._ahead = rest or self._stream.read(CHUNK)
            if rest or not self._ahead:
                return line


def _is_lines(source: _Source) -> bool:
    """Says whether each line is a value: the first is whole, or it is not and the second is."""
    first = source.readline()
    between = second = source.readline()
    while between and not between.strip():
        second = source.readline()
        between += second
    source.unread(first + between)
    whole = [line.startswith(b"{") and line.rstrip().endswith(b"}") for line in (first, second)]
    return any(whole) or not first.startswith(b"{")


def _lines(source: _Source, number: int) -> Iterator[Piece]:
    while line := source.readline():
        if line := line.strip(BLANK):
            yield Piece(number, line)
        number += 1


def _nested(source: _Source, line: int, within: int) -> Iterator[Piece]:
    """The values in a file, or with `within` in the array that has begun."""
    held: list[bytes] = []  # read before this chunk, and yet to be dealt with
    nest, chunk = _Nest(), source.read(CHUNK)
    while True:
        begin = 0
        resume = len(chunk)
        for found in TOKEN.finditer(chunk):
            mark, start = found[0], found.start()
            if mark == QUOTE:
                resume = start
                break
            if mark in OPENING:
                if not nest.depth:
                    between, begin = _taken(held, chunk[begin:start]), start
                    yield from _between(between, line)
                    line += between.count(b"\n")
                nest.open(mark)
            elif mark in CLOSING and nest.depth:
                nest.close(CLOSING[mark])
                if not nest.depth:
                    data, begin = _taken(held, chunk[begin : found.end()]), found.end()
                    yield Piece(line, data)
                    line += data.count(b"\n")
            elif mark == END and within:
                yield from _between(_taken(held, chunk[begin:start]), line)
                yield from _behind(source, chunk[found.end() :], line)
                return
        held.append(chunk[begin:resume])
        more = source.read(max(CHUNK, len(chunk) - resume))
        if not more:
            break
        chunk = chunk[resume:] + more
    rest = _taken(held, chunk[resume:])
    if nest.depth:
        yield Piece(line, rest[:CHUNK], "the file ends in the middle of it")
        return
    yield from _between(rest, line)
    if within:
        yield Piece(line, b"", "the file ends before its array does: what came here is missing")


class _Nest:
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
        if len(self._open) == DEEPEST:
            raise Unreadable(
                f"The file is nested more than {DEEPEST:,} levels deep.", code="unsupported_format"
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


def _taken(held: list[bytes], end: bytes) -> bytes:
    data = b"".join([*held, end])
    held.clear()
    return data


def _between(data: bytes, line: int) -> Iterator[Piece]:
    if junk := data.strip(BLANK + b","):
        yield Piece(line, junk[:CHUNK], f"expected an object, but here is {shown(junk)}")


def _behind(source: _Source, rest: bytes, line: int) -> Iterator[Piece]:
    rest = (rest + source.read(CHUNK)).strip(BLANK)
    if rest:
        yield Piece(line, rest, f"the array has ended, but here is {shown(rest)}")


def shown(data: bytes) -> str:
    """The beginning of some bytes, for an error message."""
    return f"`{clip(data[:200].decode(errors='replace'), 40)}`"
