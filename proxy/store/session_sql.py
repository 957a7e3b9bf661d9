"""The sessions, in SQL: on SQLite and on PostgreSQL, for any number of processes and replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC

from msgspec import UNSET, UnsetType
from sqlalchemy import Float, delete, literal_column, select, tuple_

from chattable.agents.chat import Json, Message
from chattable.budget import postgres, sqlite
from chattable.budget.steps import Dialect, Steps
from chattable.proxy.store import session_chain as chain
from chattable.proxy.store import session_keep as keeping
from chattable.proxy.store import session_steps as steps
from chattable.proxy.store import session_values as values
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Invalid, NotFound
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.session_commit import checked, prepared
from chattable.proxy.store.session_paths import Paths
from chattable.proxy.store.session_rows import (
    changed,
    item_of,
    like,
    locked_row,
    message_row,
    new_row,
    session_fields,
    session_of,
)
from chattable.proxy.store.sessions import (
    Committed,
    Item,
    Match,
    Retention,
    Session,
    Summary,
    Turn,
    Window,
)
from chattable.proxy.store.tables import sessions

NOW = {True: sqlite.NOW, False: postgres.NOW}
PAUSE = 64  # messages that are hashed before other requests have their turn


class SqlSessions:
    """A `SessionStore` in SQL. `now` is the SQL expression of the clock that locks go by."""

    def __init__(
        self, database: Database, clock: Callable[[], float] = time.time, now: str | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._run = database.run
        self._sqlite = database.is_sqlite
        self._dialect = Dialect(now or NOW[self._sqlite], UTC, not self._sqlite)
        self._now = literal_column(self._dialect.now, Float)
        self._paths = Paths(sqlite=self._sqlite)

    # --- turns ---------------------------------------------------------------------------------------------------------

    async def open(
        self, user: str, name: str | None, *, create: bool = True, model: str | None = None
    ) -> Session:
        """The session of that id or alias."""
        if name is not None:
            values.checked_alias(name)
        now = self._clock()
        return session_of(
            await self._run(
                lambda: steps.opened(self._dialect, user, name, model, now, create=create)
            )
        )

    async def find(self, id: str) -> Session:  # noqa: A002 - the public word for it
        """The session of that id."""
        query = select(sessions).where(sessions.c.id == values.findable_id(id))
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("session", id)
        return session_of(row)

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
    ) -> tuple[Session, Window | None]:
        """Opens, locks and reads in one transaction."""
        if name is not None:
            values.checked_alias(name)
        now = self._clock()

        def operation() -> Steps[tuple[Session, Window | None]]:
            found = steps.opened(self._dialect, user, name, model, now, create=create)
            return steps.taken(self._dialect, self._paths, found, holder, seconds, messages, tokens)

        return await self._run(operation)

    async def lock(self, session: Session, holder: str, seconds: float) -> Session | None:
        """The session, if it can be had."""
        return await self._run(lambda: steps.locked(self._dialect, session, holder, seconds))

    async def unlock(self, session: Session, holder: str) -> None:
        """Frees it."""
        await self._run(lambda: steps.unlocked(session, holder))

    async def holder(self, session: Session) -> str:
        """Who has it."""
        return await self._run(lambda: steps.holder(self._dialect, session))

    async def hand_over(self, session: Session, holder: str, to: str) -> bool:
        """Renames a lock."""
        return await self._run(lambda: steps.handed_over(session, holder, to))

    async def window(
        self,
        session: Session,
        *,
        messages: int = 500,
        tokens: int | None = None,
        at: str | None = None,
    ) -> Window:
        """The end of the path."""
        return await self._run(lambda: steps.window(self._paths, session, messages, tokens, at))

    async def match(self, session: Session, messages: Sequence[Message]) -> Match:
        """The stored part of a history."""
        spoken, prefixes, before = chain.spoken(messages), [], chain.ROOT
        for i, message in enumerate(spoken):
            before = chain.link(before, chain.said(message))
            prefixes.append(before)
            if i % PAUSE == PAUSE - 1:
                await asyncio.sleep(0)
        if not prefixes:
            return Match(None, 0, ())
        found = await self._run(lambda: steps.matched(self._paths, session, prefixes))
        if found is None:
            return Match(None, 0, tuple(spoken))
        count = found[1] + self._sqlite  # whose lists begin at 0
        return Match(found[0], count, tuple(spoken[count:]))

    async def commit(self, session: Session, turn: Turn) -> Committed:
        """Adds a turn."""
        checked(turn)
        todo, now = prepared(turn.parent, turn.entries), self._clock()
        return await self._run(
            lambda: steps.commit(self._dialect, self._paths, session, turn, todo, now)
        )

    # --- sessions ------------------------------------------------------------------------------------------------------

    async def list(
        self, user: str | None, limit: int = 20, after: str | None = None
    ) -> Page[Session]:
        """A page of sessions."""
        query = (
            select(sessions)
            .order_by(sessions.c.updated_at.desc(), sessions.c.id.desc())
            .limit(checked_limit(limit) + 1)
        )
        if user is not None:
            query = query.where(sessions.c.user_id == user)
        async with self._database.connect() as connection:
            if after is not None:
                position = select(sessions.c.updated_at, sessions.c.id).where(
                    sessions.c.id == values.findable_id(after)
                )
                if user is not None:
                    position = position.where(sessions.c.user_id == user)
                row = (await connection.execute(position)).one_or_none()
                if row is None:
                    raise Invalid(
                        f"after names no session: {after!a}; begin again without it.", "after"
                    )
                query = query.where(
                    tuple_(sessions.c.updated_at, sessions.c.id) < (row.updated_at, row.id)
                )
            rows = (await connection.execute(query)).mappings().all()
        return page_of([session_of(row) for row in rows], limit)

    async def update(
        self,
        session: Session,
        *,
        title: str | UnsetType | None = UNSET,
        model: str | UnsetType | None = UNSET,
        params: Json | UnsetType = UNSET,
        state: Json | UnsetType = UNSET,
        metadata: dict[str, str] | UnsetType = UNSET,
        summary: Summary | UnsetType | None = UNSET,
    ) -> Session:
        """Changes what is given."""
        changes = session_fields(title, model, params, state, metadata)
        async with self._database.begin() as connection:
            row = await locked_row(connection, session)
            if summary is not UNSET:
                changes |= await keeping.summarised(connection, session, summary)
            return await changed(connection, session.id, changes) if changes else session_of(row)

    async def delete(self, session: Session) -> None:
        """Removes it."""
        gone = delete(sessions).where(
            sessions.c.id == session.id, sessions.c.user_id == session.user_id
        )
        async with self._database.begin() as connection:
            if not (await connection.execute(gone)).rowcount:
                raise NotFound("session", session.id)

    async def forget(self, user: str, limit: int = 100) -> int:
        """Removes some of a user's."""
        some = select(sessions.c.id).where(sessions.c.user_id == user).limit(limit)
        async with self._database.begin() as connection:
            return (
                await connection.execute(delete(sessions).where(sessions.c.id.in_(some)))
            ).rowcount

    async def fork(
        self, session: Session, at: str | None = None, *, alias: str | None = None
    ) -> Session:
        """A copy of a path, made inside the database."""
        async with self._database.begin() as connection:
            row = await locked_row(connection, session)
            end = row["head"] if at is None else (await message_row(connection, session, at))["id"]
            return await keeping.fork(
                connection, row, end, new_row(session.user_id, self._clock(), alias), self._paths
            )

    # --- messages ------------------------------------------------------------------------------------------------------

    async def items(
        self,
        session: Session,
        limit: int = 20,
        after: str | None = None,
        *,
        descending: bool = True,
    ) -> Page[Item]:
        """A page of messages."""
        found = await self._run(
            lambda: steps.items(
                self._paths, session, checked_limit(limit) + 1, after, descending=descending
            )
        )
        return page_of(found, limit)

    async def item(self, session: Session, id: str) -> Item:  # noqa: A002 - the public word for it
        """One message."""
        async with self._database.connect() as connection:
            return item_of(await message_row(connection, session, id))

    async def delete_item(self, session: Session, id: str) -> Session:  # noqa: A002 - the public word for it
        """Erases one."""
        async with self._database.begin() as connection:
            return await keeping.erase(connection, session, id, self._paths)

    # --- housekeeping --------------------------------------------------------------------------------------------------

    async def sweep(self, keep: Retention, user: str | None = None, limit: int = 100) -> int:
        """Removes what is old."""
        return await keeping.sweep(
            self._database, keep, user, limit, self._clock(), self._now, self._paths
        )

    def export(self, session: Session, batch: int = 500) -> AsyncIterator[tuple[Item, ...]]:
        """Every message."""
        return keeping.export(self._database, session, batch)

    async def restore(
        self, user: str, session: Session, items: Iterable[Item], *, alias: str | None = None
    ) -> Session:
        """A session like an exported one."""
        row = new_row(user, self._clock(), alias, **like(session))
        return await keeping.restore(self._database, row, session, items, self._paths)
