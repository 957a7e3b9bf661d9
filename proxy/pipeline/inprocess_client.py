"""An OpenAI client for agents without a socket: its requests are nested in their turn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from chattable.agents.chat import Chat
from chattable.agents.chattable import Context, Gateway
from chattable.agents.errors import ChatError, InvalidRequest
from chattable.agents.fold import Accumulator
from chattable.agents.parsing import parse
from chattable.proxy.dialects.chat_completions import DONE, Frames, error_frame
from chattable.proxy.errors import describe
from chattable.proxy.reply_stream import ReplyStream

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI


def client_for(gateway: Gateway, ctx: Context) -> AsyncOpenAI:
    """The client of one turn.

    Law: it streams as chunks come, and closing a stream early ends the nested turn.
    """
    import httpx2
    from openai import AsyncOpenAI

    class AnswerBody(httpx2.AsyncByteStream):
        def __init__(self, blocks: AsyncGenerator[bytes]) -> None:
            self._blocks = blocks

        def __aiter__(self) -> AsyncGenerator[bytes]:
            return self._blocks

        async def aclose(self) -> None:
            await self._blocks.aclose()

    class GatewayTransport(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            try:
                if not request.url.path.endswith("/chat/completions"):
                    raise InvalidRequest("Inside an agent there is only POST /chat/completions.")
                chat = parse(msgspec.json.decode(await request.aread()))
                blocks = _blocks(gateway, ctx, chat)
                first = await anext(blocks)  # a failure before it becomes a status
            except Exception as error:
                failure = describe(error)
                return httpx2.Response(
                    failure.status,
                    content=failure.body(),
                    headers={"content-type": "application/json"},
                )
            kind = "text/event-stream" if chat.stream else "application/json"
            return httpx2.Response(
                200, headers={"content-type": kind}, stream=AnswerBody(_after(first, blocks))
            )

    # Retries are the pipeline's business; the key is never sent anywhere.
    return AsyncOpenAI(
        base_url="http://gateway/v1",
        api_key="in-process",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=GatewayTransport()),
    )


async def _blocks(gateway: Gateway, ctx: Context, chat: Chat) -> AsyncGenerator[bytes]:
    """The body of the answer: frames as chunks come, or one object at the end."""
    frames = Frames(ReplyStream(), chat.model, include_usage=chat.include_usage)
    fold = Accumulator()
    try:
        async with aclosing(gateway.run(chat, ctx)) as chunks:
            async for chunk in chunks:
                if chat.stream:
                    yield frames.encode([chunk])
                else:
                    fold.add(chunk)
        yield DONE if chat.stream else frames.completion(fold)
    except ChatError as error:
        if not chat.stream or not frames.begun:
            raise
        yield error_frame(describe(error))


async def _after(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for block in rest:
            yield block
