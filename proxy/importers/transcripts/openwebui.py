"""Open WebUI's export: an array of chats, each with its messages by id.

They are in `chat.history`, with the id of the one that was shown last. What an answer did besides
speaking is in its words, as `<details>` of the types reasoning and tool_calls.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

from chattable.agents.chat import Json, Message
from chattable.agents.parsing import ROLES
from chattable.proxy.importers.transcripts.fields import (
    moment,
    object_in,
    objects_in,
    said_in,
    stand_in,
    text_in,
    texts_in,
    usage_in,
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
from chattable.proxy.importers.transcripts.tree import bounded, branch, grown, head_of, instructions

SYSTEM = "system"  # the id of the message that begins a chat with instructions
OPENS, CLOSES = '<details type="', "</details>"
ATTRIBUTE = re.compile(r'(?<![\w-])([\w-]++)="([^"]*+)"')
SUMMARY = re.compile(r"\s*<summary>[^<]*</summary>")
QUOTED = re.compile(r"^> ?", re.M)
KNOWN = ("id", "user_id", "title", "chat", "created_at", "updated_at")
CHAT = ("id", "title", "models", "history", "messages", "timestamp", "system")
# What says how Open WebUI stored or showed a message, not what it says.
BOOKKEEPING = (
    "id", "parentId", "childrenIds", "role", "content", "model", "models", "modelName", "modelIdx",
    "timestamp", "done", "usage",
    "info", "files", "output", "error", "user", "completedAt", "statusHistory", "status",
    "lastSentence", "userContext",
    "context", "selectedModelId", "arena",
)  # fmt: skip


def fits(value: Any) -> bool:
    """Says whether this is a chat of this format."""
    return isinstance(value, dict) and (
        isinstance(value.get("chat"), dict) or isinstance(value.get("history"), dict)
    )


def read(raw: Json, notes: ImportNotes) -> Transcript:
    """One chat."""
    chat = object_in(raw, "chat") or raw
    history = object_in(chat, "history")
    system = text_in(chat, "system") or text_in(object_in(chat, "params"), "system")
    nodes = instructions(SYSTEM, system)
    root = nodes[0].id if nodes else None
    for index, (key, message) in enumerate(_messages(chat, history)):
        nodes += _nodes(key, message, index, root, notes)
    items, kept = grown(nodes, notes)
    head = head_of(history.get("currentId"), kept, items, notes)
    _tell_lost(raw, chat, notes)
    models = filter(None, texts_in(chat, "models"))
    return made(
        items,
        head,
        title=text_in(raw, "title") or text_in(chat, "title") or None,
        model=next(models, None),
        created_at=moment(raw.get("created_at")) or moment(chat.get("timestamp")),
        updated_at=float(moment(raw.get("updated_at"))),
    )


def _tell_lost(raw: Json, chat: Json, notes: ImportNotes) -> None:
    """Notes the fields that have no place here; a chat may stand by itself, without its row."""
    alone = chat is raw
    notes.lost(said_in(raw, CHAT if alone else KNOWN))
    notes.lost(said_in(object_in(chat, "params"), ("system",), "params."))
    if not alone:
        notes.lost(said_in(chat, (*CHAT, "params"), "chat."))


def _messages(chat: Json, history: Json) -> Iterator[tuple[str, Any]]:
    """The messages of the history by id, else those of the list, each behind the one before."""
    by_id = history.get("messages")
    if isinstance(by_id, dict):
        bounded(by_id)
        yield from by_id.items()
        return
    listed = by_id if isinstance(by_id, list) else chat.get("messages")
    if not isinstance(listed, list):
        raise Unreadable(
            "A chat must have its messages in 'history.messages' or in 'messages'.",
            "chat.history.messages",
        )
    bounded(listed)
    before = None
    for index, message in enumerate(listed):
        fields = message if isinstance(message, dict) else {}
        key = text_in(fields, "id") or f"#{index}"
        yield key, {"parentId": before, **fields} if isinstance(message, dict) else message
        before = key


# the public word for it
def _nodes(
    id: str,  # noqa: A002
    raw: Any,
    index: int,
    root: str | None,
    notes: ImportNotes,
) -> list[Node]:
    if not isinstance(raw, dict):
        notes.add(f"left out: expected an object, not {json_kind(raw)}", index, id)
        return [Node(id=id, parent=root, index=index)]
    parent = raw.get("parentId")
    if not isinstance(parent, str | None):
        notes.add(f"its parent is {json_kind(parent)}: it begins a branch", index, id)
        parent = None
    node = Node(id=id, parent=parent or root, index=index, created_at=moment(raw.get("timestamp")))
    node.speaker = text_in(raw, "model", "modelName")
    node.usage = usage_in(object_in(raw, "usage") or object_in(raw, "info"))
    node.incomplete = raw.get("done") is False
    notes.lost(said_in(raw, BOOKKEEPING))
    role = text_in(raw, "role")
    if role not in ROLES:
        notes.add(f"left out: the role {role!a:.60} is none of {', '.join(ROLES)}", index, id)
        return [node]
    said = _said(raw, role, node, notes)
    if not said:
        notes.add("left out: it says nothing", index, id)
    return branch(node, said)


def _said(raw: Json, role: str, node: Node, notes: ImportNotes) -> list[Message]:
    """The message, or those that an answer with calls is."""
    _tell_error(raw, node, notes)
    words, parts = _content(raw, node, notes)
    pictures, names = _files(raw, node, notes)
    if role == "assistant" and not parts:
        return _answer(raw, words, names, node) or ([Message(role, "")] if pictures else [])
    words = joined(words, names)
    if not pictures and not parts:
        return [Message(role, words)] if words else []
    texts = [{"type": "text", "text": words}] if words else []
    return [Message(role, [*parts, *texts, *pictures])]


def _answer(raw: Json, words: str, names: str, node: Node) -> list[Message]:
    """What an answer said and did, and the names of its files."""
    steps = [*(_output(raw) or _steps(words, node))]
    if names:
        steps.append(Step("text", names))
    return messages_of(steps)


def _tell_error(raw: Json, node: Node, notes: ImportNotes) -> None:
    if wrong := object_in(raw, "error"):
        words = text_in(wrong, "content", "message")
        notes.add(f"Open WebUI notes an error: {words!a:.200}", node.index, node.id)


def _content(raw: Json, node: Node, notes: ImportNotes) -> tuple[str, list[Json]]:
    """A message's content as words or as parts, of which it has one or the other."""
    content = raw.get("content")
    if isinstance(content, list):
        return "", objects_in(raw, "content")
    if not isinstance(content, str | None):
        notes.add(f"its content is {json_kind(content)}: left out", node.index, node.id)
    return content if isinstance(content, str) else "", []


