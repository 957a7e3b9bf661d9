"""The place of sessions in the pipeline: what a request becomes with its history, and what is kept of the exchange."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from chattable.agents.chat import Chat, Message
from chattable.agents.errors import ModelNotFound
from chattable.agents.loading import made
from chattable.proxy import config as settings
from chattable.proxy.auth import Caller
from chattable.proxy.catalog import Catalog, Entry
from chattable.proxy.reply import Reply
from chattable.proxy.sessions import chores, turns
from chattable.proxy.sessions.doors import Door, Doors
from chattable.proxy.sessions.exchange import STATELESS, KeptTurn, Stateless, Turn, kept
from chattable.proxy.sessions.failed import Failed
from chattable.proxy.sessions.locks import Locks, new_holder
from chattable.proxy.sessions.scribe import Scribe
from chattable.proxy.sessions.turns import Plan
from chattable.proxy.store import session_values as values
from chattable.proxy.store import sessions as stored
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import StoreError, Unavailable
from chattable.proxy.store.session_chain import spoken
from chattable.proxy.store.session_sql import SqlSessions
from chattable.proxy.store.sessions import Committed, HeadMoved, Retention, Session, SessionStore, Window

log = logging.getLogger("chattable")

SWEEP = 600.0  # seconds between two looks for sessions that need not be kept
SOME = 100  # sessions in one step of it
PERSISTENCE, PAUSE = 2.0, 0.1  # seconds in which a commit is tried again, and between two tries, longer each time
ANSWER = 4096  # tokens that are left for an answer where nobody says how long it may be


class Sessions:
    """Keeps conversations.

    Law: what was said is kept before the client is told that the answer is complete, the question together with the answer or
    neither; a turn that fails leaves no trace, and one whose client left keeps what was said, marked as incomplete.
    """

    def __init__(self, store: SessionStore, config: settings.Sessions, catalog: Catalog, scribe: Scribe) -> None:
        self.doors = Doors(config)
        self.scribe = scribe
        self._store = store
        self._config = config
        self._catalog = catalog
        self.locks = Locks(store, config.wait)
        keep = config.retention
        self._keep = Retention(newest=keep.max_sessions_per_user, seconds=keep.max_age, messages=keep.max_messages)
        self._failed = Failed()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to renew locks and to remove what need not be kept."""
        await self.locks.start()
        if self._keep != Retention():
            self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Ends; titles and summaries that are under way are left."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        await self.locks.stop()

    def turn(self, chat: Chat, entry: Entry, caller: Caller, reply: Reply) -> AbstractAsyncContextManager[Turn]:
        """The turn that a request is. Left without an exception, it is kept."""
        chat, door = self.doors.of_body(chat, caller.door)
        if door is None or door.mode == "off":
            return Stateless(Turn(chat, entry, caller, STATELESS))
        return self._kept(chat, entry, caller, reply, door)

    @asynccontextmanager
    async def _kept(self, chat: Chat, entry: Entry, caller: Caller, reply: Reply, door: Door) -> AsyncGenerator[Turn]:
        user, create = caller.principal.user.id, self._config.unknown == "create"
        holder = new_holder()
        chore = chores.recognised(chat, door.task) if door.task or door.mode != "append" else None
        async with AsyncExitStack() as stack:
            if chore is None and (door.mode == "append" or (door.mode == "auto" and len(spoken(chat.messages)) == 1)):
                tokens = turns.room_beside(chat, _room(chat, entry, self._config.window.tokens))
                most = self._config.window.messages
                taking = self.locks.take(user, door.name, holder, create=create, model=entry.name, messages=most, tokens=tokens)
                session, window = await stack.enter_async_context(taking)
                plan = await self._appended(session, chat, entry, caller, retried=door.retried, window=window)
            else:
                session = await self._store.open(user, door.name, create=create, model=entry.name)
                if chore is not None:
                    plan, entry = await self._chore(chore, session, chat, entry, caller)
                elif door.mode == "mirror" or await turns.resent(self._store, session, chat):
                    plan = await turns.mirrored(self._store, session, chat)
                else:
                    session = await stack.enter_async_context(self.locks.hold(session, holder))
                    plan = await self._appended(session, chat, entry, caller, retried=door.retried)
            for message in plan.new:
                _storable(message)
            turn = KeptTurn(plan, session, chat, entry, caller)
            try:
                yield turn
            except (asyncio.CancelledError, GeneratorExit):
                if reply.left and turn.said and not plan.side and self._config.keep_partial:
                    await self._commit(turn, holder, incomplete=True)
                else:
                    self._failed.add(session.id, chat.messages)
                raise
            except Exception:
                self._failed.add(session.id, chat.messages)
                raise
            if plan.replay is None:
                await self._commit(turn, holder, incomplete=turn.incomplete)
        self._afterwards(turn, chore)

    async def _appended(
        self, session: Session, chat: Chat, entry: Entry, caller: Caller, *, retried: bool, window: Window | None = None
    ) -> Plan:
        most, tokens = self._config.window.messages, _room(chat, entry, self._config.window.tokens)
        again = time.time() if retried and not self._failed.has(session.id, chat.messages) else None
        appended = partial(turns.appended, chat=chat, most=most, tokens=tokens, retried=again)
        plan = await appended(self._store, session, window=window)
        if plan.cut and await self.scribe.summarise(session, caller, fitting=plan.length):  # only then it is worth waiting for
            session = await self._store.open(session.user_id, session.id, create=False)
            plan = await appended(self._store, session)
        return plan

    async def _chore(self, chore: str, session: Session, chat: Chat, entry: Entry, caller: Caller) -> tuple[Plan, Entry]:
        """What a chat UI asks for its own ends is never history, and no agent is run for it where that can be helped."""
        plan = await turns.mirrored(self._store, session, chat, side=True)
        if chore != chores.OTHER:
            if self._config.title.model:
                with suppress(ModelNotFound):  # not for this key
                    entry = self._catalog.find(self._config.title.model, caller.principal)
            if not entry.model.leaf:
                plan = replace(plan, replay=chores.answered(chore, chat))
        return plan, entry

    async def _commit(self, turn: KeptTurn, holder: str, *, incomplete: bool = False) -> None:
        try:
            committed = await self._stored(turn.session, kept(turn, holder, incomplete=incomplete))
        except HeadMoved:
            if turn.plan.mode == "appended":
                raise
            turn.plan = replace(turn.plan, head=UNSET, side=True)  # a lone prompt: the conversation has begun beside it
            committed = await self._stored(turn.session, kept(turn, holder, incomplete=incomplete))
        self.locks.freed(holder)
        self._failed.discard(turn.session.id, turn.plan.new)
        turn.session = committed.session

    async def _stored(self, session: Session, turn: stored.Turn) -> Committed:
        """Commits, if need be again: an answer is not lost to a moment in which the database is busy. Its key counts once."""
        until = time.monotonic() + PERSISTENCE
        for pause in itertools.count(1):
            try:
                return await self._store.commit(session, turn)
            except Unavailable:
                if time.monotonic() + PAUSE * pause > until:
                    raise
            await asyncio.sleep(PAUSE * pause)
        raise AssertionError("counting has no end")

    def _afterwards(self, turn: KeptTurn, chore: str | None) -> None:
        """What the client need not wait for."""
        plan, session, caller = turn.plan, turn.session, turn.caller
        if chore == chores.TITLE:
            self._later(self.scribe.entitle(session, chores.title_in(turn.answer.text)))
        elif not plan.side:
            if session.title is None:
                self._later(self.scribe.title(session, caller, plan.messages, turn.answer))
            if plan.length >= self._config.summary.after:
                self._later(self.scribe.summarise(session, caller))
            if plan.parent is None and (self._keep.newest is not None or self._keep.seconds is not None):
                self._later(self._store.sweep(self._keep, session.user_id, SOME))

    def _later(self, work: Any) -> None:
        async def quietly() -> None:
            try:
                await work
            except StoreError as error:
                log.warning("a session is not tidied up: %s", error)
            except Exception:
                log.exception("a session is not tidied up")

        task = asyncio.create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            done = SOME
            try:
                while done >= SOME:
                    done = await self._store.sweep(self._keep, None, SOME)
            except StoreError as error:
                log.warning("sessions are not swept: %s", error)


def open_store(config: settings.Config, database: Database) -> SessionStore:
    """Where a config keeps sessions; raises `LoadError` for a store of the deployer's own that cannot be built."""
    store: SessionStore = made(config.sessions.store) if config.sessions.store else SqlSessions(database)
    return store


def _room(chat: Chat, entry: Entry, most: int | None) -> int | None:
    """How many tokens a prompt may have; None: nobody knows."""
    if entry.context_length is None:
        return most
    asked = chat.params.get("max_completion_tokens") or chat.params.get("max_tokens")
    answer = asked or min(entry.max_output or ANSWER, ANSWER, entry.context_length // 4)
    room = int((entry.context_length - answer) * 0.95)  # messages are estimated, not counted
    return room if most is None else min(room, most)


def _storable(message: Message) -> None:
    """Refuses before the answer what could not be stored after it."""
    if not isinstance(message.content, str) or message.tool_calls or message.extra:
        values.message_text(message)
