"""LibreChat's export: one conversation a file, whose messages name their parents or are nested.

A message has its words in `text` or, where an agent spoke, in parts (`content`), among them
thoughts and calls with results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from chattable.agents.chat import Json, Message
from chattable.proxy.importers.transcripts.fields import (
    moment,
    object_in,
    objects_in,
    said_in,
    stand_in,
    text_in,
    whole,
)
from chattable.proxy.importers.transcripts.messages import (
    Step,
    arguments_text,
    joined,
    json_kind,
    messages_of,
)
from chattable.proxy.importers.transcripts.transcript import (
    ImportNotes,
    Node,
    Transcript,
    Unreadable,
    made,
)
from chattable.proxy.importers.transcripts.tree import bounded, branch, grown, instructions

NO_PARENT = "00000000-0000-0000-0000-000000000000"
SYSTEM = "system"  # the id of the message that begins a conversation with instructions
KNOWN = (
    "conversationId", "endpoint", "title", "exportAt", "branches", "recursive", "options",
    "messages", "messagesTree",
    "createdAt",
)  # fmt: skip
OPTIONS = (
    "model",
    "promptPrefix",
    "system",
    "title",
    "endpoint",
    "endpointType",
    "presetId",
    "conversationId",
    "messages",
)
# What says how LibreChat stored or showed a message, not what it says.
BOOKKEEPING = (
    "_id", "__v", "messageId", "conversationId", "parentMessageId", "createdAt", "updatedAt",
    "endpoint", "isCreatedByUser",
    "isEdited", "model", "sender", "text", "content", "children", "user", "unfinished", "error",
    "finish_reason", "tokenCount",
    "files", "attachments", "iconURL", "depth", "siblingIndex", "_meiliIndex", "role",
)  # fmt: skip
FILES = ("files", "attachments")


class NestedMessage(Struct, frozen=True):
    """A message in the file; `above` is the id of the one it is nested in."""

    index: int
    id: str
    raw: Any
    above: str | None


def fits(value: Any) -> bool:
    """Says whether this is a conversation of this format."""
    if not isinstance(value, dict):
        return False
    return "messagesTree" in value or (
        "conversationId" in value and isinstance(value.get("messages"), list)
    )


def read(raw: Json, notes: ImportNotes) -> Transcript:
    """One conversation; its head is the newest message."""
    messages = _listed(raw)
    options = object_in(raw, "options")
    system = joined(text_in(options, "promptPrefix"), text_in(options, "system"))
    nodes = instructions(SYSTEM, system)
    root = nodes[0].id if nodes else None
    ends: list[Node] = []  # of the messages: one that is several has the id at its end
    for found in _flat(messages):
        bounded(ends)
        before = ends[-1].id if ends else root
        node = _node(found, before, root, notes)
        nodes += branch(node, _messages(found, node, notes))
        ends.append(node)
    items, kept = grown(nodes, notes)
    notes.lost([*said_in(raw, KNOWN), *said_in(options, OPTIONS, "options.")])
    speakers = filter(None, (node.speaker for node in reversed(ends)))
    times = filter(None, (node.created_at for node in ends))
    return made(
        items,
        kept[_newest(ends, root)],
        title=text_in(raw, "title") or text_in(options, "title") or None,
        model=text_in(options, "model") or next(speakers, None),
        created_at=moment(raw.get("createdAt")) or next(times, 0),
    )


def _listed(raw: Json) -> list[Any]:
    name = "messagesTree" if "messagesTree" in raw else "messages"
    messages = raw.get(name)
    if not isinstance(messages, list):
        raise Unreadable(f"'{name}' must be an array of messages, not {json_kind(messages)}.", name)
    return messages


def _newest(ends: list[Node], root: str | None) -> str | None:
    there = [node for node in ends if node.message is not None]
    newest = max(there, key=lambda node: (node.created_at, node.index), default=None)
    return root if newest is None else newest.id


def _flat(messages: list[Any]) -> Iterator[NestedMessage]:
    """The messages, nested ones behind those they are nested in, however deep."""
    todo: list[tuple[Any, str | None]] = [(one, None) for one in reversed(messages)]
    index = 0
    while todo:
        raw, above = todo.pop()
        fields: Json = raw if isinstance(raw, dict) else {}
        found = NestedMessage(index, text_in(fields, "messageId") or f"#{index}", raw, above)
        yield found
        children = fields.get("children")
        todo += [
            (child, found.id) for child in reversed(children if isinstance(children, list) else [])
        ]
        index += 1


def _node(found: NestedMessage, before: str | None, root: str | None, notes: ImportNotes) -> Node:
    """The message's place: what it is nested in, what it names, or else the message before."""
    raw: Json = found.raw if isinstance(found.raw, dict) else {}
    parent = raw.get("parentMessageId", before if found.above is None else None)
    if found.above is not None:
        parent = found.above
    elif parent in (None, "", NO_PARENT):
        parent = root
    elif not isinstance(parent, str):
        notes.add(f"its parent is {json_kind(parent)}: it begins a branch", found.index, found.id)
        parent = root
    node = Node(
        id=found.id, parent=parent, index=found.index, created_at=moment(raw.get("createdAt"))
    )
    if not raw.get("isCreatedByUser"):
        node.speaker = text_in(raw, "model") or text_in(raw, "sender")
    node.tokens = whole(raw.get("tokenCount"))
    node.incomplete = raw.get("unfinished") is True
    return node


