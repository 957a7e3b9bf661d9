"""What happens to whole sessions besides being talked in.

Forks, deletions, retention, export and import: operations, as in operations.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from chattable.budget.storage.statements import Dialect, Row, Steps
from chattable.budget.storage.storage import Storage
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.sessions import chain, values
from chattable.proxy.store.sessions.commit import rebuilt
from chattable.proxy.store.sessions.operations import (
    ALL,
    OWN,
    changed,
    inserted,
    locked_row,
    message_row,
)
from chattable.proxy.store.sessions.paths import NAMES as MESSAGE
from chattable.proxy.store.sessions.paths import M as OF_MESSAGE
from chattable.proxy.store.sessions.paths import Paths
from chattable.proxy.store.sessions.port import Item, Retention, SessionRecord, Summary
from chattable.proxy.store.sessions.rows import NAMES, item_of, session_of

MAX_ROWS = 500  # in one statement
NOT_HISTORY = ", ".join(f"'{role}'" for role in chain.NOT_HISTORY)


def created(dialect: Dialect, row: Row) -> Steps[None]:
    """Adds a session; `Conflict` if the user has one of this alias."""
    if not (yield inserted(dialect, "sessions", [row])):
        raise Conflict(f"There is a session called {row['alias']!r} already.", "conversation")


def found(id: str) -> Steps[SessionRecord]:  # noqa: A002 - the public word for it
    """The session of that id."""
    at = {"id": values.findable_id(id)}
    rows = yield f"SELECT {ALL} FROM sessions WHERE id = :id", at
    if not rows:
        raise NotFound("session", id)
    return _session(rows[0])


def updated(
    dialect: Dialect, session: SessionRecord, changes: Row, summary: Summary | UnsetType | None
) -> Steps[SessionRecord]:
    """Changes what is given."""
    row = yield from locked_row(dialect, session)
    if summary is not UNSET:
        changes = changes | (yield from summarised(session, summary))
    return (yield from changed(session.id, changes)) if changes else session_of(row)


def deleted(session: SessionRecord) -> Steps[None]:
    """Removes it."""
    own = {"session": session.id, "user": session.user_id}
    if not (yield f"DELETE FROM sessions WHERE {OWN} RETURNING 1", own):
        raise NotFound("session", session.id)


def forgotten(user: str, limit: int) -> Steps[int]:
    """Removes some of a user's sessions; returns how many."""
    some = "SELECT id FROM sessions WHERE user_id = :user LIMIT :limit"
    rows = yield (
        f"DELETE FROM sessions WHERE id IN ({some}) RETURNING 1",
        {"user": user, "limit": limit},
    )
    return len(rows)


def summarised(session: SessionRecord, summary: Summary | None) -> Steps[Row]:
    """The fields of a row whose beginning has this summary."""
    if summary is None:
        return dict.fromkeys(("summary", "summary_upto", "summary_branch", "summary_depth"))
    row = yield from message_row(session, summary.upto)
    place = {"summary_branch": row["branch"], "summary_depth": row["depth"]}
    return {"summary": values.summary_text(summary), "summary_upto": row["id"]} | place


# the public word for it
def erased(
    dialect: Dialect,
    session: SessionRecord,
    id: str,  # noqa: A002
    paths: Paths,
) -> Steps[SessionRecord]:
    """Empties a message's row, which keeps its place.

    What comes after it now looks as if it came after its parent.
    """
    kept = yield from locked_row(dialect, session)
    row = yield from message_row(session, id)
    on_path = 0
    if kept["head"] is not None:
        at = {"session": session.id, "user": session.user_id, "at": kept["head"]}
        place = {"branch": row["branch"], "depth": row["depth"]}
        ((on_path,),) = yield paths.on_path, at | place
    own = "session_id = :session"
    yield (
        f"UPDATE session_messages SET erased = TRUE, message = '', usage = NULL"
        f" WHERE {own} AND id = :id",
        {"session": session.id, "id": row["id"]},
    )
    prefix = chain.ROOT
    if row["parent"] is not None:
        before = yield (
            f"SELECT prefix FROM session_messages WHERE {own} AND id = :id",
            {"session": session.id, "id": row["parent"]},
        )
        prefix = before[0][0] if before else chain.ROOT
    yield (  # the others whose path ends with this message
        f"UPDATE session_messages SET prefix = :prefix WHERE {own} AND prefix = :old"
        f" AND (erased OR role IN ({NOT_HISTORY}))",
        {"session": session.id, "prefix": prefix, "old": row["prefix"]},
    )
    changes = {"erased": kept["erased"] + 1, "message_count": kept["message_count"] - on_path}
    return (yield from changed(session.id, changes))


