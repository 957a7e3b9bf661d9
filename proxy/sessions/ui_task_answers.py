"""Answers to chores that need no model, in the form that the UI asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json
from chattable.proxy.config.ui_tasks import COMPLETION, IMAGE, KEYS, MERGED, QUERIES, TITLE
from chattable.proxy.sessions import ui_tasks
from chattable.proxy.sessions.titles import UNTITLED, title_of
from chattable.proxy.sessions.ui_tasks import UiTask

QUERY = 200  # characters of what the user said that are searched for


def answered(task: UiTask, chat: Chat) -> list[Chunk]:
    """An answer that costs nothing, made of the user's own words where there are any.

    What only a model can write is left empty: the UIs know what to do then.
    """
    if task.kind == MERGED:
        return whole(_first_response(chat.messages[-1].text))
    if task.kind not in KEYS:
        return whole("")
    schema, function = ui_tasks.wanted(chat)
    formed = ui_tasks.keyed(task.wish) or schema or "response_format" in chat.params
    if task.kind == TITLE and not formed:
        return whole(_title(task))
    value = json.dumps(_empty(schema) | {task.kind: _value(task)}, ensure_ascii=False)
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


def _title(task: UiTask) -> str:
    return title_of(task.said[0]) if task.said else UNTITLED


def _value(task: UiTask) -> Any:
    last = task.said[-1][:QUERY] if task.said else ""
    if task.kind == TITLE:
        return _title(task)
    if task.kind == QUERIES:
        return [last] if last else []
    if task.kind == IMAGE:
        return last
    return "" if task.kind == COMPLETION else []


def _empty(schema: Mapping[str, Any]) -> Json:
    """An empty text for whatever a schema demands."""
    required = schema.get("required")
    names = required if isinstance(required, list) else ()
    return {name: "" for name in names if isinstance(name, str)}


def _first_response(prompt: str) -> str:
    """The first of the answers that are to be merged."""
    parts = prompt.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""
