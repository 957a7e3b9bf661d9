"""An agent that spends: it asks a model, runs the tools that the model wants, and asks again."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from chattable.agents.chat import Chunk, Message
from chattable.agents.chattable import Context

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


async def tooler(message: Message, ctx: Context) -> AsyncGenerator[Chunk]:
    """Asks with a tool, three times at most, then without one."""
    messages: list[Any] = list(ctx.messages)
    for _ in range(3):
        said = await ctx.chat("m", messages, tools=[TOOL], stream=False)
        if not said.tool_calls:
            break
        messages.append(said)
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": "it rains"}
            for call in said.tool_calls
        ]
        messages.append({"role": "user", "content": "call weather again"})
    async with aclosing(
        aiter(ctx.chat("m", [*messages, {"role": "user", "content": "so what is it like"}]))
    ) as chunks:
        async for chunk in chunks:
            yield chunk