def forked(
    dialect: Dialect, session: SessionRecord, at: str | None, new: Row, paths: Paths
) -> Steps[SessionRecord]:
    """Copies a path into a new session, without a row of it leaving the database."""
    old = yield from locked_row(dialect, session)
    end = old["head"] if at is None else (yield from message_row(session, at))["id"]
    same = ("title", "model", "metadata", "params", "state", "erased", "trimmed")
    new = new | {name: old[name] for name in same} | {"head": end}
    yield from created(dialect, new)
    if end is None:
        return (yield from changed(new["id"], {"erased": 0, "trimmed": 0}))
    path = {"session": old["id"], "user": old["user_id"], "at": end}
    yield paths.copy, path | {"new": new["id"]}
    ((count,),) = yield paths.count, path
    changes = {"branches": 1, "message_count": count}
    if old["summary_upto"] is not None:
        summary = {"branch": old["summary_branch"], "depth": old["summary_depth"]}
        ((on_path,),) = yield paths.on_path, path | summary
        if on_path:
            changes |= {
                name: old[name] for name in ("summary", "summary_upto", "summary_depth")
            } | {"summary_branch": 0}
    return (yield from changed(new["id"], changes))


async def sweep(
    storage: Storage, keep: Retention, user: str | None, limit: int, now: float, paths: Paths
) -> int:
    """Removes what need not be kept, a little at a time.

    A session that somebody has locked is left for later.
    """
    dialect = storage.dialect
    given: Row = {} if user is None else {"user": user}
    owned = "" if user is None else " AND user_id = :user"
    unlocked = f"(locked_by = '' OR locked_until <= {dialect.now})"
    idle = unlocked + owned
    done = 0
    if keep.seconds is not None:
        old = f"updated_at < :before AND {idle}"
        some = f"SELECT id FROM sessions WHERE {old} ORDER BY updated_at LIMIT :limit"
        before = given | {"before": now - keep.seconds, "limit": limit}
        done += await _removed(storage, some, old, before)
    if keep.newest is not None:
        newest: int = keep.newest
        # each user's sessions lie in this order in an index: no others are read
        some = (
            "SELECT id FROM sessions WHERE user_id = :user"
            " ORDER BY updated_at DESC, id DESC LIMIT :limit OFFSET :newest"
        )
        users = [user] if user is not None else await storage.read(lambda: _crowded(newest, limit))
        for one in users:
            if done < limit:
                beyond = {"user": one, "newest": newest, "limit": limit - done}
                done += await _removed(storage, some, unlocked, beyond)
    if keep.messages is not None and done < limit:
        most, long = keep.messages, given | {"messages": keep.messages, "limit": limit - done}
        for session in await storage.read(lambda: _longer(idle, long)):
            done += await storage.run(partial(_trimmed, dialect, session, most, paths))
    return done


async def _removed(storage: Storage, some: str, still: str, given: Row) -> int:
    """Removes some sessions; where there are none, which is usual, nobody who writes waits."""
    if not await storage.read(partial(_first, some, given)):
        return 0
    return await storage.run(partial(_deleted, some, still, given))


def _first(some: str, given: Row) -> Steps[bool]:
    return bool((yield some, given | {"limit": 1}))


def _deleted(some: str, still: str, given: Row) -> Steps[int]:
    where = f"id IN ({some}) AND {still}"
    return len((yield f"DELETE FROM sessions WHERE {where} RETURNING 1", given))


def _crowded(newest: int, limit: int) -> Steps[list[str]]:
    """Users who have more sessions than that, counted in an index."""
    rows = yield (
        "SELECT user_id FROM sessions GROUP BY user_id HAVING COUNT(*) > :newest LIMIT :limit",
        {"newest": newest, "limit": limit},
    )
    return [row[0] for row in rows]


def _longer(idle: str, given: Row) -> Steps[list[SessionRecord]]:
    where = f"message_count > :messages AND {idle}"
    rows = yield f"SELECT {ALL} FROM sessions WHERE {where} LIMIT :limit", given
    return [_session(row) for row in rows]


