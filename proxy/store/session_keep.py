"""What happens to whole sessions besides being talked in: forks, deletions, retention, export and import."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from msgspec.structs import replace
from sqlalchemy import (
    ColumnElement,
    RowMapping,
    Select,
    and_,
    delete,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.proxy.store import session_chain as chain
from chattable.proxy.store import session_values as values
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, NotFound
from chattable.proxy.store.session_commit import rebuilt
from chattable.proxy.store.session_paths import Paths
from chattable.proxy.store.session_rows import (
    NEW,
    changed,
    item_of,
    locked_row,
    message_row,
    session_of,
)
from chattable.proxy.store.sessions import Item, Retention, Session, Summary
from chattable.proxy.store.tables import session_messages as messages
from chattable.proxy.store.tables import sessions

SOME = 500  # rows in one statement


async def create(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Adds a session; `Conflict` if the user has one of this alias."""
    if (await connection.execute(NEW, row)).one_or_none() is None:
        raise Conflict(f"There is a session called {row['alias']!r} already.", "conversation")


async def summarised(
    connection: AsyncConnection, session: Session, summary: Summary | None
) -> dict[str, Any]:
    """The fields of a row whose beginning has this summary."""
    if summary is None:
        return dict.fromkeys(("summary", "summary_upto", "summary_branch", "summary_depth"))
    row = await message_row(connection, session, summary.upto)
    place = {"summary_branch": row["branch"], "summary_depth": row["depth"]}
    return {"summary": values.summary_text(summary), "summary_upto": row["id"]} | place


async def erase(connection: AsyncConnection, session: Session, id: str, paths: Paths) -> Session:  # noqa: A002 - the public word for it
    """Empties a message's row, which keeps its place; what comes after it now looks as if it came after its parent."""
    kept = await locked_row(connection, session)
    row = await message_row(connection, session, id)
    at = {
        "session": session.id,
        "user": session.user_id,
        "at": kept["head"],
        "branch": row["branch"],
        "depth": row["depth"],
    }
    on_path = (await connection.execute(paths.on_path, at)).scalar_one()
    own, this = messages.c.session_id == session.id, messages.c.id == row["id"]
    await connection.execute(
        update(messages).where(own, this).values(erased=True, message="", usage=None)
    )
    parent = select(messages.c.prefix).where(own, messages.c.id == row["parent"])
    prefix = (await connection.execute(parent)).scalar_one_or_none() or chain.ROOT
    # the others whose path ends with this message
    unseen = or_(messages.c.erased, messages.c.role.in_(chain.UNSAID))
    await connection.execute(
        update(messages)
        .where(own, messages.c.prefix == row["prefix"], unseen)
        .values(prefix=prefix)
    )
    changes = {"erased": kept["erased"] + 1, "message_count": kept["message_count"] - on_path}
    return await changed(connection, session.id, changes)


async def fork(
    connection: AsyncConnection, old: RowMapping, end: str | None, new: dict[str, Any], paths: Paths
) -> Session:
    """Copies a path into a new session, without a row of it leaving the database."""
    same = ("title", "model", "metadata", "params", "state", "erased", "trimmed")
    new |= {name: old[name] for name in same} | {"head": end}
    await create(connection, new)
    if end is None:
        return await changed(connection, new["id"], {"erased": 0, "trimmed": 0})
    at = {"session": old["id"], "user": old["user_id"], "at": end}
    await connection.execute(paths.copy, at | {"new": new["id"]})
    changes = {
        "branches": 1,
        "message_count": (await connection.execute(paths.counted, at)).scalar_one(),
    }
    if old["summary_upto"] is not None:
        summary = {"branch": old["summary_branch"], "depth": old["summary_depth"]}
        if (await connection.execute(paths.on_path, at | summary)).scalar_one():
            changes |= {
                name: old[name] for name in ("summary", "summary_upto", "summary_depth")
            } | {"summary_branch": 0}
    return await changed(connection, new["id"], changes)


