"""Where a turn's messages go in the tree, as rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from chattable.budget.storage.statements import Row
from chattable.proxy.store.errors import HeadMoved, Invalid, NotFound
from chattable.proxy.store.sessions import chain, values
from chattable.proxy.store.sessions.port import Item, NewItem, SessionRecord, TurnRecord
from chattable.proxy.store.sessions.rows import session_fields

NO_BRANCH = -1


class TreePosition(Struct, frozen=True):
    """Where a message is; `tip`: none follows on its branch.

    The flags are those of a stored message.
    """

    id: str
    prefix: str
    branch: int
    start: int
    base: int
    depth: int
    tip: bool = True
    erased: bool = False
    incomplete: bool = False
    side: bool = False


class Written(Struct, frozen=True):
    """An entry with what is computed from it, before any database is asked."""

    entry: NewItem | Item
    id: str
    digest: bytes
    text: str


def prepared(parent: str | None, entries: Sequence[NewItem]) -> list[Written]:
    """The entries with their ids, which follow from what they say; `Invalid` where not storable."""
    done, parent = [], parent and values.findable_id(parent)
    for entry in entries:
        digest = chain.content_digest(entry.message)
        parent = chain.next_id(parent, digest)
        done.append(Written(entry, parent, digest, values.message_text(entry.message)))
    return done


def placed(one: Written, parent: TreePosition | None, branches: int) -> TreePosition:
    """The place of a message that is not stored yet.

    It is behind its parent, or, where that has a message behind it already, on branch `branches`.
    """
    prefix = chain.next_prefix(
        parent.prefix if parent else chain.ROOT, one.entry.message.role, one.digest
    )
    if parent is None:
        return TreePosition(one.id, prefix, branches, 1, NO_BRANCH, 1)
    if parent.tip:
        return TreePosition(
            one.id, prefix, parent.branch, parent.start, parent.base, parent.depth + 1
        )
    return TreePosition(one.id, prefix, branches, parent.depth + 1, parent.branch, parent.depth + 1)


def stored_row(
    session: str, one: Written, place: TreePosition, parent: str | None, **fields: Any
) -> dict[str, Any]:
    """A message as a row of its table."""
    return {
        "session_id": session,
        "branch": place.branch,
        "depth": place.depth,
        "start": place.start,
        "base": place.base,
        "id": one.id,
        "parent": parent,
        "prefix": place.prefix,
        "role": values.cleaned(one.entry.message.role),
        "speaker": values.cleaned(one.entry.speaker),
        "tokens": values.tokens_of(one.entry),
        "erased": False,
        "incomplete": one.entry.incomplete,
        "usage": values.usage_text(one.entry.usage),
        "message": one.text,
    } | fields


def ids_of(todo: list[Written]) -> tuple[str, ...]:
    """The ids of a turn's messages."""
    return tuple(one.id for one in todo)


def is_repeated(row: Row, turn: TurnRecord) -> bool:
    """Says whether this turn was committed before; `HeadMoved` if it was not, and others were."""
    if values.has_key(row["recent"], turn.key):
        return True
    if turn.head is not UNSET and turn.head != row["head"]:
        raise HeadMoved
    return False


def outcome(
    row: Row, turn: TurnRecord, todo: list[Written], known: Mapping[str, TreePosition], now: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of messages to write for a turn, and what changes in the session's own."""
    if turn.parent is not None and turn.parent not in known:
        raise NotFound("message", turn.parent)
    new, branches = _grown(row, turn, todo, known, now)
    revived = sum(known[one["id"]].erased for one in new if one["id"] in known)
    usage = values.usage_of(row["usage"])
    assert usage is not None
    return new, session_fields(model=turn.model, state=turn.state) | {
        "head": row["head"] if turn.side else todo[-1].id if todo else turn.parent,
        "message_count": None if revived else _count(row, turn, todo, known),
        "branches": branches,
        "erased": row["erased"] - revived,
        "usage": values.usage_text(values.used(turn.entries, usage)),
        "recent": values.remembered(row["recent"], turn.key),
        "locked_by": "" if row["locked_by"] == turn.holder else row["locked_by"],
        "updated_at": now,
    }


def _grown(
    row: Row, turn: TurnRecord, todo: list[Written], known: Mapping[str, TreePosition], now: float
) -> tuple[list[dict[str, Any]], int]:
    rows, parent, branches = (
        [],
        known[turn.parent] if turn.parent is not None else None,
        row["branches"],
    )
    facts = {
        "request_id": values.cleaned(turn.request_id),
        "side": turn.side,
        "created_at": int(now),
    }
    for one in todo:
        place = known.get(one.id)
        if place is None or _better(one.entry, turn.side, place):
            at = place or placed(one, parent, branches)
            if at.erased:  # its own digest again, in place of its parent's
                at = replace(at, prefix=placed(one, parent, branches).prefix)
            rows.append(stored_row(row["id"], one, at, parent.id if parent else None, **facts))
            branches = max(branches, at.branch + 1)
            place = at
        parent = place
    return rows, branches


def _better(entry: NewItem | Item, side: bool, stored: TreePosition) -> bool:
    return (
        stored.erased or (stored.incomplete and not entry.incomplete) or (stored.side and not side)
    )


def _count(
    row: Row, turn: TurnRecord, todo: list[Written], known: Mapping[str, TreePosition]
) -> int | None:
    """The messages on the path to the head after a turn; None: they must be counted."""
    if turn.side or turn.parent == row["head"]:
        return int(row["message_count"]) + (0 if turn.side else len(todo))
    if turn.parent is None:
        return len(todo)
    return None if row["erased"] or row["trimmed"] else known[turn.parent].depth + len(todo)


def checked(turn: TurnRecord) -> None:
    """Refuses a turn that says two things at once."""
    if not turn.entries and turn.side:
        raise Invalid("A side turn without messages changes nothing.", "messages")


def rebuilt(
    row: Row, session: SessionRecord, items: Iterable[Item]
) -> tuple[dict[str, str], list[dict[str, Any]], str | None]:
    """An exported session's messages in the new session `row`.

    Returns their new ids by their old ones, their rows, and the head.
    """
    ours: dict[str, str] = {}  # id there → here, where the same siblings are one
    at: dict[str, TreePosition] = {}
    rows, branches = [], 0
    for item in items:
        before = _here(item.parent, ours)
        digest = chain.content_digest(item.message)
        ours[item.id] = own = chain.next_id(before, digest)
        if own in at:
            continue
        one = Written(item, own, digest, values.message_text(item.message))
        parent = None if before is None else at[before]
        at[own] = place = placed(one, parent, branches)
        branches = max(branches, place.branch + 1)
        if parent is not None:
            at[parent.id] = replace(parent, tip=False)
        facts = {
            "request_id": values.cleaned(item.request_id),
            "side": item.side,
            "created_at": item.created_at,
        }
        rows.append(stored_row(row["id"], one, place, before, **facts))
    return ours, rows, _here(session.head, ours)


# the public word for it
def _here(id: str | None, ours: Mapping[str, str]) -> str | None:  # noqa: A002
    if id is not None and id not in ours:
        raise Invalid(
            f"The message {id!a} is referred to before it comes, or never comes.", "messages"
        )
    return None if id is None else ours[id]