def _trimmed(dialect: Dialect, session: SessionRecord, keep: int, paths: Paths) -> Steps[int]:
    """Removes what lies as deep as the oldest messages of the path, on every branch."""
    try:
        row = yield from locked_row(dialect, session)
    except NotFound:  # meanwhile
        return 0
    if row["head"] is None:
        return 0
    at = {"session": session.id, "user": session.user_id, "at": row["head"]}
    last = yield paths.last_to_go, at | {"most": keep}
    if not last:
        return 0
    ((cut,),) = last
    own = {"session": session.id}
    gone = "DELETE FROM session_messages WHERE session_id = :session AND depth <= :cut"
    yield gone, own | {"cut": cut}
    left = "SELECT COUNT(*) FROM session_messages WHERE session_id = :session AND erased"
    ((empty,),) = yield left, own
    ((count,),) = yield paths.count, at
    trimmed = max(cut, row["trimmed"])
    yield from changed(session.id, {"trimmed": trimmed, "erased": empty, "message_count": count})
    return 1


async def export(
    storage: Storage, session: SessionRecord, batch: int
) -> AsyncIterator[tuple[Item, ...]]:
    """Reads the branches one after the other: each begins on one with a lower number."""
    known: dict[str, str | None] = {}  # id of a message → what its children are shown to follow
    at: tuple[int, int] = (-1, -1)
    while True:
        rows = await storage.read(partial(_behind, session, at, batch))
        items = []
        for row in rows:
            parent = known.get(row["parent"])
            known[row["id"]] = parent if row["erased"] else row["id"]
            if not row["erased"]:
                items.append(replace(item_of(row), parent=parent))
        if items:
            yield tuple(items)
        if len(rows) < batch:
            return
        at = rows[-1]["branch"], rows[-1]["depth"]


def _behind(session: SessionRecord, at: tuple[int, int], batch: int) -> Steps[list[Row]]:
    """The next messages in the order of their places."""
    rows = yield (
        f"SELECT {OF_MESSAGE} FROM session_messages m JOIN sessions s ON s.id = m.session_id"
        " WHERE s.id = :session AND s.user_id = :user AND (m.branch, m.depth) > (:branch, :depth)"
        " ORDER BY m.branch, m.depth LIMIT :batch",
        {
            "session": session.id,
            "user": session.user_id,
            "branch": at[0],
            "depth": at[1],
            "batch": batch,
        },
    )
    return [dict(zip(MESSAGE, row, strict=True)) for row in rows]


async def restore(
    storage: Storage, row: Row, session: SessionRecord, items: Iterable[Item]
) -> SessionRecord:
    """Works everything out before the database is asked to wait for it."""
    # which hashes every message
    ours, rows, head = await asyncio.to_thread(rebuilt, row, session, items)
    count = next((one["depth"] for one in reversed(rows) if one["id"] == head), 0)
    row |= {
        "head": head,
        "message_count": count,
        "branches": 1 + max((one["branch"] for one in rows), default=-1),
    }
    summary = session.summary
    if summary is not None:
        summary = replace(summary, upto=ours[summary.upto]) if summary.upto in ours else None
    return await storage.run(lambda: _restored(storage.dialect, row, rows, summary))


def _restored(
    dialect: Dialect, row: Row, rows: list[Row], summary: Summary | None
) -> Steps[SessionRecord]:
    yield from created(dialect, row)
    for start in range(0, len(rows), MAX_ROWS):
        yield inserted(dialect, "session_messages", rows[start : start + MAX_ROWS])
    made = session_of(row)
    if summary is None:
        return made
    return (yield from changed(made.id, (yield from summarised(made, summary))))


def listed(user: str | None, most: int, after: str | None) -> Steps[list[SessionRecord]]:
    """Sessions, the one that something was last said in first."""
    given: Row = {"most": most}
    owned = behind = ""
    if user is not None:
        given["user"] = user
        owned = " AND user_id = :user"
    if after is not None:
        at = {"after": values.findable_id(after)} | ({} if user is None else {"user": user})
        position = yield f"SELECT updated_at, id FROM sessions WHERE id = :after{owned}", at
        if not position:
            raise Invalid(f"after names no session: {after!a}; begin again without it.", "after")
        behind = " AND (updated_at, id) < (:updated, :last)"
        given["updated"], given["last"] = position[0]
    rows = yield (
        f"SELECT {ALL} FROM sessions WHERE TRUE{owned}{behind}"
        " ORDER BY updated_at DESC, id DESC LIMIT :most",
        given,
    )
    return [_session(row) for row in rows]


def _session(row: Sequence[Any]) -> SessionRecord:
    return session_of(dict(zip(NAMES, row, strict=True)))