async def sweep(
    database: Database,
    keep: Retention,
    user: str | None,
    limit: int,
    now: float,
    clock: ColumnElement[float],
    paths: Paths,
) -> int:
    """Removes what need not be kept, a little at a time; a session that somebody has locked is left for later."""
    owned = [] if user is None else [sessions.c.user_id == user]
    idle = or_(sessions.c.locked_by == "", sessions.c.locked_until <= clock)
    done = 0
    if keep.seconds is not None:
        old = [sessions.c.updated_at < now - keep.seconds, idle, *owned]
        some = select(sessions.c.id).where(*old).order_by(sessions.c.updated_at).limit(limit)
        done += await _removed(database, some, *old)
    if keep.newest is not None and done < limit:
        newest = func.row_number().over(
            partition_by=sessions.c.user_id,
            order_by=(sessions.c.updated_at.desc(), sessions.c.id.desc()),
        )
        numbered = select(sessions.c.id, newest.label("place")).where(*owned).subquery()
        some = select(numbered.c.id).where(numbered.c.place > keep.newest).limit(limit - done)
        done += await _removed(database, some, idle)
    if keep.messages is not None and done < limit:
        long = (
            select(sessions)
            .where(sessions.c.message_count > keep.messages, idle, *owned)
            .limit(limit - done)
        )
        async with database.connect() as connection:
            found = [session_of(row) for row in (await connection.execute(long)).mappings()]
        for session in found:
            done += await _trimmed(database, session, keep.messages, paths)
    return done


async def _removed(
    database: Database, some: Select[tuple[str]], *still: ColumnElement[bool]
) -> int:
    async with database.begin() as connection:
        return (
            await connection.execute(delete(sessions).where(sessions.c.id.in_(some), *still))
        ).rowcount


async def _trimmed(database: Database, session: Session, keep: int, paths: Paths) -> int:
    """Removes what lies as deep as the oldest messages of the path, on every branch."""
    async with database.begin() as connection:
        try:
            row = await locked_row(connection, session)
        except NotFound:  # meanwhile
            return 0
        at = {"session": session.id, "user": session.user_id, "at": row["head"]}
        cut = (await connection.execute(paths.last_to_go, at | {"most": keep})).scalar_one_or_none()
        if cut is None:
            return 0
        own = messages.c.session_id == session.id
        await connection.execute(delete(messages).where(own, messages.c.depth <= cut))
        erased = (
            await connection.execute(select(func.count()).where(own, messages.c.erased))
        ).scalar_one()
        count = (await connection.execute(paths.counted, at)).scalar_one()
        await changed(
            connection,
            session.id,
            {"trimmed": max(cut, row["trimmed"]), "erased": erased, "message_count": count},
        )
    return 1


async def export(
    database: Database, session: Session, batch: int
) -> AsyncIterator[tuple[Item, ...]]:
    """Reads the branches one after the other: each begins on one with a lower number."""
    known: dict[str, str | None] = {}  # id of a message → what its children are shown to follow
    own = and_(
        messages.c.session_id == sessions.c.id,
        sessions.c.id == session.id,
        sessions.c.user_id == session.user_id,
    )
    place = tuple_(messages.c.branch, messages.c.depth)
    query = select(messages).where(own).order_by(messages.c.branch, messages.c.depth).limit(batch)
    rows = None
    while rows is None or len(rows) == batch:
        behind = (
            query if rows is None else query.where(place > (rows[-1]["branch"], rows[-1]["depth"]))
        )
        async with database.connect() as connection:
            rows = (await connection.execute(behind)).mappings().all()
        items = []
        for row in rows:
            parent = known.get(row["parent"])
            known[row["id"]] = parent if row["erased"] else row["id"]
            if not row["erased"]:
                items.append(replace(item_of(row), parent=parent))
        if items:
            yield tuple(items)


async def restore(
    database: Database, row: dict[str, Any], session: Session, items: Iterable[Item], paths: Paths
) -> Session:
    """Works everything out before the database is asked to wait for it."""
    # which hashes every message
    ours, rows, head = await asyncio.to_thread(rebuilt, row, session, items)
    count = next((one["depth"] for one in reversed(rows) if one["id"] == head), 0)
    row |= {
        "head": head,
        "message_count": count,
        "branches": 1 + max((one["branch"] for one in rows), default=-1),
    }
    async with database.begin() as connection:
        await create(connection, row)
        for start in range(0, len(rows), SOME):
            await connection.execute(paths.store, rows[start : start + SOME])
        made = session_of(row)
        if session.summary is None or session.summary.upto not in ours:
            return made
        summary = replace(session.summary, upto=ours[session.summary.upto])
        return await changed(connection, made.id, await summarised(connection, made, summary))
