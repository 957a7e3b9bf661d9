"""Messages in OpenAI's form: checked one by one, and made of what others keep as one message."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from chattable.agents.chat import Json, Message
from chattable.agents.errors import clip
from chattable.agents.parsing import MESSAGE_FIELDS, ROLES, explain
from chattable.proxy.importers.transcripts.transcript import ImportNotes, Node, Unreadable


class Step(Struct, frozen=True):
    """One step of an answer: words, a thought, the call of a tool, or what the tool said."""

    kind: Literal["text", "thought", "call", "result"]
    text: str  # of a call: its arguments, as JSON
    id: str = ""  # of a call, and of its result
    name: str = ""  # of the tool


def message_of(raw: Any, roles: Collection[str] = ROLES) -> Message:
    """A message in OpenAI's form with unknown fields; without `roles`, any is taken.

    Raises `Unreadable` with the field that is wrong.
    """
    if not isinstance(raw, dict):
        raise Unreadable(f"expected an object, not {clip(json_kind(raw))}")
    try:
        message = msgspec.convert(
            {name: raw[name] for name in MESSAGE_FIELDS if name in raw}, Message
        )
    except msgspec.ValidationError as error:
        wrong = explain(error)
        raise Unreadable(wrong.message, wrong.param) from None
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    if roles and message.role not in roles:
        raise Unreadable(
            f"the role '{clip(message.role, 40)}' is none of {', '.join(roles)}", "role"
        )
    message.extra = {name: value for name, value in raw.items() if name not in MESSAGE_FIELDS}
    return message


def node_of(raw: Any, index: int, parent: str | None, notes: ImportNotes) -> Node:
    """A message without an id as a node; what is no message is noted."""
    node = Node(id=str(index), parent=parent, index=index)
    try:
        node.message = message_of(raw)
    except Unreadable as error:
        notes.add(f"left out: {error.message}", index)
    return node


def call(id: str, name: str, arguments: Any) -> Json:  # noqa: A002 - the public word for it
    """A tool call in OpenAI's form."""
    return {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments_text(arguments)},
    }


def arguments_text(arguments: Any) -> str:
    """A call's arguments as text: as it is, or as JSON."""
    if isinstance(arguments, str):
        return arguments or "{}"
    try:
        return json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    except RecursionError:
        return "{}"


def joined(*texts: str) -> str:
    """Those that are not empty, as paragraphs."""
    return "\n\n".join(text for text in texts if text)


def messages_of(steps: Iterable[Step]) -> list[Message]:
    """The messages that such steps are: a result ends one, and so do words after a call."""
    messages: list[Message] = []
    now = Message("assistant")
    for step in steps:
        if step.kind == "result" or (now.tool_calls and step.kind != "call"):
            messages += _ended(now)
            now = Message("assistant")
        if step.kind == "result":
            messages.append(Message("tool", step.text, tool_call_id=step.id))
        else:
            _add(step, now)
    return messages + _ended(now)


def _add(step: Step, message: Message) -> None:
    if step.kind == "call":
        message.tool_calls = [*(message.tool_calls or ()), call(step.id, step.name, step.text)]
    elif step.kind == "thought":
        message.reasoning_content = joined(message.reasoning_content or "", step.text)
    else:
        words = message.content if isinstance(message.content, str) else ""
        message.content = joined(words, step.text)


def _ended(message: Message) -> list[Message]:
    if message.content is None and not message.tool_calls:
        if message.reasoning_content is None:
            return []
        message.content = ""
    return [message]


def json_kind(value: Any) -> str:
    """What a value is, in JSON's words."""
    kinds = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return kinds.get(type(value), "a number")
