"""What every turn asks of the database, as operations (budget/storage/statements.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, Table

from chattable.budget.storage.statements import Dialect, Row, Rows, Statement, Steps, array
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.page import checked_limit
from chattable.proxy.store.sessions import chain, values
from chattable.proxy.store.sessions.commit import (
    TreePosition,
    Written,
    ids_of,
    is_repeated,
    outcome,
)
from chattable.proxy.store.sessions.known_ends import KnownEnds
from chattable.proxy.store.sessions.paths import BETTER, Paths
from chattable.proxy.store.sessions.paths import NAMES as MESSAGE
from chattable.proxy.store.sessions.paths import M as OF_MESSAGE
from chattable.proxy.store.sessions.port import (
    Committed,
    Item,
    SessionRecord,
    Summary,
    TurnRecord,
    Window,
)
from chattable.proxy.store.sessions.rows import NAMES, item_of, new_row, session_fields, session_of
from chattable.proxy.store.tables import session_messages, sessions

UNLIMITED = 2**62
TYPES = {BigInteger: "BIGINT", Float: "DOUBLE PRECISION", Boolean: "BOOLEAN"}
ALL = ", ".join(NAMES)
OWN = "id = :session AND user_id = :user"


def _columns(table: Table) -> dict[str, str]:
    return {column.name: TYPES.get(type(column.type), "TEXT") for column in table.c}


COLUMNS = {"sessions": _columns(sessions), "session_messages": _columns(session_messages)}
NAMED = (
    f"SELECT {ALL} FROM sessions WHERE {OWN} UNION ALL"
    f" SELECT {ALL} FROM sessions WHERE user_id = :user AND alias_digest = :digest"
)
ELSE = {  # what becomes of a row that is there already
    "sessions": f"ON CONFLICT (user_id, alias_digest) DO NOTHING RETURNING {ALL}",
    "session_messages": (
        "ON CONFLICT (session_id, id) DO UPDATE SET"
        " side = session_messages.side AND excluded.side, "
        + ", ".join(f"{name} = excluded.{name}" for name in BETTER)
    ),
}


def opened(
    dialect: Dialect, user: str, name: str | None, model: str | None, now: float, *, create: bool
) -> Steps[Row]:
    """The row of the session with that id or alias."""
    while True:
        if name is not None:
            given = {
                "user": user,
                "session": values.findable_id(name),
                "digest": values.alias_digest(name),
            }
            rows = yield NAMED, given
            if rows:
                found = [dict(zip(NAMES, row, strict=True)) for row in rows]
                return next((row for row in found if row["id"] == name), found[0])
            if not create:
                raise NotFound("session", name)
        fresh = new_row(user, now, name, **session_fields(model=model))
        made = yield inserted(dialect, "sessions", [fresh])
        if made:
            # else somebody else was faster: find theirs
            return dict(zip(NAMES, made[0], strict=True))


def locked(
    dialect: Dialect, session: SessionRecord, holder: str, seconds: float
) -> Steps[SessionRecord | None]:
    """The session, if it can be had."""
    row = yield from _locked_for(dialect, session.id, session.user_id, holder, seconds)
    return None if row is None else session_of(row)


def _locked_for(
    dialect: Dialect, session: str, user: str, holder: str, seconds: float
) -> Steps[Row | None]:
    rows = yield (
        f"UPDATE sessions SET locked_by = :holder, locked_until = {dialect.now} + :seconds"
        f" WHERE {OWN}"
        f" AND (locked_by = '' OR locked_by = :holder OR locked_until <= {dialect.now})"
        f" RETURNING {ALL}",
        {"session": session, "user": user, "holder": holder, "seconds": float(seconds)},
    )
    if rows:
        return dict(zip(NAMES, rows[0], strict=True))
    yield from _locked_row(dialect, session, user)
    return None


def unlocked(session: SessionRecord, holder: str) -> Steps[None]:
    """Frees it."""
    given = {"session": session.id, "user": session.user_id, "holder": holder}
    yield f"UPDATE sessions SET locked_by = '' WHERE {OWN} AND locked_by = :holder", given


def holder(dialect: Dialect, session: SessionRecord) -> Steps[str]:
    """Who has it, if anybody."""
    given = {"session": session.id, "user": session.user_id}
    held = f"{OWN} AND locked_until > {dialect.now}"
    rows = yield f"SELECT locked_by FROM sessions WHERE {held}", given
    return str(rows[0][0]) if rows else ""


def handed_over(session: SessionRecord, holder: str, to: str) -> Steps[bool]:
    """Renames its lock."""
    given = {"session": session.id, "user": session.user_id, "holder": holder, "to": to}
    theirs = f"{OWN} AND locked_by = :holder RETURNING 1"
    rows = yield f"UPDATE sessions SET locked_by = :to WHERE {theirs}", given
    return bool(rows)


def taken(
    dialect: Dialect,
    paths: Paths,
    ends: KnownEnds,
    found: Steps[Row],
    holder: str,
    seconds: float,
    messages: int,
    tokens: int,
) -> Steps[tuple[SessionRecord, Window | None]]:
    """A session locked for a holder, with the end of its path; None while another has the lock."""
    free = yield from found
    row = yield from _locked_for(dialect, free["id"], free["user_id"], holder, seconds)
    if row is None:
        return session_of(free), None
    mine = session_of(row)
    if (known := ends.find(row, messages, tokens)) is not None:
        return mine, Window(_paired(known), None)
    if mine.head is None:
        return mine, Window((), None)
    if mine.summary is None:
        read = yield from _straight(paths, mine, mine.head, messages, tokens)
        if read is not None:
            ends.remember(row, read, messages)
            return mine, Window(_paired(read), None)
    return mine, (yield from _bent(paths, mine, mine.head, messages, tokens, None))


def window(
    paths: Paths, session: SessionRecord, messages: int, tokens: int, at: str | None
) -> Steps[Window]:
    """The end of the path."""
    end = at if at is not None else session.head
    if end is None:
        return Window((), None)
    if session.summary is None and at is None:
        read = yield from _straight(paths, session, end, messages, tokens)
        if read is not None:
            return Window(_paired(read), None)
    return (yield from _bent(paths, session, end, messages, tokens, at))


def _straight(
    paths: Paths, session: SessionRecord, end: str, messages: int, tokens: int
) -> Steps[tuple[Item, ...] | None]:
    """The end of a path that lies on one branch, from which nothing was deleted; else None."""
    own = {"session": session.id, "user": session.user_id, "most": checked_limit(messages)}
    rows = yield paths.straight, own | {"at": end}
    if len(rows) == messages or (rows and rows[-1][2] == 1):
        return _fitting(rows, tokens)
    return None


def _bent(
    paths: Paths, session: SessionRecord, end: str, messages: int, tokens: int, at: str | None
) -> Steps[Window]:
    """The end of any path."""
    own = {"session": session.id, "user": session.user_id, "most": checked_limit(messages)}
    rows = yield (
        paths.window,
        own | {"at": values.findable_id(end), "tokens": tokens},
    )
    if not rows or rows[0][0] is None:
        raise _not_found(session, at)
    return _window_of(rows)


def _not_found(session: SessionRecord, at: str | None) -> NotFound:
    return NotFound("session", session.id) if at is None else NotFound("message", at)


def _window_of(rows: Rows) -> Window:
    """The messages in rows that may begin with a summary."""
    summary = next(
        (Summary(values.read(text), upto) for _, text, upto, *_ in rows if upto is not None), None
    )
    found = [dict(zip(MESSAGE, row, strict=True)) for _, _, _, *row in rows]
    items = [item_of(row) for row in found if row["id"] is not None]
    return Window(_paired(items), summary)


def _fitting(rows: Rows, tokens: int) -> tuple[Item, ...]:
    """As many of these messages, the last one first, as have so many tokens together."""
    items = []
    for row in rows:
        item = item_of(dict(zip(MESSAGE, row, strict=True)))
        tokens -= item.tokens
        if tokens < 0:
            break
        items.append(item)
    return tuple(items[::-1])


def _paired(items: Sequence[Item]) -> tuple[Item, ...]:
    keep = chain.paired([item.message for item in items])
    return tuple(item for item, kept in zip(items, keep, strict=True) if kept)


def items(
    paths: Paths, session: SessionRecord, most: int, after: str | None, *, descending: bool
) -> Steps[list[Item]]:
    """So many messages of the path, from an end or from behind `after`."""
    given: Row = {"session": session.id, "user": session.user_id, "most": most}
    if after is not None:
        given["after"] = values.findable_id(after)
    rows = yield paths.items[descending, after is not None], given
    return [item_of(dict(zip(MESSAGE, row, strict=True))) for row in rows]


def matched(
    paths: Paths, session: SessionRecord, prefixes: Sequence[str]
) -> Steps[tuple[str, int] | None]:
    """The longest of these paths that is stored: its last message, and which of them it is."""
    wanted = values.written(prefixes, "messages", values.MAX_MESSAGE_LENGTH)
    rows = yield paths.matching, {"session": session.id, "user": session.user_id, "list": wanted}
    return (rows[0][0], int(rows[0][1])) if rows else None


def commit(
    dialect: Dialect,
    paths: Paths,
    ends: KnownEnds,
    session: SessionRecord,
    turn: TurnRecord,
    todo: list[Written],
    now: float,
) -> Steps[Committed]:
    """Adds a turn."""
    row = yield from locked_row(dialect, session)
    if is_repeated(row, turn):
        return Committed(session_of(row), ids_of(todo), repeated=True)
    known = yield from _places(paths, session.id, [turn.parent, *ids_of(todo)])
    new, changes = outcome(row, turn, todo, known, now)
    if new:
        yield inserted(dialect, "session_messages", new)
    if changes["message_count"] is None:
        at = {"session": session.id, "user": session.user_id, "at": changes["head"]}
        ((changes["message_count"],),) = yield paths.count, at
    after = yield from _changed_row(session.id, changes)
    if turn.parent == row["head"] and not turn.side and not known.keys() & set(ids_of(todo)):
        ends.extend(row, after, new)
    return Committed(session_of(after), ids_of(todo))


def changed(session: str, changes: Row) -> Steps[SessionRecord]:
    """Changes a session and returns it."""
    return session_of((yield from _changed_row(session, changes)))


def _changed_row(session: str, changes: Row) -> Steps[Row]:
    types = COLUMNS["sessions"]
    settings = ", ".join(f"{name} = CAST(:{name} AS {types[name]})" for name in changes)
    rows = yield (
        f"UPDATE sessions SET {settings} WHERE id = :session RETURNING {ALL}",
        changes | {"session": session},
    )
    return dict(zip(NAMES, rows[0], strict=True))


def locked_row(dialect: Dialect, session: SessionRecord) -> Steps[Row]:
    """The session's row, locked until the transaction ends; `NotFound` if it is gone."""
    return (yield from _locked_row(dialect, session.id, session.user_id))


