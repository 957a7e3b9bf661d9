"""A model of the session store, in memory: SQL is compared with it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from chattable.agents.chat import Json, Message
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.sessions import chain, values
from chattable.proxy.store.sessions.commit import (
    NO_BRANCH,
    TreePosition,
    checked,
    ids_of,
    is_repeated,
    outcome,
    prepared,
    rebuilt,
)
from chattable.proxy.store.sessions.port import (
    Committed,
    Item,
    Match,
    Retention,
    SessionRecord,
    SessionStore,
    Summary,
    TurnRecord,
    Window,
)
from chattable.proxy.store.sessions.rows import item_of, like, new_row, session_fields, session_of

Row = dict[str, Any]
PLACE = [name for name in TreePosition.__struct_fields__ if name != "tip"]


class _Tree:
    """A session's row and those of its messages, by id, in the order they came."""

    def __init__(self, row: Row, rows: Iterable[Row] = ()) -> None:
        self.row = row
        # `gone` ones only hold their place, for the path
        self.messages = {row["id"]: row for row in rows}

    def line(self, end: str | None) -> list[Row]:
        """The rows from the root to this message."""
        found = []
        while end is not None and (row := self.messages.get(end)) is not None:
            found.append(row)
            end = row["parent"]
        return found[::-1]

    def path(self, end: str | None) -> list[Row]:
        """The messages from the root to this one, without deleted ones."""
        return [row for row in self.line(end) if not row["erased"]]

    def message(self, id: str) -> Row:
        """The row of a message that is not deleted."""
        row = self.messages.get(id)
        if row is None or row["erased"]:
            raise NotFound("message", id)
        return row

    def places(self) -> dict[str, TreePosition]:
        """Where the messages would be in SQL."""
        rows = [row for row in self.messages.values() if not row["gone"]]
        taken = {(row["branch"], row["depth"]) for row in rows}
        followed = {row["id"]: (row["branch"], row["depth"] + 1) in taken for row in rows}
        return {
            row["id"]: TreePosition(
                tip=not followed[row["id"]], **{name: row[name] for name in PLACE}
            )
            for row in rows
        }

    def count(self) -> None:
        """Counts the conversation's messages."""
        self.row["message_count"] = len(self.path(self.row["head"]))


