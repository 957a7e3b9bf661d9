"""Agents of the recording."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from msgspec import Meta
from openai import OpenAI

from chattable.agents.chat import Message
from chattable.agents.chattable import Chattable, Context


async def chain(message: Message, ctx: Context) -> AsyncIterator[Any]:
    """Asks two models, the second with what the first has said."""
    first = await ctx.chat("m", [Message("user", f"first {message.text}")], stream=False)
    async for chunk in ctx.chat("other", [Message("user", f"then {first.text}")]):
        yield chunk


async def sdk(message: Message, ctx: Context) -> str:
    """Asks through the SDK without a socket."""
    asked: Any = {"role": "user", "content": message.text}
    said = await ctx.client.chat.completions.create(model="m", messages=[asked])
    return f"sdk: {said.choices[0].message.content}"


def lent(message: Message, ctx: Context) -> str:
    """Asks by the address and the key that are lent for the turn."""
    asked: Any = {"role": "user", "content": message.text}
    with OpenAI(base_url=ctx.base_url, api_key=ctx.api_key, max_retries=0) as client:
        said = client.chat.completions.create(model="m", messages=[asked])
        found = client.embeddings.create(model="m", input="words", encoding_format="float")
    return f"{said.choices[0].message.content}, {len(found.data)} embedded"


def fails(message: Message) -> str:
    """Has a fault."""
    raise ValueError("a secret of the operator")


def calls(message: Message) -> Message:
    """Asks the client to run a tool."""
    function = {"name": "weather", "arguments": '{"city": "Bonn"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    return Message("assistant", tool_calls=[call])


def counts(message: Message, ctx: Context) -> str:
    """Keeps a number in its session."""
    if ctx.session is None:
        return "no session"
    ctx.session.state["turns"] = ctx.session.state.get("turns", 0) + 1
    return f"turn {ctx.session.state['turns']}"


class Moody(Chattable):
    """Has parameters of its own."""

    accepts = {"rounds": Annotated[int, Meta(ge=1, le=3)], "mood": Literal["calm", "gruff"]}

    def chat(self, message: Message, ctx: Context) -> str:
        """Says them."""
        return f"{ctx.params.get('rounds')} {ctx.params.get('mood')}"
