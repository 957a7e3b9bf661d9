"""How agents ask models within their turn: nested calls, a client, a key of the turn."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import TYPE_CHECKING

from chattable.agents.chat import Chat, Chunk
from chattable.agents.chattable import Context, Gateway, Trace
from chattable.proxy.cache.controls import pop_controls
from chattable.proxy.pipeline.daemon_threads import DaemonThreads
from chattable.proxy.pipeline.inprocess_client import client_for
from chattable.proxy.reply_stream import ReplyStream

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from chattable.proxy.pipeline.pipeline import Pipeline

AGENT_THREADS = 32


class AgentGateway(Gateway):
    """What a `Context` asks of the server that its turn runs in."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.base_url = ""  # where this very process is reached, for code that agents run
        self.threads: Executor = DaemonThreads(AGENT_THREADS, "agent")
        self.run_keys: dict[str, Context] = {}
        self._pipeline = pipeline

    async def run(self, chat: Chat, parent: Context) -> AsyncGenerator[Chunk]:
        """Answers a chat that an agent asks, within the agent's turn."""
        entry = self._pipeline.find(chat.model, parent.caller, parent)
        chat, caller = pop_controls(chat, parent.caller)
        reply = ReplyStream()
        reply.trace = parent.trace
        answer = self._pipeline.answer(chat, entry, caller, parent, reply)
        async with aclosing(answer) as chunks:
            async for chunk in chunks:
                yield chunk

    def client(self, ctx: Context) -> AsyncOpenAI:
        """An OpenAI client without a socket, whose requests are nested in the turn."""
        return client_for(self, ctx)

    def run_credentials(self, ctx: Context) -> tuple[str, str]:
        """A base URL and a key for code that needs a socket."""
        key = f"sk-run-{secrets.token_urlsafe(32)}"
        self.run_keys[key] = ctx
        return self.base_url, key

    def forget(self, trace: Trace) -> None:
        """Ends the keys of a turn, and of all below it, which have one trace."""
        for key in [key for key, ctx in self.run_keys.items() if ctx.trace is trace]:
            del self.run_keys[key]
