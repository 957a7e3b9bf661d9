"""Answers to tasks of chat UIs that need no model, in the form that the UI asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chattable.agents.chat import NO_USAGE, Chat, Chunk, Json
from chattable.proxy.config.ui_tasks import COMPLETION, IMAGE, KEYS, MERGED, QUERIES, TITLE
from chattable.proxy.sessions.titles import UNTITLED, title_of
from chattable.proxy.sessions.ui_tasks import UiTask, answer_schema, requested_key

MAX_QUERY_CHARS = 200


def free_answer(task: UiTask, chat: Chat) -> list[Chunk]:
    """An answer that costs nothing, made of the user's own words where there are any.

    What only a model can write is left empty, which the UIs cope with.
    """
    if task.kind == MERGED:
        return text_answer(_first_response(chat.messages[-1].text))
    if task.kind not in KEYS:
        return text_answer("")
    schema, function = answer_schema(chat)
    formed = requested_key(task.instructions) or schema or "response_format" in chat.params
    if task.kind == TITLE and not formed:
        return text_answer(_title(task))
    value = json.dumps(_empty(schema) | {task.kind: _value(task)}, ensure_ascii=False)
    return call_answer(function, value) if function else text_answer(value)


def text_answer(text: str) -> list[Chunk]:
    """An answer in words."""
    return _finished({"role": "assistant", "content": text}, "stop")


def call_answer(function: str, arguments: str) -> list[Chunk]:
    """An answer that calls a function."""
    body = {"name": function, "arguments": arguments}
    call = {"index": 0, "id": "call_0", "type": "function", "function": body}
    return _finished({"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls")


def _finished(delta: Json, reason: str) -> list[Chunk]:
    return [Chunk(0, delta), Chunk(finish_reason=reason), Chunk(usage=NO_USAGE)]


def _title(task: UiTask) -> str:
    return title_of(task.user_texts[0]) if task.user_texts else UNTITLED


def _value(task: UiTask) -> Any:
    last = task.user_texts[-1][:MAX_QUERY_CHARS] if task.user_texts else ""
    if task.kind == TITLE:
        return _title(task)
    if task.kind == QUERIES:
        return [last] if last else []
    if task.kind == IMAGE:
        return last
    return "" if task.kind == COMPLETION else []


def _empty(schema: Mapping[str, Any]) -> Json:
    """An empty text for each property that a schema requires."""
    required = schema.get("required")
    names = required if isinstance(required, list) else ()
    return {name: "" for name in names if isinstance(name, str)}


def _first_response(prompt: str) -> str:
    """The first of the answers to be merged."""
    parts = prompt.split('"""')
    return parts[1].strip() if len(parts) > 2 else ""