def _messages(found: NestedMessage, node: Node, notes: ImportNotes) -> list[Message]:
    if not isinstance(found.raw, dict):
        notes.add(f"left out: expected an object, not {json_kind(found.raw)}", found.index)
        return []
    raw: Json = found.raw
    notes.lost(said_in(raw, BOOKKEEPING))
    if raw.get("error") is True:
        notes.add("LibreChat marks this message as an error", found.index, found.id)
    steps = [*_steps(raw, found, notes), *_files(raw, found, notes)]
    if not steps:
        notes.add("left out: it says nothing", found.index, found.id)
    if _is_user(raw):
        return [Message("user", joined(*(step.text for step in steps)))] if steps else []
    return messages_of(steps)


def _is_user(raw: Json) -> bool:
    said = raw.get("isCreatedByUser")
    return said if isinstance(said, bool) else text_in(raw, "role", "sender").lower() == "user"


def _steps(raw: Json, found: NestedMessage, notes: ImportNotes) -> list[Step]:
    """The message's parts, or without any its text."""
    content = raw.get("content")
    steps = []
    for number, part in enumerate(content if isinstance(content, list) else []):
        if isinstance(part, dict):
            steps += _step(part, f"call_{found.index}_{number}", found, notes)
        elif isinstance(part, str):
            steps.append(Step("text", part))
    words = text_in(raw, "text") or (content if isinstance(content, str) else "")
    return steps or ([Step("text", words)] if words else [])


# as in Step
def _step(
    part: Json,
    id: str,  # noqa: A002
    found: NestedMessage,
    notes: ImportNotes,
) -> list[Step]:
    kind = text_in(part, "type")
    if kind in ("text", "think"):
        words = text_in(part, kind) or text_in(object_in(part, kind), "value")
        return [Step("text" if kind == "text" else "thought", words)] if words else []
    if kind == "tool_call":
        return _call(object_in(part, "tool_call"), id)
    if kind == "error":
        words = text_in(object_in(part, "error"), "message")
        return [Step("text", stand_in("error", part.get("error"), words))]
    inner = object_in(part, kind)
    name = text_in(inner, "filename", "filepath", "file_id", "url")
    shown = stand_in(kind or "part", "" if name.startswith("data:") else name)
    notes.add(f"the part {shown} is kept as these words", found.index, found.id)
    return [Step("text", shown)]


def _call(given: Json, spare_id: str) -> list[Step]:
    """The call of a tool, and what it said."""
    function = object_in(given, "function")
    id = text_in(given, "id") or spare_id  # noqa: A001 - as in Step
    asked = arguments_text(given.get("args", function.get("arguments")))
    called = Step("call", asked, id, text_in(given, "name") or text_in(function, "name"))
    answer = given.get("output", function.get("output"))
    return [called] if answer is None else [called, Step("result", arguments_text(answer), id)]


def _files(raw: Json, found: NestedMessage, notes: ImportNotes) -> list[Step]:
    steps = []
    for file in (one for name in FILES for one in objects_in(raw, name)):
        kind = "image" if text_in(file, "type").startswith("image/") else "attachment"
        name = text_in(file, "filename", "filepath", "file_id")
        notes.add(
            f"the {kind} {name!a:.100} is not in the file: its name is kept", found.index, found.id
        )
        steps.append(Step("text", stand_in(kind, name)))
    return steps
