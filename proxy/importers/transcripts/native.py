"""Chattable's own format, which loses nothing: a line for the session and one for each message.

Messages of every branch are in it, and a last line counts them:

    {"object": "chattable.session", "version": 1, "id": "conv_…", "title": …, "head": "msg_…", …}
    {"object": "chattable.message", "id": "msg_…", "parent": null, "message": {"role": …}, …}
    {"object": "chattable.end", "id": "conv_…", "messages": 1}
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from chattable.agents.chat import Json, Usage
from chattable.agents.parsing import explain
from chattable.proxy.importers.transcripts.messages import message_of
from chattable.proxy.importers.transcripts.transcript import (
    ImportNotes,
    Node,
    Transcript,
    Unreadable,
    made,
)
from chattable.proxy.importers.transcripts.tree import MAX_MESSAGES, grown
from chattable.proxy.importers.transcripts.values import Value
from chattable.proxy.store.sessions.port import Item, SessionRecord, Summary

SESSION, MESSAGE, END = "chattable.session", "chattable.message", "chattable.end"
VERSION = 1
ROWS = "rows"  # where the lines of a conversation are put beside its session

_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Time = Annotated[float, Meta(ge=0, le=2**53)]


class _Session(Struct, kw_only=True):
    id: str = ""
    alias: str | None = None
    title: str | None = None
    model: str | None = None
    params: Json = {}
    state: Json = {}
    metadata: dict[str, str] = {}
    head: str | None = None
    summary: Summary | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    created_at: _Count = 0
    updated_at: _Time = 0


class _Row(Struct, kw_only=True):
    id: str
    message: Json
    parent: str | None = None
    speaker: str = ""
    tokens: _Count | None = None
    usage: Usage | None = None
    request_id: str = ""
    incomplete: bool = False
    side: bool = False
    created_at: _Count = 0


async def write(
    session: SessionRecord, batches: AsyncIterator[tuple[Item, ...]]
) -> AsyncIterator[bytes]:
    """The session and all its messages, a line each."""
    head: Json = {"object": SESSION, "version": VERSION} | msgspec.structs.asdict(session)
    yield line(
        head
        | {
            "usage": msgspec.to_builtins(session.usage),
            "summary": msgspec.to_builtins(session.summary),
        }
    )
    count = 0
    async for batch in batches:
        count += len(batch)
        yield b"".join(line(_row(item)) for item in batch)
    yield line({"object": END, "id": session.id, "messages": count})


def line(value: Any) -> bytes:
    """A value as a line of JSON; halves of characters, which no encoding takes, are escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _row(item: Item) -> Json:
    fields = msgspec.structs.asdict(item)
    del fields["position"]
    given = {
        "message": msgspec.to_builtins(item.message.to_json()),
        "usage": msgspec.to_builtins(item.usage),
    }
    return {"object": MESSAGE} | fields | given


def fits(value: Any) -> bool:
    """Says whether this is a line of ours."""
    return isinstance(value, dict) and value.get("object") in (SESSION, MESSAGE, END)


def gather(values: Iterator[Value]) -> Iterator[Value]:
    """Puts the lines of each conversation together; a line of none is one by itself."""
    now: Value | None = None
    for value in values:
        kind = value.value.get("object") if isinstance(value.value, dict) else None
        if kind == SESSION or now is None:
            if now is not None:
                yield now
                now = None
            if kind == SESSION:
                now = Value(value.line, {**value.value, ROWS: []})
            else:
                yield value
        elif len(now.value[ROWS]) <= MAX_MESSAGES + 1:
            now.value[ROWS].append(value)
    if now is not None:
        yield now


def read(raw: Json, notes: ImportNotes) -> Transcript:
    """A session with its lines."""
    _check_head(raw)
    given = _converted(_fields(raw, _Session), _Session)
    nodes = _nodes(raw.get(ROWS, []), notes)
    items, kept = grown(nodes, notes)
    if given.head is not None and given.head not in kept:
        raise Unreadable(
            f"The message {given.head!a:.100} is the head, but it is not there.", "head"
        )
    fields = msgspec.structs.asdict(given) | {"summary": _summary(given.summary, kept, notes)}
    del fields["id"], fields["head"]
    return made(items, kept[given.head], **fields)


def _check_head(raw: Json) -> None:
    if "object" in raw and raw["object"] != SESSION:
        raise Unreadable(
            "This line belongs to no conversation: the line of its session is missing before it.",
            "object",
        )
    if raw.get("version") != VERSION:
        raise Unreadable(
            f"This is of version {raw.get('version')!a:.40}, but only {VERSION} is known here.",
            "version",
        )


def _nodes(rows: list[Value], notes: ImportNotes) -> list[Node]:
    """The messages in the lines behind a session's; the last line says how many there are."""
    has_end = bool(rows) and fits(rows[-1].value) and rows[-1].value["object"] == END
    end = rows.pop() if has_end else None
    read_rows = [_node(row, index, notes) for index, row in enumerate(rows)]
    if end is None or end.value.get("messages") != len(rows):
        notes.add(
            "the lines of this conversation are not complete: the file was cut off or changed"
        )
    return [node for node in read_rows if node is not None]


def _summary(
    summary: Summary | None, kept: Mapping[str | None, str | None], notes: ImportNotes
) -> Summary | None:
    if summary is None:
        return None
    upto = kept.get(summary.upto)
    if upto is None:
        notes.add(
            f"the summary goes up to the message {summary.upto!a:.100}, which is not there: "
            "it is left out"
        )
    return None if upto is None else Summary(summary.text, upto)


def _node(row: Value, index: int, notes: ImportNotes) -> Node | None:
    try:
        if not fits(row.value) or row.value["object"] != MESSAGE:
            raise Unreadable(row.why or "it is neither a session, a message nor an end")
        given = _converted(_fields(row.value, _Row), _Row)
        fields = msgspec.structs.asdict(given) | {"message": message_of(given.message, roles=())}
        return Node(index=index, **fields)
    except Unreadable as error:
        notes.add(f"line {row.line} is left out: {error.message}", index)
        return None


def _fields(raw: Json, kind: type[Struct]) -> Json:
    return {name: raw[name] for name in kind.__struct_fields__ if name in raw}


def _converted(raw: Json, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        wrong = explain(error)
        raise Unreadable(wrong.message, wrong.param) from None
    except RecursionError:
        raise Unreadable("It is nested too deeply.") from None
