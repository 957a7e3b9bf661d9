"""The values of a file, decoded one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from msgspec import Struct

from chattable.proxy.importers.transcripts.decoding import decode
from chattable.proxy.importers.transcripts.splitting import split
from chattable.proxy.importers.transcripts.transcript import Unreadable


class Value(Struct):
    """A value and the line it begins on; `why` says why there is none."""

    line: int
    value: Any = None
    why: str = ""
    code: str = "invalid_json"


def values_in(stream: BinaryIO) -> Iterator[Value]:
    """Every value, broken ones too."""
    for piece in split(stream):
        if piece.why:
            yield Value(piece.line, why=piece.why)
            continue
        try:
            yield Value(piece.line, decode(piece.data))
        except Unreadable as error:
            yield Value(piece.line, why=error.message, code=error.code)
