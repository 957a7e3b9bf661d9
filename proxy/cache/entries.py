"""What is kept of an answer, and sent of one under way: its chunks, as few as say the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from chattable.agents.chat import Chunk, Usage
from chattable.proxy.errors import Failure

VERSION: Literal[1] = 1  # another one where the form changes: what another version wrote is a miss
# a cut or filtered answer is not what the next one should get
COMPLETE_REASONS = frozenset({"stop", "tool_calls", "function_call"})
TEXT_FIELDS = ("content", "reasoning_content", "refusal")
MAX_TEXT_CHARS = 8192  # of a piece: some clients refuse long lines in a stream


class _Stored(Struct, array_like=True):
    """An answer as it is stored."""

    version: Literal[1]
    key: bytes
    chunks: list[Chunk]


class Batch(Struct, array_like=True):
    """A part of an answer under way, as one process sends it to others."""

    chunks: list[Chunk] = []
    whole: bool = False  # the answer ends with it
    failure: Failure | None = None  # it failed after it
    everybody: bool = False  # also for those who have not begun to read

    @property
    def is_last(self) -> bool:
        """Whether nothing follows; an empty one says: look again, it is kept or nobody asks."""
        return self.whole or self.failure is not None or not self.chunks


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode
_batch = msgspec.msgpack.Decoder(Batch).decode


def encode(key: bytes, chunks: Sequence[Chunk]) -> bytes:
    """An answer to store."""
    return _encode(_Stored(VERSION, key, compact(chunks)))


def decode(key: bytes, body: bytes) -> list[Chunk] | None:
    """A stored answer; None if it is of another version, of another key, or no answer at all."""
    try:
        kept = _decode(body)
    except (ValueError, RecursionError):
        return None
    return kept.chunks if kept.key == key and kept.chunks else None


def pack(batch: Batch) -> bytes:
    """A batch, on its way to another process."""
    return _encode(batch)


def unpack(packed: bytes) -> Batch:
    """The same on arrival; one that makes no sense, as another version's, is an empty one."""
    try:
        return _batch(packed)
    except (ValueError, RecursionError):
        return Batch()


def clean(chunks: Sequence[Chunk]) -> bool:
    """Whether an answer that came to its end is whole, and says something."""
    begun = {chunk.index for chunk in chunks if chunk.usage is None}
    ends = {chunk.index: chunk.finish_reason for chunk in chunks if chunk.finish_reason}
    if not begun or begun != ends.keys() or not COMPLETE_REASONS.issuperset(ends.values()):
        return False
    return any(value for chunk in chunks for name, value in chunk.delta.items() if name != "role")


def compact(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The same answer in fewer chunks: neighbouring pieces of one text are one."""
    out: list[Chunk] = []
    pieces: list[str] = []
    name, size = "", 0  # of the text that out[-1] begins; empty: it cannot grow

    def close() -> None:
        if len(pieces) > 1:
            last = out[-1]
            out[-1] = Chunk(last.index, {name: "".join(pieces)}, None, None, None, last.facts)

    for chunk in chunks:
        text = _text(chunk)
        if (
            text
            and text == name
            and chunk.index == out[-1].index
            and chunk.facts == out[-1].facts
            and size < MAX_TEXT_CHARS
        ):
            pieces.append(chunk.delta[text])
            size += len(pieces[-1])
            continue
        close()
        out.append(chunk)
        name, pieces = text, [chunk.delta[text]] if text else []
        size = len(pieces[0]) if pieces else 0
    close()
    return out


def usage_of(chunks: Sequence[Chunk]) -> Usage | None:
    """What an answer says it used; its last chunk does, if any."""
    return chunks[-1].usage if chunks else None


def _text(chunk: Chunk) -> str:
    """The one text that a chunk adds to, or nothing."""
    if len(chunk.delta) != 1 or chunk.finish_reason or chunk.logprobs or chunk.usage:
        return ""
    [(name, value)] = chunk.delta.items()
    return (
        name
        if name in TEXT_FIELDS and isinstance(value, str) and len(value) < MAX_TEXT_CHARS
        else ""
    )