class MemorySessions(SessionStore):
    """A `SessionStore` without a database, for one process: for tests, and for trying things out."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        lease_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lease_clock = lease_clock
        self._trees: dict[str, _Tree] = {}

    async def open(
        self, user: str, name: str | None, *, create: bool = True, model: str | None = None
    ) -> SessionRecord:
        """The session of that id or alias."""
        found = None if name is None else self._named(user, values.checked_alias(name))
        if found is not None:
            return session_of(found.row)
        if not create:
            raise NotFound("session", name or "")
        return self._add(_Tree(new_row(user, self._clock(), name, **session_fields(model=model))))

    async def find(self, id: str) -> SessionRecord:
        """The session of that id."""
        if id not in self._trees:
            raise NotFound("session", id)
        return session_of(self._trees[id].row)

    async def lock(
        self, session: SessionRecord, holder: str, seconds: float
    ) -> SessionRecord | None:
        """The session, if it can be had."""
        row, now = self._tree(session).row, self._lease_clock()
        if row["locked_by"] not in ("", holder) and row["locked_until"] > now:
            return None
        row |= {"locked_by": holder, "locked_until": now + seconds}
        return session_of(row)

    async def unlock(self, session: SessionRecord, holder: str) -> None:
        """Frees it."""
        tree = self._own(session)
        if tree is not None and tree.row["locked_by"] == holder:
            tree.row["locked_by"] = ""

    async def holder(self, session: SessionRecord) -> str:
        """Who has it."""
        tree = self._own(session)
        return "" if tree is None or self._idle(tree.row) else str(tree.row["locked_by"])

    async def hand_over(self, session: SessionRecord, holder: str, to: str) -> bool:
        """Renames a lock."""
        tree = self._own(session)
        if tree is None or tree.row["locked_by"] != holder:
            return False
        tree.row["locked_by"] = to
        return True

    async def window(
        self,
        session: SessionRecord,
        *,
        messages: int = 500,
        tokens: int | None = None,
        at: str | None = None,
    ) -> Window:
        """The end of the path."""
        end, most = (session.head if at is None else at), checked_limit(messages)
        if end is None:
            return Window((), None)
        tree = self._tree(session)
        if end not in tree.messages:
            raise NotFound("message", end)
        line, path, summary = tree.line(end), tree.path(end), session_of(tree.row).summary
        place = next(
            (i for i, row in enumerate(line) if summary is not None and row["id"] == summary.upto),
            None,
        )
        if place is None:
            summary = None
        else:
            path = [row for row in line[place + 1 :] if not row["erased"]]
        items, total = [], 0
        for row in reversed(path[-most:]):
            total += row["tokens"]
            if tokens is not None and total > tokens:
                break
            items.append(item_of(row))
        items.reverse()
        keep = chain.paired([item.message for item in items])
        return Window(tuple(item for item, kept in zip(items, keep, strict=True) if kept), summary)

    async def match(self, session: SessionRecord, messages: Sequence[Message]) -> Match:
        """The stored part of a history."""
        spoken, before, found = (
            chain.conversation_messages(messages),
            chain.ROOT,
            Match(None, 0, tuple(chain.conversation_messages(messages))),
        )
        stored = {
            row["prefix"]: row["id"]
            for row in sorted(self._rows(session), key=lambda row: (row["branch"], row["depth"]))
            if not row["erased"] and not row["side"] and row["role"] not in chain.NOT_HISTORY
        }
        for i, message in enumerate(spoken, 1):
            before = chain.link(before, chain.content_digest(message))
            if before in stored:
                found = Match(stored[before], i, tuple(spoken[i:]))
        return found

    async def commit(self, session: SessionRecord, turn: TurnRecord) -> Committed:
        """Adds a turn."""
        checked(turn)
        todo, tree = prepared(turn.parent, turn.entries), self._tree(session)
        if is_repeated(tree.row, turn):
            return Committed(session_of(tree.row), ids_of(todo), repeated=True)
        new, changes = outcome(tree.row, turn, todo, tree.places(), self._clock())
        for row in new:
            old = tree.messages.get(row["id"])
            tree.messages[row["id"]] = row | {
                "gone": False,
                "side": row["side"] and (old is None or old["side"]),
            }
        tree.row |= changes
        tree.count()
        return Committed(session_of(tree.row), ids_of(todo))

    async def list(
        self, user: str | None, limit: int = 20, after: str | None = None
    ) -> Page[SessionRecord]:
        """A page of sessions."""
        rows = self._newest(user)
        if after is not None:
            place = next((i for i, row in enumerate(rows, 1) if row["id"] == after), None)
            if place is None:
                raise Invalid(
                    f"after names no session: {after!a}; begin again without it.", "after"
                )
            rows = rows[place:]
        return page_of([session_of(row) for row in rows[: checked_limit(limit) + 1]], limit)

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
        changes, tree = session_fields(title, model, params, state, metadata), self._tree(session)
        if summary is None:
            changes |= {"summary": None, "summary_upto": None}
        elif summary is not UNSET:
            changes |= {
                "summary": values.summary_text(summary),
                "summary_upto": tree.message(summary.upto)["id"],
            }
        tree.row |= changes
        return session_of(tree.row)

    async def delete(self, session: SessionRecord) -> None:
        """Removes it."""
        self._tree(session)
        del self._trees[session.id]

    async def forget(self, user: str, limit: int = 100) -> int:
        """Removes some of a user's."""
        return self._drop(self._newest(user)[:limit])

    async def items(
        self,
        session: SessionRecord,
        limit: int = 20,
        after: str | None = None,
        *,
        descending: bool = True,
    ) -> Page[Item]:
        """A page of messages."""
        tree = self._own(session)
        rows = tree.path(tree.row["head"]) if tree else []
        if tree is not None and after is not None:
            known = tree.messages.get(after, {"gone": True})
            depth = None if known["gone"] else known["depth"]
            rows = [
                row
                for row in rows
                if depth is not None
                and (row["depth"] < depth if descending else row["depth"] > depth)
            ]
        rows = rows[::-1] if descending else rows
        return page_of([item_of(row) for row in rows[: checked_limit(limit) + 1]], limit)

    async def item(self, session: SessionRecord, id: str) -> Item:
        """One message."""
        return item_of(self._tree(session).message(id))

    async def delete_item(self, session: SessionRecord, id: str) -> SessionRecord:
        """Erases one."""
        tree = self._tree(session)
        row = tree.message(id)
        before = tree.messages.get(row["parent"])
        row |= {"erased": True, "message": "", "usage": None}
        same = [other for other in tree.messages.values() if other["prefix"] == row["prefix"]]
        for other in same:
            if other["erased"] or other["role"] in chain.NOT_HISTORY:
                other["prefix"] = before["prefix"] if before else chain.ROOT
        tree.row["erased"] += 1
        tree.count()
        return session_of(tree.row)

    async def fork(
        self, session: SessionRecord, at: str | None = None, *, alias: str | None = None
    ) -> SessionRecord:
        """A copy of a path."""
        tree = self._tree(session)
        end = tree.row["head"] if at is None else tree.message(at)["id"]
        rows = [row | {"branch": 0, "start": 1, "base": NO_BRANCH} for row in tree.line(end)]
        same = (
            "title",
            "model",
            "metadata",
            "params",
            "state",
            "erased",
            "trimmed",
            "summary",
            "summary_upto",
        )
        row = (
            new_row(session.user_id, self._clock(), alias)
            | {name: tree.row[name] for name in same}
            | {"head": end, "branches": 1}
        )
        if row["summary_upto"] not in {row["id"] for row in rows}:
            row |= {"summary": None, "summary_upto": None}
        return self._add(_Tree(row, rows))

    async def sweep(self, keep: Retention, user: str | None = None, limit: int = 100) -> int:
        """Removes what is old."""
        done, now = 0, self._clock()
        if keep.seconds is not None:
            old = [
                row
                for row in reversed(self._newest(user))
                if row["updated_at"] < now - keep.seconds and self._idle(row)
            ]
            done += self._drop(old[:limit])
        if keep.newest is not None:
            owners = {row["user_id"] for row in self._newest(user)}
            old = [row for owner in owners for row in self._newest(owner)[keep.newest :]]
            done += self._drop([row for row in old[: limit - done] if self._idle(row)])
        if keep.messages is not None:
            long = [
                row
                for row in self._newest(user)
                if row["message_count"] > keep.messages and self._idle(row)
            ]
            for row in long[: limit - done]:
                self._trim(self._trees[row["id"]], keep.messages)
                done += 1
        return done

    async def export(
        self, session: SessionRecord, batch: int = 500
    ) -> AsyncIterator[tuple[Item, ...]]:
        """Every message."""
        shown: dict[str | None, str | None] = {None: None}
        items = []
        for row in self._rows(session):
            parent = shown[row["parent"]]
            shown[row["id"]] = parent if row["erased"] else row["id"]
            if not row["erased"]:
                items.append(replace(item_of(row), parent=parent))
        for start in range(0, len(items), batch):
            yield tuple(items[start : start + batch])

    async def restore(
        self, user: str, session: SessionRecord, items: Iterable[Item], *, alias: str | None = None
    ) -> SessionRecord:
        """A session like an exported one."""
        row = new_row(user, self._clock(), alias, **like(session))
        ours, rows, head = rebuilt(row, session, items)
        if session.summary is not None and session.summary.upto in ours:
            row |= {
                "summary": values.summary_text(session.summary),
                "summary_upto": ours[session.summary.upto],
            }
        row |= {
            "head": head,
            "branches": 1 + max((row["branch"] for row in rows), default=NO_BRANCH),
        }
        return self._add(_Tree(row, [row | {"gone": False} for row in rows]))

    def _own(self, session: SessionRecord) -> _Tree | None:
        tree = self._trees.get(session.id)
        return tree if tree is not None and tree.row["user_id"] == session.user_id else None

    def _rows(self, session: SessionRecord) -> Sequence[Row]:
        tree = self._own(session)
        return [*tree.messages.values()] if tree else []

    def _tree(self, session: SessionRecord) -> _Tree:
        tree = self._own(session)
        if tree is None:
            raise NotFound("session", session.id)
        return tree

    def _named(self, user: str, name: str) -> _Tree | None:
        own = self._owned(user)
        by_id = [tree for tree in own if tree.row["id"] == name]
        return next(iter(by_id or [tree for tree in own if tree.row["alias"] == name]), None)

    def _add(self, tree: _Tree) -> SessionRecord:
        alias = tree.row["alias"]
        if any(
            other.row["alias"] == alias
            for other in self._owned(tree.row["user_id"])
            if alias is not None
        ):
            raise Conflict(f"There is a session called {alias!r} already.", "conversation")
        self._trees[tree.row["id"]] = tree
        tree.count()
        return session_of(tree.row)

    def _owned(self, user: str) -> Sequence[_Tree]:
        return [tree for tree in self._trees.values() if tree.row["user_id"] == user]

    def _newest(self, user: str | None) -> Sequence[Row]:
        rows = [tree.row for tree in self._trees.values() if user in (None, tree.row["user_id"])]
        return sorted(rows, key=lambda row: (row["updated_at"], row["id"]), reverse=True)

    def _idle(self, row: Row) -> bool:
        return bool(row["locked_by"] == "" or row["locked_until"] <= self._lease_clock())

    def _drop(self, rows: Sequence[Row]) -> int:
        for row in rows:
            del self._trees[row["id"]]
        return len(rows)

    def _trim(self, tree: _Tree, keep: int) -> None:
        cut = tree.path(tree.row["head"])[-keep - 1]["depth"]
        for row in tree.messages.values():
            if row["depth"] <= cut:
                row |= {"gone": True, "erased": True, "message": "", "usage": None}
        tree.row["trimmed"] = cut
        tree.count()
