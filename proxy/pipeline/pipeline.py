"""One chat, top to bottom: history, rate limits, cache, model, hold, answer; each has its room, this file has their order."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

from msgspec.structs import replace

from chattable.agents.chat import Chat, Chunk
from chattable.agents.chattable import Context
from chattable.agents.drive import drive
from chattable.agents.errors import TurnTimeout
from chattable.agents.fold import Fold
from chattable.agents.parsing import check_tool_replies
from chattable.proxy.cache.cache import Cache
from chattable.proxy.cache.controls import take
from chattable.proxy.catalog.catalog import Catalog, Entry
from chattable.proxy.errors import ShuttingDownError, known
from chattable.proxy.identity.auth import Caller, Principal
from chattable.proxy.pipeline.daemon_threads import DaemonThreads
from chattable.proxy.pipeline.idempotency import Idempotency
from chattable.proxy.pipeline.inprocess_client import client_for
from chattable.proxy.pipeline.metering import Metering
from chattable.proxy.pipeline.rate_limits import Entered, Pace
from chattable.proxy.pipeline.targets import Routes
from chattable.proxy.reply_stream import Reply
from chattable.proxy.sessions.sessions import Sessions

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("chattable")


class Pipeline:
    """Answers chats.

    Every turn runs in a task of its own: what must happen after an answer happens whoever listens.
    """

    def __init__(
        self,
        catalog: Catalog,
        idempotency: Idempotency,
        sessions: Sessions,
        pace: Pace,
        cache: Cache,
        metering: Metering,
    ) -> None:
        self.catalog = catalog
        self.idempotency = idempotency
        self.sessions = sessions
        self.pace = pace
        self.cache = cache
        self.metering = metering
        self.base_url = ""  # where this very process is reached, for code that agents run
        self.threads: Executor = DaemonThreads(32, "agent")
        self.lent: dict[str, Context] = {}
        self.stopping = False
        self._running: dict[asyncio.Task[None], Reply] = {}

    def start(self, chat: Chat, caller: Caller) -> Reply:
        """Begins a turn for an HTTP request; once the server is stopping, only within turns that are under way."""
        if self.stopping and caller.parent is None:
            raise ShuttingDownError
        reply = Reply()
        reply.principal = caller.principal
        reply.task = asyncio.create_task(self._pump(chat, caller, reply))
        self._running[reply.task] = reply
        reply.task.add_done_callback(self._ended)
        return reply

    async def run(self, chat: Chat, parent: Context) -> AsyncGenerator[Chunk]:
        """Answers a chat that an agent asks, within the agent's turn."""
        entry = self.catalog.find(chat.model, parent.caller.principal)
        parent.enter(entry.name)
        reply = Reply()
        reply.trace = parent.trace
        async with aclosing(self._answer(chat, entry, parent.caller, parent, reply)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def write(self, chat: Chat, caller: Caller) -> str:
        """The words of an answer that belongs to no turn: a title, a summary."""
        fold = Fold()
        entry = self.catalog.find(chat.model, caller.principal)
        async with aclosing(self._answer(chat, entry, caller, None, Reply())) as chunks:
            async for chunk in chunks:
                fold.add(chunk)
        return fold.message().text

    async def _pump(self, chat: Chat, caller: Caller, reply: Reply) -> None:
        try:
            entry = self.catalog.find(chat.model, caller.principal)
            if caller.parent is not None:
                caller.parent.enter(entry.name)
            chat, controls = take(chat, caller.cache)
            if controls is not caller.cache:
                # what the body says counts for all that an agent asks as well
                caller = replace(caller, cache=controls)
            limit = nullcontext() if entry.model.leaf else asyncio.timeout(entry.limits.seconds)
            turn = self._once if caller.idempotency_key else self._turn
            async with limit, aclosing(turn(chat, entry, caller, reply)) as chunks:
                async for chunk in chunks:
                    await reply.put(chunk)
            reply.end()
        except TimeoutError:
            reply.end(
                TurnTimeout(
                    f"The agent `{chat.model}` did not answer within {entry.limits.seconds:g} seconds."
                )
            )
        except Exception as error:
            if not known(error) or error.__cause__ is not None:
                log.exception("request %s failed", caller.request_id)
            reply.end(error)
        finally:
            if self.lent:
                for key in [key for key, ctx in self.lent.items() if ctx.caller is caller]:
                    del self.lent[key]

    def _ended(self, task: asyncio.Task[None]) -> None:
        reply = self._running.pop(task)
        if not reply.ended:  # it was cancelled
            reply.end(ShuttingDownError())

    async def _once(
        self, chat: Chat, entry: Entry, caller: Caller, reply: Reply
    ) -> AsyncGenerator[Chunk]:
        async with self.idempotency.once(chat, caller, reply) as once:
            reply.headers |= once.headers
            for chunk in once.replay or ():
                yield chunk
            if once.replay is None:
                async with aclosing(self._turn(chat, entry, caller, reply)) as chunks:
                    async for chunk in chunks:
                        once.see(chunk)
                        yield chunk

    async def _turn(
        self, chat: Chat, entry: Entry, caller: Caller, reply: Reply
    ) -> AsyncGenerator[Chunk]:
        async with self.sessions.turn(chat, entry, caller, reply) as turn:
            reply.headers |= turn.headers
            for chunk in turn.replay or ():
                turn.see(chunk)
                yield chunk
            if turn.replay is None:
                check_tool_replies(turn.chat.messages)
                async with aclosing(
                    self._answer(turn.chat, turn.entry, turn.caller, caller.parent, reply)
                ) as chunks:
                    async for chunk in chunks:
                        turn.see(chunk)
                        yield chunk

    async def _answer(
        self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None, reply: Reply
    ) -> AsyncGenerator[Chunk]:
        def ask() -> AsyncGenerator[Chunk]:
            reply.headers |= cached.headers  # noqa: F821 - until the end
            return self._ask(chat, entry, caller, parent, reply, paced)

        chat, controls = take(chat, caller.cache)
        nested = parent is not None
        async with self.pace.call(chat, entry, caller, nested=nested, reply=reply) as paced:
            cached = self.cache.lookup(chat, entry, caller, controls, ask, reply.trace)
            async with cached:
                reply.headers |= await paced.admitted() | cached.headers
                async with aclosing(cached.answer()) as chunks:
                    async for chunk in chunks:
                        if cached.asked:  # what costs nothing counts for nothing
                            paced.see(chunk)
                        yield chunk
                if cached.saved is not None:
                    await self.metering.spared(chat, entry, caller, parent, cached.saved)
        del cached  # it holds `ask`, which holds it: a circle is memory until it is collected

    async def _ask(
        self,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        parent: Context | None,
        reply: Reply,
        paced: Entered,
    ) -> AsyncGenerator[Chunk]:
        await paced.admitted()
        routes = Routes(self.catalog, chat, entry, caller, reply.trace)
        for target in routes:
            leaf = target.model.leaf
            try:
                async with self.metering.call(chat, target, caller, parent, routes.follows) as call:
                    reply.headers |= call.headers
                    ctx = self._context(call.chat, target, caller, parent, reply)
                    call.progress = ctx.progress = routes.progress
                    async with aclosing(drive(target.model, ctx)) as chunks:
                        async for chunk in chunks:
                            routes.answering()
                            call.see(chunk)
                            if chunk.usage is None or not leaf:
                                yield chunk
                            # it ignores the cap it was sent
                            if call.suspect and await call.overrun():
                                for index in call.choices:
                                    yield Chunk(index, {}, "length")
                                break
                    routes.ended(True)
                    if leaf:
                        usage = await call.usage()
                        ctx.add_usage(usage)
                        yield Chunk(usage=usage, facts=call.facts)
                    return
            except Exception as error:
                if not await routes.failed(error):
                    raise
            finally:
                routes.ended()

    def _context(
        self, chat: Chat, entry: Entry, caller: Caller, parent: Context | None, reply: Reply
    ) -> Context:
        limits, session = (
            entry.limits.within(caller.max_calls),
            caller.session if parent is None else None,
        )
        user = caller.principal.user
        return Context(
            self,
            chat,
            user,
            entry.name,
            caller,
            parent=parent,
            limits=limits,
            trace=reply.trace,
            session=session,
        )

    def client(self, ctx: Context) -> AsyncOpenAI:
        """An OpenAI client without a socket, whose requests are nested in the turn."""
        return client_for(self, ctx)

    def lend(self, ctx: Context) -> tuple[str, str]:
        """A base URL and a key for code that needs a socket; the key dies with the turn."""
        key = f"sk-run-{secrets.token_urlsafe(32)}"
        self.lent[key] = ctx
        return self.base_url, key

    def askers(self) -> Iterator[Principal]:
        """Who has turns under way."""
        return (reply.principal for reply in self._running.values() if reply.principal)

    def drop(
        self, whose: Callable[[Principal], bool], error: BaseException
    ) -> list[asyncio.Task[None]]:
        """Ends turns of which nothing is to be kept, and returns those that are yet to end."""
        dropped = []
        for task, reply in self._running.items():
            if reply.principal and whose(reply.principal):
                reply.drop(error)
                dropped.append(task)
        return dropped

    async def stop(self, grace: float) -> None:
        """Lets running turns end, for `grace` seconds; then ends them with an error."""
        self.stopping = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=5)

    @property
    def running(self) -> int:
        """How many turns are under way."""
        return len(self._running)
