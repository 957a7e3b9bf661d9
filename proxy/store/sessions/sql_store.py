"""The sessions, in SQL: on SQLite and on PostgreSQL, for any number of processes and replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from msgspec import UNSET, UnsetType

from chattable.agents.chat import Json, Message
from chattable.budget.storage.statements import Steps
from chattable.budget.storage.storage import Storage
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.sessions import chain, lifecycle, operations, values
from chattable.proxy.store.sessions.commit import checked, prepared
from chattable.proxy.store.sessions.known_ends import KnownEnds
from chattable.proxy.store.sessions.paths import Paths
from chattable.proxy.store.sessions.port import (
    Committed,
    Item,
    Match,
    Retention,
    SessionRecord,
    Summary,
    TurnRecord,
    Window,
)
from chattable.proxy.store.sessions.rows import (
    item_of,
    like,
    new_row,
    session_fields,
    session_of,
)

HASHED_AT_ONCE = 64  # messages, before other requests have their turn


class SqlSessions:
    """A `SessionStore` in SQL. Locks go by the database's clock."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._run = storage.run
        self._dialect = storage.dialect
        self._paths = Paths(sqlite=not self._dialect.locks)
        self._ends = KnownEnds()

    # --- turns -----------------------------------------------------------------------------------

    async def open(
        self, user: str, name: str | None, *, create: bool = True, model: str | None = None
    ) -> SessionRecord:
        """The session of that id or alias."""
        if name is not None:
            values.checked_alias(name)
        now = self._clock()
        return session_of(
            await self._run(
                lambda: operations.opened(self._dialect, user, name, model, now, create=create)
            )
        )

    async def find(self, id: str) -> SessionRecord:  # noqa: A002 - the public word for it
        """The session of that id."""
        return await self._storage.read(lambda: lifecycle.found(id))

    async def take(
        self,
        user: str,
        name: str | None,
        holder: str,
        seconds: float,
        *,
        create: bool = True,
        model: str | None = None,
        messages: int = 500,
        tokens: int | None = None,
    ) -> tuple[SessionRecord, Window | None]:
        """Opens, locks and reads in one transaction."""
        if name is not None:
            values.checked_alias(name)
        now = self._clock()
        most = operations.UNLIMITED if tokens is None else tokens

        def operation() -> Steps[tuple[SessionRecord, Window | None]]:
            found = operations.opened(self._dialect, user, name, model, now, create=create)
            return operations.taken(
                self._dialect, self._paths, self._ends, found, holder, seconds, messages, most
            )

        return await self._run(operation)

    async def lock(
        self, session: SessionRecord, holder: str, seconds: float
    ) -> SessionRecord | None:
        """The session, if it can be had."""
        return await self._run(lambda: operations.locked(self._dialect, session, holder, seconds))

    async def unlock(self, session: SessionRecord, holder: str) -> None:
        """Frees it."""
        await self._run(lambda: operations.unlocked(session, holder))

    async def holder(self, session: SessionRecord) -> str:
        """Who has it."""
        return await self._run(lambda: operations.holder(self._dialect, session))

    async def hand_over(self, session: SessionRecord, holder: str, to: str) -> bool:
        """Renames a lock."""
        return await self._run(lambda: operations.handed_over(session, holder, to))

    async def window(
        self,
        session: SessionRecord,
        *,
        messages: int = 500,
        tokens: int | None = None,
        at: str | None = None,
    ) -> Window:
        """The end of the path."""
        most = operations.UNLIMITED if tokens is None else tokens
        return await self._run(lambda: operations.window(self._paths, session, messages, most, at))

    async def match(self, session: SessionRecord, messages: Sequence[Message]) -> Match:
        """The stored part of a history."""
        spoken, prefixes, before = chain.conversation_messages(messages), [], chain.ROOT
        for i, message in enumerate(spoken):
            before = chain.link(before, chain.content_digest(message))
            prefixes.append(before)
            if i % HASHED_AT_ONCE == HASHED_AT_ONCE - 1:
                await asyncio.sleep(0)
        if not prefixes:
            return Match(None, 0, ())
        found = await self._run(lambda: operations.matched(self._paths, session, prefixes))
        if found is None:
            return Match(None, 0, tuple(spoken))
        count = found[1] + (not self._dialect.locks)  # whose lists begin at 0
        return Match(found[0], count, tuple(spoken[count:]))

    async def commit(self, session: SessionRecord, turn: TurnRecord) -> Committed:
        """Adds a turn."""
        checked(turn)
        todo, now = prepared(turn.parent, turn.entries), self._clock()
        return await self._run(
            lambda: operations.commit(
                self._dialect, self._paths, self._ends, session, turn, todo, now
            )
        )

    # --- sessions --------------------------------------------------------------------------------

    async def list(
        self, user: str | None, limit: int = 20, after: str | None = None
    ) -> Page[SessionRecord]:
        """A page of sessions."""
        most = checked_limit(limit) + 1
        return page_of(await self._storage.read(lambda: lifecycle.listed(user, most, after)), limit)

    async def update(
        self,
        session: SessionRecord,
        *,
        title: str | UnsetType | None = UNSET,
        model: str | UnsetType | None = UNSET,
        params: Json | UnsetType = UNSET,
        state: Json | UnsetType = UNSET,
        metadata: dict[str, str] | UnsetType = UNSET,
        summary: Summary | UnsetType | None = UNSET,
    ) -> SessionRecord:
        """Changes what is given."""
        changes = session_fields(title, model, params, state, metadata)
        return await self._run(lambda: lifecycle.updated(self._dialect, session, changes, summary))

    async def delete(self, session: SessionRecord) -> None:
        """Removes it."""
        await self._run(lambda: lifecycle.deleted(session))

    async def forget(self, user: str, limit: int = 100) -> int:
        """Removes some of a user's."""
        return await self._run(lambda: lifecycle.forgotten(user, limit))

    async def fork(
        self, session: SessionRecord, at: str | None = None, *, alias: str | None = None
    ) -> SessionRecord:
        """A copy of a path, made inside the database."""
        new = new_row(session.user_id, self._clock(), alias)
        return await self._run(
            lambda: lifecycle.forked(self._dialect, session, at, new, self._paths)
        )

    # --- messages --------------------------------------------------------------------------------

    async def items(
        self,
        session: SessionRecord,
        limit: int = 20,
        after: str | None = None,
        *,
        descending: bool = True,
    ) -> Page[Item]:
        """A page of messages."""
        found = await self._run(
            lambda: operations.items(
                self._paths, session, checked_limit(limit) + 1, after, descending=descending
            )
        )
        return page_of(found, limit)

    # the public word for it
    async def item(self, session: SessionRecord, id: str) -> Item:  # noqa: A002
        """One message."""
        return item_of(await self._storage.read(lambda: operations.message_row(session, id)))

    # the public word for it
    async def delete_item(self, session: SessionRecord, id: str) -> SessionRecord:  # noqa: A002
        """Erases one."""
        return await self._run(lambda: lifecycle.erased(self._dialect, session, id, self._paths))

    # --- housekeeping ----------------------------------------------------------------------------

    async def sweep(self, keep: Retention, user: str | None = None, limit: int = 100) -> int:
        """Removes what is old."""
        return await lifecycle.sweep(self._storage, keep, user, limit, self._clock(), self._paths)

    def export(self, session: SessionRecord, batch: int = 500) -> AsyncIterator[tuple[Item, ...]]:
        """Every message."""
        return lifecycle.export(self._storage, session, batch)

    async def restore(
        self, user: str, session: SessionRecord, items: Iterable[Item], *, alias: str | None = None
    ) -> SessionRecord:
        """A session like an exported one."""
        row = new_row(user, self._clock(), alias, **like(session))
        return await lifecycle.restore(self._storage, row, session, items)
