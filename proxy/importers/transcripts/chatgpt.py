"""ChatGPT's export, conversations.json: each conversation a tree of nodes by id.

With it goes the id of the node that was shown last.

What a tool is asked is a message to another recipient than `all`, and its answer a message of the
author `tool`; thoughts are nodes of their own, before the answer. The content of a message has one
of many types (`CONTENT`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
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
)
from chattable.proxy.importers.transcripts.messages import call, joined, json_kind
from chattable.proxy.importers.transcripts.transcript import (
    ImportNotes,
    Node,
    Transcript,
    Unreadable,
    made,
)
from chattable.proxy.importers.transcripts.tree import bounded, grown, head_of, ordered

CONTENT = {  # type → the fields that say something
    "code": ("text",),
    "execution_output": ("text",),
    "tether_quote": ("title", "url", "text"),
    "tether_browsing_display": ("result", "summary"),
    "sonic_webpage": ("title", "url", "text"),
    "system_error": ("name", "text"),
    "reasoning_recap": ("content",),
    "user_editable_context": ("user_profile", "user_instructions"),
    "model_editable_context": ("model_set_context",),
}
THOUGHTS = ("thoughts", "reasoning_recap")
CONTEXT = ("user_editable_context", "model_editable_context")
UNFINISHED = ("in_progress", "finished_partial_completion")
NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
KNOWN = (
    "id",
    "conversation_id",
    "title",
    "create_time",
    "update_time",
    "mapping",
    "current_node",
    "default_model_slug",
)
# What says how ChatGPT made or showed a message, not what it says.
BOOKKEEPING = {
    "attachments", "can_save", "default_model_slug", "finish_details", "is_complete", "is_redacted",
    "is_user_system_message", "is_visually_hidden_from_conversation", "message_type", "model_slug",
    "parent_id",
    "reasoning_status", "request_id", "resolved_model_slug", "serialization_metadata", "timestamp_",
    "turn_exchange_id",
    "rebase_developer_message", "rebase_system_message", "selected_sources", "voice_mode_message",
    "user_context_message_data",
}  # fmt: skip


def fits(value: Any) -> bool:
    """Says whether this is a conversation of this format."""
    return isinstance(value, dict) and "mapping" in value


def read(raw: Json, notes: ImportNotes) -> Transcript:
    """One conversation."""
    mapping = raw.get("mapping")
    if not isinstance(mapping, dict):
        raise Unreadable(
            f"'mapping' must be an object with the messages by id, not {json_kind(mapping)}.",
            "mapping",
        )
    bounded(mapping)
    reader = _Reader(mapping, notes)
    items, kept = grown(reader.nodes, notes)
    head = head_of(raw.get("current_node"), kept, items, notes)
    notes.lost(said_in(raw, KNOWN))
    return made(
        items,
        head,
        title=text_in(raw, "title") or None,
        model=text_in(raw, "default_model_slug") or reader.model or None,
        created_at=moment(raw.get("create_time")),
        updated_at=float(moment(raw.get("update_time"))),
    )


class _Reader:
    """Reads nodes, parents first: thoughts wait for their answer, results look for their call."""

    def __init__(self, mapping: Json, notes: ImportNotes) -> None:
        self.model = ""
        self._notes = notes
        self._raw = {
            key: node.get("message") for key, node in mapping.items() if isinstance(node, dict)
        }
        self._thoughts: dict[str | None, str] = {}  # by the node whose children they belong to
        self._calls: dict[str | None, str] = {}  # ids, by the node that made them or follows it
        self.nodes = ordered(self._bare(mapping), notes)
        self._answers = self._followed()
        for node in self.nodes:
            self._fill(node)

    def _bare(self, mapping: Json) -> Iterable[Node]:
        for index, (key, node) in enumerate(mapping.items()):
            parent = node.get("parent") if isinstance(node, dict) else None
            if not isinstance(node, dict) or not isinstance(node.get("message"), dict | None):
                self._notes.add("left out: it is no object", index, key)
            if not isinstance(parent, str | None):
                self._notes.add(
                    f"its parent is {json_kind(parent)}: it begins a branch", index, key
                )
                parent = None
            yield Node(id=key, parent=parent, index=index)

    def _followed(self) -> set[str]:
        """Nodes all of whose children are the assistant's."""
        some, others = set[str](), set[str]()
        for node in self.nodes:
            if node.parent is not None:
                (some if _role(self._raw.get(node.id)) == "assistant" else others).add(node.parent)
        return some - others

    def _fill(self, node: Node) -> None:
        raw = self._raw.get(node.id)
        before = node.parent
        self._calls[node.id] = self._calls.get(before, "")
        if not isinstance(raw, dict):
            return
        role, content, metadata = _role(raw), object_in(raw, "content"), object_in(raw, "metadata")
        kind = text_in(content, "content_type")
        words = joined(self._words(content, kind, metadata, node), self._attached(metadata, node))
        thoughts = self._thoughts.get(before, "")
        if role == "assistant" and kind in THOUGHTS and node.id in self._answers:
            self._thoughts[node.id] = joined(thoughts, words)
            return
        if role not in ROLES:
            self._notes.add(f"left out: the author's role is {role!a:.60}", node.index, node.id)
            return
        node.message = self._message(raw, role, kind, words, thoughts, node)
        if node.message is not None:
            self._describe(node, raw, metadata)

    def _message(
        self, raw: Json, role: str, kind: str, words: str, thoughts: str, node: Node
    ) -> Message | None:
        if role == "assistant" and kind in THOUGHTS:
            return Message(role, "", reasoning_content=joined(thoughts, words))
        if words and (tool := _tool_asked(raw, role)):
            return self._call(tool, words, thoughts, node)
        if not words and not thoughts:
            self._tell_empty(role, node)
            return None
        if role == "tool":
            return self._result(words, node)
        self._calls[node.id] = ""
        if kind in CONTEXT:
            return Message("system", words)
        return Message(role, words, reasoning_content=thoughts or None)

    def _tell_empty(self, role: str, node: Node) -> None:
        if role != "system":
            self._notes.add("left out: it says nothing", node.index, node.id)

    def _call(self, tool: str, words: str, thoughts: str, node: Node) -> Message:
        id = self._calls[node.id] = f"call_{node.index}"  # noqa: A001 - as in OpenAI's form
        asked = call(id, NOT_A_NAME.sub("_", tool)[:64], _arguments(words))
        return Message("assistant", tool_calls=[asked], reasoning_content=thoughts or None)

    def _result(self, words: str, node: Node) -> Message:
        id = self._calls[node.id]  # noqa: A001 - as in OpenAI's form
        if not id:
            self._notes.add(
                "answers no call before it: it is kept, and models are not shown it",
                node.index,
                node.id,
            )
        return Message("tool", words, tool_call_id=id or None)

    def _describe(self, node: Node, raw: Json, metadata: Json) -> None:
        model = text_in(metadata, "model_slug")
        if _role(raw) == "assistant" and model:
            self.model = model
        node.speaker = text_in(object_in(raw, "author"), "name") or model
        node.created_at = moment(raw.get("create_time"))
        node.incomplete = raw.get("status") in UNFINISHED
        if metadata.get("is_visually_hidden_from_conversation") is True:
            self._notes.add(
                "ChatGPT did not show this message; here it is shown", node.index, node.id
            )
        self._notes.lost(said_in(metadata, BOOKKEEPING, "metadata."))

    def _words(self, content: Json, kind: str, metadata: Json, node: Node) -> str:
        if kind == "thoughts":
            return _thoughts(content)
        if kind in CONTENT:
            texts = [text_in(content, name) for name in CONTENT[kind]]
            return "\n".join(filter(None, texts)) or self._context(kind, metadata)
        if isinstance(content.get("parts"), list):
            parts = [self._part(part, node) for part in content["parts"]]
            return "\n".join(filter(None, parts))
        words = text_in(content, "text", "result", "content", "summary")
        if kind not in ("text", "multimodal_text"):
            self._notes.add(f"its content is of the unknown type {kind!a:.60}", node.index, node.id)
            return words or json.dumps(content, ensure_ascii=False)[:10_000]
        return words

    def _context(self, kind: str, metadata: Json) -> str:
        if kind not in CONTEXT:
            return ""
        told = object_in(metadata, "user_context_message_data")
        return joined(text_in(told, "about_user_message"), text_in(told, "about_model_message"))

    def _part(self, part: Any, node: Node) -> str:
        if isinstance(part, str):
            return part
        if not isinstance(part, dict):
            return ""
        kind = text_in(part, "content_type").removesuffix("_asset_pointer") or "part"
        if kind == "audio_transcription":
            return text_in(part, "text")
        name = text_in(part, "asset_pointer") or text_in(
            object_in(part, "audio_asset_pointer"), "asset_pointer"
        )
        self._notes.add(
            f"the {kind} {name} is not in the file: its address is kept", node.index, node.id
        )
        return stand_in(kind, name)

    def _attached(self, metadata: Json, node: Node) -> str:
        names = [text_in(one, "name", "id") for one in objects_in(metadata, "attachments")]
        for name in names:
            self._notes.add(
                f"the attachment {name!a:.100} is not in the file: its name is kept",
                node.index,
                node.id,
            )
        return "\n".join(stand_in("attachment", name) for name in names)


def _thoughts(content: Json) -> str:
    thoughts = objects_in(content, "thoughts")
    texts = (joined(text_in(one, "summary"), text_in(one, "content")) for one in thoughts)
    return joined(*texts)


def _role(raw: Any) -> str:
    return text_in(object_in(raw, "author"), "role") if isinstance(raw, dict) else ""


def _tool_asked(raw: Json, role: str) -> str:
    recipient = text_in(raw, "recipient")
    return recipient if role == "assistant" and recipient != "all" else ""


def _arguments(words: str) -> str:
    """What a tool is asked, as a JSON object."""
    try:
        given = json.loads(words)
    except (ValueError, RecursionError):
        given = None
    return words if isinstance(given, dict) else json.dumps({"input": words}, ensure_ascii=False)
