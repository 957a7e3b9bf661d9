"""Translates between the items of OpenAI's conversations and the messages of a chat.

An item becomes one message. The fields of an item that a message has no place for are kept in it
and come back. An item that no role speaks, such as reasoning or a web search, is kept whole in a
message of the role `item`, whatever its type, with the id it came with, by which its provider knows
it. A message becomes one item for its reasoning, one for its text and one for each call. Their ids
follow from the message's own: `msg_X`, `fc_X.1`, `fc_X.2`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from chattable.agents.chat import Json, Message
from chattable.agents.errors import InvalidRequest, MissingParameter, clip
from chattable.proxy.parsing import surrogates
from chattable.proxy.store.sessions.chain import ITEM, MESSAGE_ID
from chattable.proxy.store.sessions.values import message_of as read_message

ITEM_FIELDS = "conversation_item"  # the message field with those of an item that have no place
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text")
FILE_FIELDS = ("file_id", "file_data", "filename")  # what a chat's file may have
PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}


def message_of(item: Json, path: str) -> Message:
    """The message that an item becomes.

    `InvalidRequest` names the field that is wrong, below `path`.
    """
    kind = item.get("type")
    if kind is None:
        if "role" not in item:
            raise MissingParameter(f"{path}.type")
        kind = "message"
    make = _MESSAGES.get(_string(kind, f"{path}.type"))
    if make is None:
        return Message(ITEM, [{"type": "item", "item": item}])
    message = make(item, path)
    [shown] = items_of(MESSAGE_ID, message)
    rest = {
        name: value
        for name, value in item.items()
        if name != "id" and not (name in shown and _includes(shown[name], value))
    }
    if rest:
        message.extra = {ITEM_FIELDS: rest}
    return message


def items_of(message_id: str, message: Message, *, incomplete: bool = False) -> list[Json]:
    """The items that a stored message becomes, in order; at least one."""
    status = "incomplete" if incomplete else "completed"
    items = _shown(message, status)
    kept = message.extra.get(ITEM_FIELDS)
    if isinstance(kept, dict):
        items[0] |= kept
    for item, key in zip(items, keys_of(message_id, items), strict=True):
        theirs = item.get("id") if message.role == ITEM else None
        item["id"] = theirs if isinstance(theirs, str) and theirs else key
    return items


def keys_of(message_id: str, items: Iterable[Json]) -> list[str]:
    """The ids that a message's items have from us."""
    stem = message_id.removeprefix(MESSAGE_ID)
    names = [f"{PREFIXES.get(str(item.get('type')), 'item')}_{stem}" for item in items]
    return [f"{name}.{i}" if i else name for i, name in enumerate(names)]


def message_id(item_id: str) -> str:
    """The id of the message that an item is part of."""
    return MESSAGE_ID + item_id.partition("_")[2].partition(".")[0]


def model_messages(messages: Iterable[Message]) -> list[Message]:
    """Stored messages as a model can take them.

    Only those of a chat, in whole characters, and calls that were made together in one message.
    """
    done: list[Message] = []
    for stored in messages:
        if stored.role == ITEM:
            continue
        message = _model_message(stored)
        if message.tool_calls and not message.content and done and done[-1].role == "assistant":
            calls = [*(done[-1].tool_calls or ()), *message.tool_calls]
            done[-1] = replace(done[-1], tool_calls=calls)
        else:
            done.append(message)
    return done


def _model_message(message: Message) -> Message:
    """A copy of the message, without fields of items, and with U+FFFD for halves of characters.

    A copy, for an agent may change what it is given. UTF-8 has no bytes for a half of a character,
    a lone surrogate.
    """
    content = message.content
    try:
        if isinstance(content, str) and message == Message(message.role, content):
            content.encode()
            return Message(message.role, content)
        message = read_message(msgspec.json.encode(message.to_json()))
    except UnicodeEncodeError:
        message = read_message(json.dumps(surrogates.whole(msgspec.to_builtins(message.to_json()))))
    if ITEM_FIELDS in message.extra:
        rest = {name: value for name, value in message.extra.items() if name != ITEM_FIELDS}
        message = replace(message, extra=rest)
    return message


# --- items as messages ----------------------------------------------------------------------------


def _message(item: Json, path: str) -> Message:
    role = _text(item, "role", path)
    if role not in ROLES:
        known = ", ".join(repr(one) for one in ROLES)
        message = f"Invalid value for '{path}.role': '{clip(role)}'. Supported values are: {known}."
        raise InvalidRequest(message, param=f"{path}.role", code="invalid_value")
    content = _content(item, "content", path)
    if (
        isinstance(content, list)
        and len(content) == 1
        and content[0].keys() == {"type", "text"}
        and content[0]["type"] == "text"
    ):
        content = content[0]["text"]
    return Message(role, content)


def _function_call(item: Json, path: str) -> Message:
    function = {name: _text(item, name, path) for name in ("name", "arguments")}
    return Message(
        "assistant",
        tool_calls=[{"id": _text(item, "call_id", path), "type": "function", "function": function}],
    )


def _custom_call(item: Json, path: str) -> Message:
    custom = {name: _text(item, name, path) for name in ("name", "input")}
    return Message(
        "assistant",
        tool_calls=[{"id": _text(item, "call_id", path), "type": "custom", "custom": custom}],
    )


def _output(item: Json, path: str) -> Message:
    return Message(
        "tool", _content(item, "output", path), tool_call_id=_text(item, "call_id", path)
    )


