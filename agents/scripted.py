"""An agent that follows a script: deterministic conversations for tests, demos and UI work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from chattable.agents.chat import Chunk, Json, Message
from chattable.agents.chattable import Chattable, Context
from chattable.agents.errors import ChatError


class Scripted(Chattable):
    """Answers the k-th turn of a conversation with the k-th reply, the last one for ever.

    A reply is text; a message in OpenAI's form; `{ask: MODEL}`, which passes on another model's
    answer; `{fail: TEXT}`; or a list of these, said one after the other. `pause` waits that many
    seconds before each piece.
    """

    description = "Follows a script"
    supports = frozenset({"response_format"})

    def __init__(self, replies: list[Any], pause: float = 0.0) -> None:
        if not replies:
            raise ValueError("replies: at least one is needed")
        for i, reply in enumerate(replies):
            if not all(isinstance(piece, str | dict) for piece in _pieces(reply)):
                known = "text, a message, `ask`, `fail`, or a list of these"
                raise ValueError(f"replies[{i}]: give {known}, not {reply!r}")
        self.replies = replies
        self.pause = pause

    async def chat(self, message: Message, ctx: Context) -> AsyncGenerator[str | Json | Chunk]:
        """Yields the reply that is due."""
        turn = sum(1 for m in ctx.messages if m.role == "assistant")
        reply = self.replies[min(turn, len(self.replies) - 1)]
        for piece in _pieces(reply):
            if self.pause:
                await asyncio.sleep(self.pause)
            if not isinstance(piece, dict):
                yield piece
            elif "ask" in piece:
                async with aclosing(aiter(ctx.chat(piece["ask"]))) as chunks:
                    async for chunk in chunks:
                        yield chunk
            elif "fail" in piece:
                raise ChatError(piece["fail"], code="scripted_failure")
            else:
                yield piece


def _pieces(reply: Any) -> list[Any]:
    return reply if isinstance(reply, list) else [reply]
