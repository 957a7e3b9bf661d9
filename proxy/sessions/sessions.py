"""The place of sessions in the pipeline: what a request becomes with its history, and what is kept of the exchange."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from chattable.adapters.errors import ConnectionReclaimed
from chattable.agents.chat import Chat, Message
from chattable.agents.loading import made
from chattable.budget.periodic import Periodic
from chattable.budget.storage.errors import StorageError, StorageUnavailable
from chattable.proxy.catalog.catalog import CatalogHolder, Entry
from chattable.proxy.config import settings
from chattable.proxy.config.ui_tasks import TITLE
from chattable.proxy.identity.auth import KEY_CACHE_S, Caller
from chattable.proxy.reply_stream import ReplyStream
from chattable.proxy.sessions import plans
from chattable.proxy.sessions.locks import Claim, Held, Locks, new_holder
from chattable.proxy.sessions.plans import Plan
from chattable.proxy.sessions.recent_failures import RecentFailures
from chattable.proxy.sessions.resolver import SessionRef, SessionResolver
from chattable.proxy.sessions.titles_and_summaries import TitlesAndSummaries
from chattable.proxy.sessions.turn import STATELESS, KeptTurn, Stateless, Turn, turn_record
from chattable.proxy.sessions.ui_task_routing import UiTaskRouting
from chattable.proxy.sessions.ui_tasks import UiTask
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import HeadMoved
from chattable.proxy.store.sessions import port as stored
from chattable.proxy.store.sessions import values
from chattable.proxy.store.sessions.chain import conversation_messages
from chattable.proxy.store.sessions.port import Committed, Retention, SessionRecord, SessionStore
from chattable.proxy.store.sessions.sql_store import SqlSessions

log = logging.getLogger("chattable")

SWEEP = 600.0  # seconds between two looks for sessions that need not be kept
SOME = 100  # sessions in one step of it
# seconds in which a commit is tried again, and between two tries, longer each time
PERSISTENCE, PAUSE = 2.0, 0.1
ANSWER = 4096  # tokens that are left for an answer where nobody says how long it may be


class Sessions:
    """Keeps conversations.

    Law: what was said is kept before the client is told that the answer is complete, the question
    together with the answer or neither; a turn that fails leaves no trace, and one whose client
    left keeps what was said, marked as incomplete.
    """

    def __init__(
        self,
        store: SessionStore,
        config: settings.SessionSettings,
        catalogs: CatalogHolder,
        titles_and_summaries: TitlesAndSummaries,
    ) -> None:
        self.resolver = SessionResolver(config)
        self.titles_and_summaries = titles_and_summaries
        self._store = store
        self._config = config
        self._ui_tasks = UiTaskRouting(config, catalogs)
        self.locks = Locks(store, config.wait)
        keep = config.retention
        self._keep = Retention(
            newest=keep.max_sessions_per_user, seconds=keep.max_age, messages=keep.max_messages
        )
        self._failed = RecentFailures()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sweeper = Periodic(
            "sessions that need not be kept",
            self._sweep,
            SWEEP,
            expected=(StorageError,),
        )

    async def start(self) -> None:
        """Begins to renew locks and to remove what need not be kept."""
        await self.locks.start()
        if self._keep != Retention():
            self._sweeper.start()

    async def stop(self) -> None:
        """Ends; titles and summaries that are under way are left."""
        await self._sweeper.stop()
        for task in self._tasks:
            task.cancel()
        await self.locks.stop()

    async def forget(self, user: str) -> None:
        """Deletes all sessions of a user who is gone.

        Again a little later: another replica believes the key for a moment, and may begin one.
        """

        async def again() -> None:
            await asyncio.sleep(2 * KEY_CACHE_S)
            await self._forget(user)

        await self._forget(user)
        self._later(again())

    async def _forget(self, user: str) -> None:
        while await self._store.forget(user, SOME):
            pass

    def turn(
        self, chat: Chat, entry: Entry, caller: Caller, reply: ReplyStream
    ) -> AbstractAsyncContextManager[Turn]:
        """The turn that a request is. Left without an exception, it is kept."""
        ref = caller.session_ref
        if ref is not None and ref.named:
            return self._kept(chat, entry, caller, ref, Claim(new_holder(), chat, reply))
        turn = Turn(chat, entry, caller, STATELESS)
        by_ui = ref is not None and (ref.task or ref.ui)
        if ref is not None and by_ui and (task := self._ui_tasks.task_of(chat, ref)):
            turn.entry, turn.replay = self._ui_tasks.route(task, chat, entry, caller)
        return Stateless(turn)

    @asynccontextmanager
    async def _kept(
        self,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        ref: SessionRef,
        claim: Claim,
    ) -> AsyncGenerator[Turn]:
        task = self._ui_tasks.task_of(chat, ref)
        async with AsyncExitStack() as stack:
            found = await self._session(stack, chat, entry, caller, ref, claim, task)
            held = found if isinstance(found, Held) else None
            session = found.session if isinstance(found, Held) else found
            if held is not None:
                chat, plan = await self._appended(held, chat, entry, caller, ref)
            else:
                plan = await plans.mirrored(self._store, session, chat, off_path=task is not None)
            if task is not None:
                entry, replay = self._ui_tasks.route(task, chat, entry, caller)
                plan = replace(plan, replay=replay)
            for message in plan.new:
                _storable(message)
            turn = KeptTurn(plan, session, chat, entry, caller, claim, held)
            try:
                yield turn
            except (asyncio.CancelledError, GeneratorExit, ConnectionReclaimed):
                if self._config.keep_partial and turn.partial:
                    await self._commit(turn, incomplete=True)
                else:
                    self._failed.add(session.id, chat.messages)
                raise
            except Exception:
                self._failed.add(session.id, chat.messages)
                raise
            if claim.reply is not None:
                claim.reply.seal()
            if plan.replay is None:
                await self._commit(turn, incomplete=turn.incomplete)
        self._afterwards(turn, task)

    async def _session(
        self,
        stack: AsyncExitStack,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        ref: SessionRef,
        claim: Claim,
        task: UiTask | None,
    ) -> SessionRecord | Held:
        """The session of a turn: held where it appends, else as it is."""
        user, create = caller.principal.user.id, self._config.unknown == "create"
        appends = ref.mode == "append" or (
            ref.mode == "auto" and len(conversation_messages(chat.messages)) == 1
        )
        if appends and task is None:
            taking = self.locks.take(
                user,
                ref.name,
                claim,
                create=create,
                model=entry.name,
                messages=self._config.window.messages,
                tokens=plans.room_beside(chat, _room(chat, entry, self._config.window.tokens)),
            )
            return await stack.enter_async_context(taking)
        session = await self._store.open(user, ref.name, create=create, model=entry.name)
        mirrors = task is not None or ref.mode == "mirror"
        if mirrors or await plans.resent(self._store, session, chat):
            return session
        return await stack.enter_async_context(self.locks.hold(session, claim))

    async def _appended(
        self,
        held: Held,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        ref: SessionRef,
    ) -> tuple[Chat, Plan]:
        """What is new of a request, and what becomes of it behind the stored history."""
        session, anew = held.session, False
        if ref.mode == "auto" and (new := await plans.unanswered(self._store, session, chat)):
            chat, anew = replace(chat, messages=new.messages), new.anew
        most, tokens = self._config.window.messages, _room(chat, entry, self._config.window.tokens)
        now = time.time() if ref.retried or held.repeated else None
        failed = now is not None and self._failed.has(session.id, chat.messages)
        plan_with = partial(
            plans.appended,
            chat=chat,
            most=most,
            tokens=tokens,
            anew=anew,
            retried=now,
            failed=failed,
        )
        plan = await plan_with(self._store, session, window=held.window)
        # only then it is worth waiting for
        if plan.cut and await self.titles_and_summaries.summarise(
            session, caller, fitting=plan.length
        ):
            session = await self._store.open(session.user_id, session.id, create=False)
            plan = await plan_with(self._store, session)
        return chat, plan

    async def _commit(self, turn: KeptTurn, *, incomplete: bool = False) -> None:
        if turn.left and turn.held is None and not turn.plan.off_path:  # its user may have gone on
            turn.plan = replace(turn.plan, head=turn.session.head)
        try:
            committed = await self._stored(turn.session, turn_record(turn, incomplete=incomplete))
        except HeadMoved:
            if turn.held is not None:
                raise
            # A lone prompt beside which the conversation began, or a turn that its user has left.
            turn.plan = replace(turn.plan, head=UNSET, off_path=True)
            committed = await self._stored(turn.session, turn_record(turn, incomplete=incomplete))
        self.locks.freed(turn.claim.holder)
        self._failed.discard(turn.session.id, turn.plan.new)
        turn.session = committed.session

    async def _stored(self, session: SessionRecord, turn: stored.TurnRecord) -> Committed:
        """Commits, if need be again: an answer is not lost to a moment in which the database is busy. Its key counts once."""
        until = time.monotonic() + PERSISTENCE
        for pause in itertools.count(1):
            try:
                return await self._store.commit(session, turn)
            except StorageUnavailable:
                if time.monotonic() + PAUSE * pause > until:
                    raise
            await asyncio.sleep(PAUSE * pause)
        raise AssertionError("counting has no end")

    def _afterwards(self, turn: KeptTurn, task: UiTask | None) -> None:
        """What the client need not wait for."""
        plan, session, caller = turn.plan, turn.session, turn.caller
        if task is not None:
            if task.kind == TITLE:
                self._later(self.titles_and_summaries.adopt_title(session, turn.answer_text))
        elif not plan.off_path:
            if session.title is None:
                self._later(
                    self.titles_and_summaries.write_title(
                        session, caller, plan.messages, turn.answer
                    )
                )
            if plan.length >= self._config.summary.after:
                self._later(self.titles_and_summaries.summarise(session, caller))
            if plan.parent is None and (
                self._keep.newest is not None or self._keep.seconds is not None
            ):
                self._later(self._store.sweep(self._keep, session.user_id, SOME))

    def _later(self, work: Any) -> None:
        async def quietly() -> None:
            try:
                await work
            except StorageError as error:
                log.warning("a session is not tidied up: %s", error)
            except Exception:
                log.exception("a session is not tidied up")

        task = asyncio.create_task(quietly())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        while await self._store.sweep(self._keep, None, SOME) >= SOME:
            pass


def open_store(config: settings.Config, database: Database) -> SessionStore:
    """Where a config keeps sessions; raises `LoadError` for a store of the deployer's own that cannot be built."""
    store: SessionStore = (
        made(config.sessions.store) if config.sessions.store else SqlSessions(database.storage)
    )
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
