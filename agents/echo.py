"""The agent that repeats what it hears: the first thing to talk to on a new server."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from chattable.agents.chat import Message
from chattable.agents.chattable import Chattable

MAX_CHUNKS = 64  # of an answer, however long the text


class Echo(Chattable):
    """Repeats the message, word by word."""

    description = "Repeats what you say"

    async def chat(self, message: Message) -> AsyncGenerator[str]:  # type: ignore[override]
        """Yields the message's own words."""
        words = re.findall(r"\s*\S+\s*|\s+", message.text)
        step = -(-len(words) // MAX_CHUNKS) or 1
        for i in range(0, len(words), step):
            yield "".join(words[i : i + step])
