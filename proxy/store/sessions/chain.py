"""What makes two messages the same, and the digests of paths of messages.

Clients that resend a conversation never send quite the bytes that they were given.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

from chattable.agents.chat import Json, Message
from chattable.proxy.store.errors import Invalid

MESSAGE_ID = "msg_"
ITEM = "item"  # the role of what is kept in a conversation but is never sent to a model
# The roles of messages that are no part of the history that a client resends: the first two come
# with each request.
NOT_HISTORY = ("system", "developer", ITEM)
ROOT = ""


def content_digest(message: Message) -> bytes:
    """A digest of what a message says.

    Law: equal for a string and the text parts it is made of, with and without spaces around it,
    whatever the reasoning, the name, the arguments of tool calls and unknown fields; pictures count
    by address, other parts by content.
    """
    parts = message.content if isinstance(message.content, list) else []
    form = [
        message.role,
        (message.text or message.refusal or "").strip(),
        [_part(part) for part in parts if not isinstance(part.get("text"), str)],
        [_call(call) for call in message.tool_calls or ()] or _legacy(message),
        message.tool_call_id or "",
    ]
    return hashlib.sha256(_bytes(form)).digest()


def link(before: str, digest: bytes) -> str:
    """The digest of a path: of the path before, and of what is said after it."""
    return (
        urlsafe_b64encode(hashlib.sha256(before.encode() + b"\n" + digest).digest())
        .decode()
        .rstrip("=")
    )


def next_id(parent: str | None, digest: bytes) -> str:
    """The id of a message that says this after that."""
    return MESSAGE_ID + link(parent or ROOT, digest)


def next_prefix(before: str, role: str, digest: bytes) -> str:
    """The digest of a path as clients see it: `NOT_HISTORY` is no part of it."""
    return before if role in NOT_HISTORY else link(before, digest)


def conversation_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages that belong to the conversation."""
    return [message for message in messages if message.role not in NOT_HISTORY]


def paired(messages: Sequence[Message]) -> list[bool]:
    """Which messages may be sent to a model: tool calls with all their answers behind them.

    Calls at the very end are still waiting for theirs; those of several messages in a row are made
    together.
    """
    keep = [True] * len(messages)
    asking, waiting, role = -1, set[str](), ""
    for i, message in enumerate(messages):
        if message.role == ITEM:
            continue
        calls = _call_ids(message)
        role, before = message.role, role
        if role == "tool" and message.tool_call_id in waiting:
            waiting.remove(message.tool_call_id)
        elif role == "tool":
            keep[i] = False
        elif waiting and calls and before == role == "assistant":
            waiting |= calls
        else:
            if waiting:
                keep[asking:i] = [False] * (i - asking)
            asking, waiting = i, calls
    return keep


def _call_ids(message: Message) -> set[str]:
    return {str(call.get("id")) for call in message.tool_calls} if message.tool_calls else set()


def _part(part: Json) -> str:
    image = part.get("image_url")
    address = image.get("url") if isinstance(image, dict) else image
    return hashlib.sha256(
        _bytes(["image", address] if isinstance(address, str) else part)
    ).hexdigest()


def _call(call: Json) -> list[Any]:
    body = call.get("function") or call.get("custom")
    return [call.get("id"), body.get("name") if isinstance(body, dict) else None]


def _legacy(message: Message) -> list[Any]:
    call = message.extra.get("function_call")
    return [["", call.get("name")]] if isinstance(call, dict) else []


def _bytes(value: Any) -> bytes:
    try:  # escaped: takes lone surrogates
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"messages cannot be written as JSON: {error}.", "messages") from None
