"""Tool calls that come in pieces: however an upstream numbers and repeats them, one form comes out."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from chattable.agents.chat import Json

TEXT = {"function": "arguments", "custom": "input"}  # kind of call → the field that grows


class _Open(Struct):
    """One call that has begun."""

    id: str
    kind: str
    given_index: Any  # what the upstream calls it
    given_id: str | None
    name: str = ""
    head: Json | None = None  # its first piece, until its name is known
    text: str = ""
    number: int = -1  # among those that came out


class Calls:
    """Brings the tool calls of one choice into the form that every client's accumulator accepts.

    Law: a call is held back until its name is known; those that come out are numbered from 0, and
    no two have the same id; id, type and name come once, with the first piece, and the text of the
    arguments with every one.
    """

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._out = 0

    def __bool__(self) -> bool:
        """Whether any call has come out."""
        return self._out > 0

    def feed(self, pieces: list[Json]) -> list[Json]:
        """What these pieces add."""
        return [out for piece in pieces if (out := self._one(piece)) is not None]

    def _one(self, piece: Json) -> Json | None:
        kind = "custom" if "custom" in piece else "function"
        body = piece.get(kind) or {}
        text, name = _text(body.get(TEXT[kind])), body.get("name") or ""
        at = self._find(piece.get("index"), piece.get("id") or None, name)
        if at is None:
            at = self._begin(piece, piece.get("type") or kind)
        call = self._open[at]
        if call.head is None:
            return {"index": call.number, call.kind: {TEXT[call.kind]: text}}
        call.text += text
        if not name:
            return None
        head, call.head, call.name, call.number = call.head, None, name, self._out
        self._out += 1
        body = {**body, "name": name, TEXT[call.kind]: call.text}
        return {**head, "index": call.number, "id": call.id, "type": call.kind, call.kind: body}

    def _find(self, index: Any, call_id: str | None, name: str) -> int | None:
        """Which call a piece belongs to; None: it begins one."""
        if isinstance(index, int):
            at = self._last(lambda call: call.given_index == index)
            if at is None or not (name and self._open[at].name):
                return at
            if call_id is None:
                return at if name == self._open[at].name else None
            # some number all calls 0
            return self._last(lambda call: call.given_index == index and call.given_id == call_id)
        if call_id is not None:
            return self._last(lambda call: call.given_id == call_id)
        last = self._open[-1] if self._open else None
        return (
            None
            if last is None or (name and last.name and name != last.name)
            else len(self._open) - 1
        )

    def _last(self, fits: Callable[[_Open], bool]) -> int | None:
        return next((at for at in range(len(self._open) - 1, -1, -1) if fits(self._open[at])), None)

    def _begin(self, piece: Json, kind: str) -> int:
        given = piece.get("id") or None
        taken = given is None or any(call.id == given for call in self._open)
        call_id = f"call_{secrets.token_hex(12)}" if taken else str(given)
        self._open.append(
            _Open(
                call_id, kind if kind in TEXT else "function", piece.get("index"), given, head=piece
            )
        )
        return len(self._open) - 1


def merge(calls: list[Json], pieces: list[Json]) -> list[Json]:
    """Whole calls out of pieces in their one form."""
    for piece in pieces:
        kind = "custom" if "custom" in piece else "function"
        if piece["index"] == len(calls):
            calls.append(piece | {kind: dict(piece[kind])})
        else:
            calls[piece["index"]][kind][TEXT[kind]] += piece[kind][TEXT[kind]]
    return calls


def _text(value: Any) -> str:
    """Arguments as text, also where they came as an object."""
    return (
        value
        if isinstance(value, str)
        else ""
        if value is None
        else msgspec.json.encode(value).decode()
    )
