"""One chat, top to bottom: history, rate limits, cache, model, hold, answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chattable.agents.chat import Chat, Chunk
from chattable.agents.chattable import Context
from chattable.agents.fold import Accumulator
from chattable.agents.parsing import check_tool_replies
from chattable.proxy.cache.cache import ResponseCache
from chattable.proxy.cache.controls import PLAIN
from chattable.proxy.catalog.catalog import CatalogHolder, Entry
from chattable.proxy.identity.auth import Caller
from chattable.proxy.pipeline.agent_gateway import AgentGateway
from chattable.proxy.pipeline.attempts import Question, ask_targets
from chattable.proxy.pipeline.idempotency import Idempotency
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.rate_limits import RateLimiter
from chattable.proxy.reply_stream import ReplyStream
from chattable.proxy.sessions.sessions import Sessions


class Pipeline:
    """The order of what happens to a chat.

    A turn of an HTTP request takes all steps: a repeat is answered as before, a session adds its
    history. What an agent asks within its turn, and what the server asks for itself, begins at the
    rate limits. `reply` is who reads the answer; the facts for its headers are joined here.

    What is read is closed by `try`: `aclosing` is three calls a step, for every chat.
    """

    def __init__(
        self,
        catalogs: CatalogHolder,
        idempotency: Idempotency,
        sessions: Sessions,
        rate_limiter: RateLimiter,
        cache: ResponseCache,
        metering: Metering,
    ) -> None:
        self.catalogs = catalogs
        self.idempotency = idempotency
        self.sessions = sessions
        self.rate_limiter = rate_limiter
        self.cache = cache
        self.metering = metering
        self.gateway = AgentGateway(self)

    def find(self, model: str, caller: Caller, parent: Context | None) -> Entry:
        """What a name stands for; within an agent's turn, one call of those that it may make."""
        entry = self.catalogs.current.find(model, caller.principal)
        if parent is not None:
            parent.enter(entry.name)
        return entry

    async def once(
        self, chat: Chat, entry: Entry, caller: Caller, reply: ReplyStream
    ) -> AsyncGenerator[Chunk]:
        """Answers an HTTP request that has an `Idempotency-Key`."""
        async with self.idempotency.once(chat, caller, reply) as once:
            reply.headers |= once.headers
            for chunk in once.replay or ():
                yield chunk
            if once.replay is None:
                async with aclosing(self.in_session(chat, entry, caller, reply)) as chunks:
                    async for chunk in chunks:
                        once.see(chunk)
                        yield chunk

    async def in_session(
        self, chat: Chat, entry: Entry, caller: Caller, reply: ReplyStream
    ) -> AsyncGenerator[Chunk]:
        """Answers an HTTP request, in the session that it names if there is one."""
        async with self.sessions.turn(chat, entry, caller, reply) as turn:
            reply.headers |= turn.headers
            for chunk in turn.replay or ():
                turn.observe(chunk)
                yield chunk
            if turn.replay is None:
                check_tool_replies(turn.chat.messages)
                chunks = self.answer(turn.chat, turn.entry, turn.caller, caller.parent, reply)
                try:
                    async for chunk in chunks:
                        turn.observe(chunk)
                        yield chunk
                finally:
                    await chunks.aclose()

    async def answer(
        self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None, reply: ReplyStream
    ) -> AsyncGenerator[Chunk]:
        """Answers a chat whose history is complete."""

        def ask() -> AsyncGenerator[Chunk]:
            reply.headers |= cached.headers
            question = Question(
                chat, entry, caller, parent, reply.trace, self.gateway, admission, reply.headers
            )
            return ask_targets(question, self.catalogs.current, self.metering)

        nested = parent is not None
        limited = self.rate_limiter.call(chat, entry, caller, nested=nested, reply=reply)
        async with limited as admission:
            controls = caller.cache or PLAIN
            cached = self.cache.lookup(chat, entry, caller, controls, ask, reply.trace)
            async with cached:
                reply.headers |= await admission.wait() | cached.headers
                chunks = cached.answer()
                try:
                    async for chunk in chunks:
                        if cached.made_the_call:  # what costs nothing counts for nothing
                            admission.see(chunk)
                        yield chunk
                finally:
                    await chunks.aclose()
                if cached.saved_usage is not None:
                    await self.metering.spared(chat, entry, caller, parent, cached.saved_usage)

    async def write(self, chat: Chat, caller: Caller) -> str:
        """The words of an answer that belongs to no turn: a title, a summary."""
        fold = Accumulator()
        entry = self.catalogs.current.find(chat.model, caller.principal)
        async with aclosing(self.answer(chat, entry, caller, None, ReplyStream())) as chunks:
            async for chunk in chunks:
                fold.add(chunk)
        return fold.message().text
