"""Puts streamed tool calls together, however an upstream numbers and repeats their pieces."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from chattable.agents.chat import Json

# kind of call → the field that its text comes in
ARGUMENTS_FIELD = {"function": "arguments", "custom": "input"}


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


class ToolCallAssembler:
    """Brings the tool calls of one choice into the form that every client library accepts.

    Law: a call is held back until its name is known; calls that are passed on are numbered from 0,
    and no two have the same id; id, type and name come once, with the first piece, and every piece
    has text of the arguments.
    """

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._out = 0

    def __bool__(self) -> bool:
        """Whether any call was passed on."""
        return self._out > 0

    def feed(self, pieces: list[Json]) -> list[Json]:
        """What these pieces add."""
        return [out for piece in pieces if (out := self._one(piece)) is not None]

    def _one(self, piece: Json) -> Json | None:
        kind = "custom" if "custom" in piece else "function"
        body = piece.get(kind) or {}
        text, name = _text(body.get(ARGUMENTS_FIELD[kind])), body.get("name") or ""
        at = self._find(piece.get("index"), piece.get("id") or None, name)
        if at is None:
            at = self._begin(piece, piece.get("type") or kind)
        call = self._open[at]
        if call.head is None:
            return {"index": call.number, call.kind: {ARGUMENTS_FIELD[call.kind]: text}}
        call.text += text
        if not name:
            return None
        head, call.head, call.name, call.number = call.head, None, name, self._out
        self._out += 1
        body = {**body, "name": name, ARGUMENTS_FIELD[call.kind]: call.text}
        return {**head, "index": call.number, "id": call.id, "type": call.kind, call.kind: body}

    def _find(self, index: Any, call_id: str | None, name: str) -> int | None:
        """Which call a piece belongs to; None: it begins one."""
        if isinstance(index, int):
            return self._find_by_index(index, call_id, name)
        if call_id is not None:
            return self._last(lambda call: call.given_id == call_id)
        if not self._open:
            return None
        last = self._open[-1].name
        return None if name and last and name != last else len(self._open) - 1

    def _find_by_index(self, index: int, call_id: str | None, name: str) -> int | None:
        at = self._last(lambda call: call.given_index == index)
        if at is None or not (name and self._open[at].name):
            return at
        if call_id is None:
            return at if name == self._open[at].name else None
        # some number all calls 0
        return self._last(lambda call: call.given_index == index and call.given_id == call_id)

    def _last(self, fits: Callable[[_Open], bool]) -> int | None:
        return next((at for at in range(len(self._open) - 1, -1, -1) if fits(self._open[at])), None)

    def _begin(self, piece: Json, kind: str) -> int:
        given = piece.get("id") or None
        taken = given is None or any(call.id == given for call in self._open)
        call_id = f"call_{secrets.token_hex(12)}" if taken else str(given)
        kind = kind if kind in ARGUMENTS_FIELD else "function"
        self._open.append(_Open(call_id, kind, piece.get("index"), given, head=piece))
        return len(self._open) - 1


def merge(calls: list[Json], pieces: list[Json]) -> list[Json]:
    """Adds assembled pieces to the whole calls that they belong to."""
    for piece in pieces:
        kind = "custom" if "custom" in piece else "function"
        if piece["index"] == len(calls):
            calls.append(piece | {kind: dict(piece[kind])})
        else:
            calls[piece["index"]][kind][ARGUMENTS_FIELD[kind]] += piece[kind][ARGUMENTS_FIELD[kind]]
    return calls


def _text(value: Any) -> str:
    """Arguments as text, also where they came as an object."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
