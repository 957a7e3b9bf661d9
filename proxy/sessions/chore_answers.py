"""Answers to chores that need no model: in the form that the UI asked for, of the user's own words where there are any."""

from __future__ import annotations

import json
from typing import Any

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json
from chattable.proxy.sessions import chores
from chattable.proxy.sessions.chores import Chore
from chattable.proxy.sessions.titles import UNTITLED, titled

QUERY = 200  # characters of what the user said that are searched for


def answered(chore: Chore, chat: Chat) -> list[Chunk]:
    """An answer that costs nothing. A title may be bare; what only a model can write is left empty, which UIs make up for."""
    if chore.kind == chores.MERGED:
        return whole(_first_response(chat.messages[-1].text))
    if chore.kind not in chores.KEYS:
        return whole("")
    schema, function = chores.wanted(chat)
    key = chores.keyed(chore.wish)
    if chore.kind == chores.TITLE and key is None and not schema and "response_format" not in chat.params:
        return whole(_title(chore))
    value = json.dumps(_filled(schema, {chore.kind: _value(chore)}), ensure_ascii=False)
    return called(function, value) if function else whole(value)


def whole(text: str) -> list[Chunk]:
    """An answer of ours, which costs nothing."""
    return [Chunk(0, {"role": "assistant", "content": text}), Chunk(finish_reason="stop"), Chunk(usage=NO_USAGE)]


def called(function: str, arguments: str) -> list[Chunk]:
    """The same as the call of a function."""
    call = {"index": 0, "id": "call_0", "type": "function", "function": {"name": function, "arguments": arguments}}
    delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [Chunk(0, delta), Chunk(finish_reason="tool_calls"), Chunk(usage=NO_USAGE)]


def _title(chore: Chore) -> str:
    return titled(chore.said[0]) if chore.said else UNTITLED


def _value(chore: Chore) -> Any:
    last = chore.said[-1][:QUERY] if chore.said else ""
    if chore.kind == chores.TITLE:
        return _title(chore)
    if chore.kind == chores.QUERIES:
        return [last] if last else []
    if chore.kind == chores.IMAGE:
        return last
    return "" if chore.kind == chores.COMPLETION else []


def _filled(schema: Any, value: Json) -> Json:
    """The value with an empty text for whatever else its schema demands."""
    required = schema.get("required")
    return {name: "" for name in required if isinstance(name, str)} | value if isinstance(required, list) else value


def _first_response(prompt: str) -> str:
    """The first of the answers that are to be merged."""
    parts = prompt.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""