def _files(raw: Json, node: Node, notes: ImportNotes) -> tuple[list[Json], str]:
    """The pictures that are in the file, and the names of what is not."""
    files = [_file(file, node, notes) for file in objects_in(raw, "files")]
    names = [file for file in files if isinstance(file, str)]
    return [file for file in files if isinstance(file, dict)], joined(*names)


def _file(file: Json, node: Node, notes: ImportNotes) -> Json | str:
    """A picture that is in the file, or the name of what is not."""
    address = text_in(file, "url")
    is_image = text_in(file, "type") == "image"
    if is_image and address.startswith(("data:image/", "https://", "http://")):
        return {"type": "image_url", "image_url": {"url": address}}
    name = (
        text_in(file, "name")
        or text_in(object_in(file, "file"), "filename")
        or text_in(file, "id")
        or address[:200]
    )
    kind = "image" if is_image else "attachment"
    notes.add(f"the {kind} {name!a:.100} is not in the file: its name is kept", node.index, node.id)
    return stand_in(kind, name)


def _output(raw: Json) -> list[Step]:
    """The steps of an answer, where newer versions list them."""
    steps = []
    for item in objects_in(raw, "output"):
        # the public word for it
        kind, id = text_in(item, "type"), text_in(item, "call_id", "id")  # noqa: A001
        words = "\n".join(
            text_in(part, "text")
            for name in ("content", "summary")
            for part in objects_in(item, name)
        )
        if kind == "function_call":
            steps.append(
                Step("call", arguments_text(item.get("arguments")), id, text_in(item, "name"))
            )
        elif kind == "function_call_output":
            given = item.get("output")
            said = "\n".join(text_in(part, "text") for part in objects_in(item, "output"))
            steps.append(Step("result", said or arguments_text(given), id))
        elif words:
            steps.append(Step("thought" if kind == "reasoning" else "text", words))
    return steps


def _steps(words: str, node: Node) -> Iterator[Step]:
    """The steps of an answer as its words have them; what is of another type stays in the words."""
    at = kept = 0
    while (start := words.find(OPENS, at)) >= 0:
        inside = words.find(">", start) + 1
        end = words.find(CLOSES, inside) if inside else -1
        if end < 0:
            break
        at = end + len(CLOSES)
        steps = _detail(words[start:inside], words[inside:end], f"call_{node.index}_{start}")
        if steps:
            if before := words[kept:start].strip():
                yield Step("text", before)
            yield from steps
            kept = at
    rest = words[kept:].strip() if kept else words
    if rest:
        yield Step("text", rest)


def _detail(opening: str, body: str, id: str) -> list[Step]:  # noqa: A002 - the public word for it
    given = {name: html.unescape(value) for name, value in ATTRIBUTE.findall(opening)}
    if given.get("type") == "reasoning":
        return [
            Step("thought", QUOTED.sub("", html.unescape(SUMMARY.sub("", body, count=1))).strip())
        ]
    if given.get("type") == "tool_calls" and given.get("name"):
        id = given.get("id") or id  # noqa: A001 - the public word for it
        called = Step("call", _unpacked(given.get("arguments", "")), id, given["name"])
        answer = given.get("result")
        return [called] if answer is None else [called, Step("result", _unpacked(answer), id)]
    return []


def _unpacked(text: str) -> str:
    """What is JSON in JSON, once."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, str) else text
