"""Sessions in the pipeline: gives a request its history, and stores the turn that it becomes."""

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

SWEEP_S = 600.0  # between two looks for sessions that need not be kept
NEW_SWEEP_S = 2.0  # … of users who have begun one
SWEEP_SESSIONS = 100  # in one step of it
COMMIT_RETRIES_S = 2.0  # in which a commit is tried again while the database is unavailable
COMMIT_PAUSE_S = 0.1  # before the second try, longer before each that follows
ANSWER_TOKENS = 4096  # left for an answer whose length no one has limited


class Sessions:
    """Keeps conversations.

    Law: a turn is stored before the client learns that the answer is complete, the question
    together with the answer or neither. Of a turn that fails nothing is stored; of one whose client
    left the answer so far, marked as incomplete.
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
        self._grown: set[str] = set()  # users who have begun a session since the last look
        self._sweepers = [
            Periodic(
                "sessions that need not be kept", self._sweep, SWEEP_S, expected=(StorageError,)
            ),
            Periodic(
                "sessions beside new ones", self._sweep_grown, NEW_SWEEP_S, expected=(StorageError,)
            ),
        ]

    async def start(self) -> None:
        """Starts renewing locks and removing what need not be kept."""
        await self.locks.start()
        if self._keep != Retention():
            for sweeper in self._sweepers:
                sweeper.start()

    async def stop(self) -> None:
        """Stops; titles and summaries that are under way are dropped."""
        for sweeper in self._sweepers:
            await sweeper.stop()
        for task in self._tasks:
            task.cancel()
        await self.locks.stop()

    async def forget(self, user: str) -> None:
        """Deletes all sessions of a user who was deleted.

        Once more a little later: another replica accepts the key for a moment, and may begin one.
        """

        async def again() -> None:
            await asyncio.sleep(2 * KEY_CACHE_S)
            await self._forget(user)

        await self._forget(user)
        self._later(again())

    async def _forget(self, user: str) -> None:
        while await self._store.forget(user, SWEEP_SESSIONS):
            pass

    def turn(
        self, chat: Chat, entry: Entry, caller: Caller, reply: ReplyStream
    ) -> AbstractAsyncContextManager[Turn]:
        """The turn of a request. Left without an exception, it is stored."""
        ref = caller.session_ref
        if ref is not None and ref.named:
            return self._in_session(chat, entry, caller, ref, Claim(new_holder(), chat, reply))
        turn = Turn(chat, entry, caller, STATELESS)
        by_ui = ref is not None and (ref.task or ref.ui)
        if ref is not None and by_ui and (task := self._ui_tasks.task_of(chat, ref)):
            turn.entry, turn.replay = self._ui_tasks.route(task, chat, entry, caller)
        return Stateless(turn)

    @asynccontextmanager
    async def _in_session(
        self, chat: Chat, entry: Entry, caller: Caller, ref: SessionRef, claim: Claim
    ) -> AsyncGenerator[Turn]:
        task = self._ui_tasks.task_of(chat, ref)
        async with AsyncExitStack() as stack:
            session, held = await self._open(stack, chat, entry, caller, ref, claim, task)
            turn = await self._turn(session, held, chat, entry, caller, ref, claim, task)
            try:
                yield turn
            except (Exception, asyncio.CancelledError, GeneratorExit) as error:
                await self._break_off(turn, error)
                raise
            if claim.reply is not None:
                claim.reply.seal()
            if turn.replay is None:
                await self._commit(turn, incomplete=turn.incomplete)
        self._afterwards(turn, task)

    async def _open(
        self,
        stack: AsyncExitStack,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        ref: SessionRef,
        claim: Claim,
        task: UiTask | None,
    ) -> tuple[SessionRecord, Held | None]:
        """The session of a turn; if the turn appends to it, held until the stack ends."""
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
            held = await stack.enter_async_context(taking)
            return held.session, held
        session = await self._store.open(user, ref.name, create=create, model=entry.name)
        mirrors = task is not None or ref.mode == "mirror"
        if mirrors or await plans.resent(self._store, session, chat):
            return session, None
        held = await stack.enter_async_context(self.locks.hold(session, claim))
        return held.session, held

    async def _turn(
        self,
        session: SessionRecord,
        held: Held | None,
        chat: Chat,
        entry: Entry,
        caller: Caller,
        ref: SessionRef,
        claim: Claim,
        task: UiTask | None,
    ) -> KeptTurn:
        """The turn of a request in this session, before its answer."""
        if held is not None:
            chat, plan = await self._appended(held, chat, entry, caller, ref)
        else:
            plan = await plans.mirrored(self._store, session, chat, off_path=task is not None)
        if task is not None:
            entry, replay = self._ui_tasks.route(task, chat, entry, caller)
            plan = replace(plan, replay=replay)
        for message in plan.new:
            _check_storable(message)
        return KeptTurn(plan, session, chat, entry, caller, claim, held)

    async def _break_off(self, turn: KeptTurn, error: BaseException) -> None:
        """Stores what was answered if only the client left; else notes that the turn failed."""
        broken_off = isinstance(error, asyncio.CancelledError | GeneratorExit | ConnectionReclaimed)
        if broken_off and self._config.keep_partial and turn.partial:
            await self._commit(turn, incomplete=True)
        else:
            self._failed.add(turn.session.id, turn.plan.new)

    async def _appended(
        self, held: Held, chat: Chat, entry: Entry, caller: Caller, ref: SessionRef
    ) -> tuple[Chat, Plan]:
        """The new part of a request, and its plan behind the stored history."""
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
        # only where messages do not fit is a summary worth waiting for
        if plan.cut and await self.titles_and_summaries.summarise(
            session, caller, fitting=plan.length
        ):
            session = await self._store.open(session.user_id, session.id, create=False)
            plan = await plan_with(self._store, session)
        return chat, plan

    async def _commit(self, turn: KeptTurn, *, incomplete: bool = False) -> None:
        if turn.held is None and turn.left and not turn.plan.off_path:  # the user may have gone on
            turn.plan = replace(turn.plan, head=turn.session.head)
        try:
            committed = await self._stored(turn.session, turn_record(turn, incomplete=incomplete))
        except HeadMoved:
            if turn.held is not None:
                raise
            # A lone prompt beside which the conversation began, or a turn whose client left.
            turn.plan = replace(turn.plan, head=UNSET, off_path=True)
            committed = await self._stored(turn.session, turn_record(turn, incomplete=incomplete))
        self.locks.freed(turn.claim.holder)
        self._failed.discard(turn.session.id, turn.plan.new)
        turn.session = committed.session

    async def _stored(self, session: SessionRecord, turn: stored.TurnRecord) -> Committed:
        """Commits, if need be again: an answer is not lost while the database is busy.

        The turn's key makes that safe: it is stored once.
        """
        until = time.monotonic() + COMMIT_RETRIES_S
        for pause in itertools.count(1):
            try:
                return await self._store.commit(session, turn)
            except StorageUnavailable:
                if time.monotonic() + COMMIT_PAUSE_S * pause > until:
                    raise
            await asyncio.sleep(COMMIT_PAUSE_S * pause)
        raise AssertionError("counting has no end")

    def _afterwards(self, turn: KeptTurn, task: UiTask | None) -> None:
        """Starts what the client need not wait for."""
        plan, session, caller = turn.plan, turn.session, turn.caller
        if task is not None:
            if task.kind == TITLE:
                self._later(self.titles_and_summaries.adopt_title(session, turn.answer_text))
        elif not plan.off_path:
            writer = self.titles_and_summaries
            if session.title is None:
                self._later(writer.write_title(session, caller, plan.messages, turn.answer))
            if plan.length >= self._config.summary.after:
                self._later(writer.summarise(session, caller))
            if plan.parent is None and (
                self._keep.newest is not None or self._keep.seconds is not None
            ):
                self._grown.add(session.user_id)

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

    async def _sweep(self, user: str | None = None) -> None:
        while await self._store.sweep(self._keep, user, SWEEP_SESSIONS) >= SWEEP_SESSIONS:
            pass

    async def _sweep_grown(self) -> None:
        while self._grown:
            await self._sweep(self._grown.pop())


def open_store(config: settings.Config, database: Database) -> SessionStore:
    """The store that a config names; `LoadError` if one of the operator's own cannot be built."""
    store: SessionStore = (
        made(config.sessions.store) if config.sessions.store else SqlSessions(database.storage)
    )
    return store


def _room(chat: Chat, entry: Entry, most: int | None) -> int | None:
    """How many tokens a prompt may have; None: that is unknown."""
    if entry.context_length is None:
        return most
    asked = chat.params.get("max_completion_tokens") or chat.params.get("max_tokens")
    answer = asked or min(
        entry.max_output or ANSWER_TOKENS, ANSWER_TOKENS, entry.context_length // 4
    )
    room = int((entry.context_length - answer) * 0.95)  # messages are estimated, not counted
    return room if most is None else min(room, most)


def _check_storable(message: Message) -> None:
    """Refuses before the answer a message that could not be stored after it."""
    if not isinstance(message.content, str) or message.tool_calls or message.extra:
        values.message_text(message)
