"""OpenAI's format for fine-tuning: a conversation a line, as the messages of a chat completion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from chattable.agents.chat import Json, Message
from chattable.proxy.importers.transcripts.fields import moment, said_in, text_in
from chattable.proxy.importers.transcripts.messages import node_of
from chattable.proxy.importers.transcripts.native import line
from chattable.proxy.importers.transcripts.transcript import (
    ImportNotes,
    Node,
    Transcript,
    Unreadable,
    made,
)
from chattable.proxy.importers.transcripts.tree import bounded, grown
from chattable.proxy.store.sessions.port import Item, SessionRecord

FIELDS = (
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "function_call",
    "weight",
    "audio",
)
KNOWN = ("messages", "id", "title", "model", "created_at", "created")


async def write(
    session: SessionRecord, batches: AsyncIterator[tuple[Item, ...]]
) -> AsyncIterator[bytes]:
    """One line: the messages up to the head, with the fields that fine-tuning knows."""
    lead = b'{"messages":['
    async for batch in batches:
        yield lead + b",".join(line(_shown(item.message)).rstrip() for item in batch)
        lead = b","
    tools = session.params.get("tools")
    end = b'],"tools":' + line(tools).rstrip() + b"}\n" if tools else b"]}\n"
    yield (lead if lead != b"," else b"") + end


def _shown(message: Message) -> Json:
    given: Json = msgspec.to_builtins(message.to_json())
    return {name: given[name] for name in FIELDS if name in given}


def fits(value: Any) -> bool:
    """Says whether this is a conversation of this format."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("messages"), list)
        and "conversationId" not in value
    )


def read(raw: Json, notes: ImportNotes) -> Transcript:
    """One line."""
    if not isinstance(raw.get("messages"), list):
        raise Unreadable("A line must be an object with an array 'messages'.", "messages")
    bounded(raw["messages"])
    nodes: list[Node] = []
    for index, message in enumerate(raw["messages"]):
        nodes.append(node_of(message, index, nodes[-1].id if nodes else None, notes))
    items, kept = grown(nodes, notes)
    notes.lost(said_in(raw, KNOWN))
    return made(
        items,
        kept[nodes[-1].id if nodes else None],
        title=text_in(raw, "title") or None,
        model=text_in(raw, "model") or None,
        created_at=moment(raw.get("created_at") or raw.get("created")),
    )