def _locked_row(dialect: Dialect, session: str, user: str) -> Steps[Row]:
    given = {"session": session, "user": user}
    rows = yield f"SELECT {ALL} FROM sessions WHERE {OWN}{dialect.lock('sessions')}", given
    if not rows:
        raise NotFound("session", session)
    return dict(zip(NAMES, rows[0], strict=True))


def _places(
    paths: Paths, session: str, ids: Sequence[str | None]
) -> Steps[dict[str, TreePosition]]:
    """Where those of the messages are that are stored, the deleted ones too."""
    wanted = values.written(
        [values.findable_id(one) for one in ids if one is not None],
        "messages",
        values.MAX_MESSAGE_LENGTH,
    )
    rows = yield paths.placing, {"session": session, "list": wanted}
    return {row[0]: TreePosition(*row[:6], *map(bool, row[6:])) for row in rows}


# the public word for it
def message_row(session: SessionRecord, id: str) -> Steps[Row]:  # noqa: A002
    """The row of a message that is not deleted."""
    rows = yield (
        f"SELECT {OF_MESSAGE} FROM session_messages m JOIN sessions s ON s.id = m.session_id"
        " WHERE s.id = :session AND s.user_id = :user AND m.id = :id AND NOT m.erased",
        {"session": session.id, "user": session.user_id, "id": values.findable_id(id)},
    )
    if not rows:
        raise NotFound("message", id)
    return dict(zip(MESSAGE, rows[0], strict=True))


def inserted(dialect: Dialect, table: str, rows: Sequence[Mapping[str, Any]]) -> Statement:
    """The statement that adds rows, or does what `ELSE` says of those that are there."""
    return _inserting(dialect, table), array(
        [[row[name] for name in COLUMNS[table]] for row in rows]
    )


@cache
def _inserting(dialect: Dialect, table: str) -> str:
    columns = COLUMNS[table]
    names, rows = ", ".join(columns), dialect.rows("rows", columns)
    return f"INSERT INTO {table} ({names}) SELECT * FROM {rows} AS new WHERE TRUE {ELSE[table]}"
