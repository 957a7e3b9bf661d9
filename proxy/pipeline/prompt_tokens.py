"""Tokens of a prompt: a cheap upper bound, and a count for when the bound does not fit."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from chattable.adapters.vendors.media import without_media
from chattable.agents.chat import Chat, Json, Message
from chattable.budget.tokens import count_async

PER_MESSAGE = 8  # tokens that a chat template adds to a message, at most
# Fields that steer an answer and never become part of a prompt. All others do, known or not.
STEERING = frozenset(
    {
        "anthropic_beta",
        "function_call",
        "include",
        "logit_bias",
        "metadata",
        "modalities",
        "modality",
        "models",
    }
    | {
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "provider",
        "reasoning",
    }
    | {"reasoning_effort", "route", "safety_identifier", "service_tier", "stop", "stream_options"}
    | {"thinking", "tool_choice", "transforms", "user", "verbosity"}
)

Media = Callable[[Json], int]  # a part of a message that is not text → the tokens it costs at most


def bound_prompt(chat: Chat, media: Media) -> int:
    """An upper bound in tokens: the bytes of all that is forwarded, pictures by their table."""
    messages, parts = _apart(chat.messages)
    written = len(msgspec.json.encode([[m.to_json() for m in messages], _fields(chat.params)]))
    return written + sum(map(media, parts))


async def count_prompt(chat: Chat, model: str, media: Media, per_message: int = PER_MESSAGE) -> int:
    """The prompt's tokens, counted, with room for what chat templates add to each message."""
    text, pictures = to_count(chat, media)
    return await count_async(text, model) + per_message * (len(chat.messages) + 1) + pictures


def to_count(chat: Chat, media: Media) -> tuple[str, int]:
    """All words of a prompt, and what its pictures cost besides."""
    messages, parts = _apart(chat.messages)
    costs = [media(part) for part in parts]
    texts = [message.text for message in messages]
    others = [
        p
        for p, cost in zip(parts, costs, strict=True)
        if not cost and not isinstance(p.get("text"), str)
    ]
    rest = [*others, *filter(None, map(_beside_text, messages)), *_fields(chat.params)]
    if rest:
        texts.append(msgspec.json.encode(rest).decode())
    return "\n".join(texts), sum(costs)


def _apart(messages: list[Message]) -> tuple[list[Message], list[Json]]:
    """The messages without the payloads of their pictures, and all parts of their contents."""
    for message in messages:
        if type(message.content) is list:
            break
    else:
        return messages, []
    parts = [part for m in messages if isinstance(m.content, list) for part in m.content]
    return [replace(m, content=without_media(m.content)) for m in messages], parts


def _fields(params: Json) -> list[tuple[str, object]]:
    """The fields of a request that may become part of its prompt, such as tools and a schema."""
    kinds = (str, list, dict)
    return [(k, v) for k, v in params.items() if v and type(v) in kinds and k not in STEERING]


def _beside_text(message: Message) -> Json:
    """What a message says beside its content: calls, thoughts, fields that nobody knows."""
    said = {"tool_calls": message.tool_calls, "reasoning_content": message.reasoning_content}
    return {name: value for name, value in (said | message.extra).items() if value}
