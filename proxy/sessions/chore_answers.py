"""Answers to chores that need no model, in the form that the UI asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json
from chattable.proxy.config import ui_tasks
from chattable.proxy.sessions import chores
from chattable.proxy.sessions.chores import Chore
from chattable.proxy.sessions.titles import UNTITLED, titled

QUERY = 200  # characters of what the user said that are searched for


def answered(chore: Chore, chat: Chat) -> list[Chunk]:
    """An answer that costs nothing, made of the user's own words where there are any.

    What only a model can write is left empty: the UIs know what to do then.
    """
    if chore.kind == ui_tasks.MERGED:
        return whole(_first_response(chat.messages[-1].text))
    if chore.kind not in ui_tasks.KEYS:
        return whole("")
    schema, function = chores.wanted(chat)
    formed = chores.keyed(chore.wish) or schema or "response_format" in chat.params
    if chore.kind == ui_tasks.TITLE and not formed:
        return whole(_title(chore))
    value = json.dumps(_empty(schema) | {chore.kind: _value(chore)}, ensure_ascii=False)
    return called(function, value) if function else whole(value)


def whole(text: str) -> list[Chunk]:
    """An answer of ours."""
    return _ended({"role": "assistant", "content": text}, "stop")


def called(function: str, arguments: str) -> list[Chunk]:
    """The same as the call of a function."""
    body = {"name": function, "arguments": arguments}
    call = {"index": 0, "id": "call_0", "type": "function", "function": body}
    return _ended({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


def _ended(delta: Json, reason: str) -> list[Chunk]:
    return [Chunk(0, delta), Chunk(finish_reason=reason), Chunk(usage=NO_USAGE)]


def _title(chore: Chore) -> str:
    return titled(chore.said[0]) if chore.said else UNTITLED


def _value(chore: Chore) -> Any:
    last = chore.said[-1][:QUERY] if chore.said else ""
    if chore.kind == ui_tasks.TITLE:
        return _title(chore)
    if chore.kind == ui_tasks.QUERIES:
        return [last] if last else []
    if chore.kind == ui_tasks.IMAGE:
        return last
    return "" if chore.kind == ui_tasks.COMPLETION else []


def _empty(schema: Mapping[str, Any]) -> Json:
    """An empty text for whatever a schema demands."""
    required = schema.get("required")
    names = required if isinstance(required, list) else ()
    return {name: "" for name in names if isinstance(name, str)}


def _first_response(prompt: str) -> str:
    """The first of the answers that are to be merged."""
    parts = prompt.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""
