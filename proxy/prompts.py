"""How many tokens a prompt may have: a bound that costs next to nothing, and a count for when the bound does not fit."""

from __future__ import annotations

import msgspec

from chattable.agents.chat import Chat, Message
from chattable.budget.tokens import count_async

PER_MESSAGE = 8  # tokens that a chat template adds to a message, at most
PER_IMAGE = 1600  # tokens of a picture, at most, at the usual detail
SHAPES = ("tools", "functions", "response_format")  # fields that providers put into the prompt


def bound_prompt(chat: Chat) -> int:
    """More tokens than the prompt can have: the bytes of all that is forwarded and what its pictures may cost, none counted."""
    shape = [chat.params.get(name) for name in SHAPES]
    written = len(msgspec.json.encode([[m.to_json() for m in chat.messages], shape]))
    return written + sum(_media(message) for message in chat.messages)


async def count_prompt(chat: Chat, model: str) -> int:
    """The prompt's tokens, counted, with room for what chat templates add."""
    texts = [message.text for message in chat.messages]
    rest = [*(chat.params.get(name) for name in SHAPES), *(m.tool_calls for m in chat.messages)]
    texts.append(msgspec.json.encode([part for part in rest if part]).decode())
    words = await count_async("\n".join(texts), model)
    return words + PER_MESSAGE * (len(chat.messages) + 1) + sum(_media(message) for message in chat.messages)


def _media(message: Message) -> int:
    """What the parts of a message that are not text may cost."""
    if not isinstance(message.content, list):
        return 0
    others = [part for part in message.content if part.get("type") != "text"]
    return sum(PER_IMAGE if part.get("type") == "image_url" else len(msgspec.json.encode(part)) for part in others)