_MESSAGES: dict[str, Callable[[Json, str], Message]] = {
    "message": _message,
    "function_call": _function_call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
}


def _content(item: Json, name: str, path: str) -> str | list[Json]:
    value, path = item.get(name), f"{path}.{name}"
    if value is None:
        raise MissingParameter(path)
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise _wrong_type(path, "a string or an array of content parts")
    return [_part(part, f"{path}[{i}]") for i, part in enumerate(value)]


def _part(part: Any, path: str) -> Json:
    """A part of an item as a part of a chat's message; as it is where a chat has none like it."""
    if not isinstance(part, dict):
        raise _wrong_type(path, "an object")
    kind, image = _text(part, "type", path), part.get("image_url")
    if kind in TEXT_PARTS:
        return {"type": "text", "text": _text(part, "text", path)}
    if kind == "input_image" and isinstance(image, str):
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": image} | detail}
    if kind == "input_file" and not part.get("file_url"):
        return {
            "type": "file",
            "file": {name: part[name] for name in FILE_FIELDS if part.get(name) is not None},
        }
    return dict(part)


def _text(item: Json, name: str, path: str) -> str:
    if item.get(name) is None:
        raise MissingParameter(f"{path}.{name}")
    return _string(item[name], f"{path}.{name}")


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, "a string")
    return value


def _wrong_type(path: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{path}': expected {wanted}.", param=path, code="invalid_type"
    )


def _includes(shown: Any, given: Any) -> bool:
    """Whether what will be shown has all that was given: it may have fields of its own besides."""
    if isinstance(shown, dict) and isinstance(given, dict):
        return all(name in shown and _includes(shown[name], value) for name, value in given.items())
    if isinstance(shown, list):
        return _all_included(shown, given)
    return type(shown) is type(given) and bool(shown == given)


def _all_included(shown: list[Any], given: Any) -> bool:
    """Whether the parts that will be shown are those given, as a list or as text alone."""
    if isinstance(given, str):
        return len(shown) == 1 and bool(shown[0].get("text") == given)
    return (
        isinstance(given, list)
        and len(shown) == len(given)
        and all(_includes(one, other) for one, other in zip(shown, given, strict=True))
    )


# --- messages as items ----------------------------------------------------------------------------


def _shown(message: Message, status: str) -> list[Json]:
    parts = message.content if isinstance(message.content, list) else []
    if message.role == ITEM and parts and isinstance(parts[0].get("item"), dict):
        return [dict(parts[0]["item"])]
    if message.role == "tool" and message.tool_call_id is not None:
        return [_shown_output(message, parts, status)]
    return _shown_parts(message, status)


def _shown_parts(message: Message, status: str) -> list[Json]:
    """The items for the reasoning, the words and the calls of a message; at least one."""
    calls = [_shown_call(call, status) for call in message.tool_calls or ()]
    thoughts = [_shown_thoughts(message, status)] if message.reasoning_content else []
    words = _words(message)
    silent = not words or (message.content == "" and not message.refusal)
    if silent and (calls or thoughts):
        return [*thoughts, *calls]
    item = {"type": "message", "role": message.role, "status": status, "content": words}
    return [*thoughts, _other_fields(message) | item, *calls]


def _shown_output(message: Message, parts: list[Json], status: str) -> Json:
    shown = [_shown_part(part, "input_text") for part in parts]
    return _other_fields(message) | {
        "type": "function_call_output",
        "call_id": message.tool_call_id,
        "output": shown or message.content or "",
        "status": status,
    }


def _shown_thoughts(message: Message, status: str) -> Json:
    return {
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": message.reasoning_content}],
        "status": status,
    }


def _words(message: Message) -> list[Json]:
    kind = "output_text" if message.role == "assistant" else "input_text"
    content = (
        [{"type": "text", "text": message.content}]
        if isinstance(message.content, str)
        else message.content or []
    )
    refusal = [{"type": "refusal", "refusal": message.refusal}] if message.refusal else []
    return [_shown_part(part, kind) for part in [*content, *refusal]]


def _shown_part(part: Json, words: str) -> Json:
    kind = part.get("type")
    rest = {
        name: value
        for name, value in part.items()
        if name not in ("type", "text", "image_url", "file")
    }
    if kind == "text":
        more: Json = {"annotations": [], "logprobs": []} if words == "output_text" else {}
        return {"type": words, "text": part.get("text")} | more | rest
    image, file = part.get("image_url"), part.get("file")
    if kind == "image_url" and isinstance(image, dict):
        return {
            "type": "input_image",
            "image_url": image.get("url"),
            "detail": image.get("detail") or "auto",
        } | rest
    if kind == "file" and isinstance(file, dict):
        return {"type": "input_file"} | file | rest
    return dict(part)


def _shown_call(call: Json, status: str) -> Json:
    kind = call.get("type") or "function"
    body = call.get(kind)
    rest = {
        name: value for name, value in call.items() if name not in ("id", "type", "index", kind)
    }
    types = {"function": "function_call", "custom": "custom_tool_call"}
    own = body if isinstance(body, dict) else {}
    return rest | own | {"type": types.get(kind, kind), "call_id": call.get("id"), "status": status}


def _other_fields(message: Message) -> Json:
    """The fields of a message that items have no names for, under its own names."""
    name = {"name": message.name} if message.name is not None else {}
    return name | {key: value for key, value in message.extra.items() if key != ITEM_FIELDS}
