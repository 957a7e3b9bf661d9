"""Sessions and messages as rows of the database."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from chattable.agents.chat import NO_USAGE, Json
from chattable.budget.storage.statements import Row
from chattable.proxy.store.ids import new_id
from chattable.proxy.store.sessions import values
from chattable.proxy.store.sessions.port import SESSION_ID, Item, SessionRecord, Summary
from chattable.proxy.store.tables import sessions

NAMES = [column.name for column in sessions.c]


def new_row(user: str, now: float, alias: str | None, **fields: Any) -> dict[str, Any]:
    """A session that nothing was said in."""
    named = None if alias is None else values.new_alias(alias)
    return {
        "id": new_id(SESSION_ID, now),
        "user_id": user,
        "alias": named,
        "alias_digest": named and values.alias_digest(named),
        **dict.fromkeys(("title", "model", "head", "summary"), None),
        **dict.fromkeys(("summary_upto", "summary_branch", "summary_depth"), None),
        **dict.fromkeys(("message_count", "branches", "erased", "trimmed"), 0),
        **dict.fromkeys(("metadata", "params", "state"), "{}"),
        "locked_by": "",
        "locked_until": 0.0,
        "created_at": int(now),
        "updated_at": now,
        "recent": "",
        "usage": values.usage_text(NO_USAGE),
    } | fields


def session_of(row: Row) -> SessionRecord:
    """The session in a row."""
    upto = row["summary_upto"]
    return SessionRecord(
        id=row["id"],
        user_id=row["user_id"],
        alias=row["alias"],
        title=row["title"],
        model=row["model"],
        params=values.read(row["params"]),
        state=values.read(row["state"]),
        metadata=values.read(row["metadata"]),
        head=row["head"],
        message_count=row["message_count"],
        summary=None if upto is None else Summary(values.read(row["summary"]), upto),
        usage=values.usage_of(row["usage"]) or NO_USAGE,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def item_of(fields: Row) -> Item:
    """The message in a row."""
    return Item(
        id=fields["id"],
        parent=fields["parent"],
        position=fields["depth"],
        message=values.message_of(fields["message"]),
        speaker=fields["speaker"],
        tokens=fields["tokens"],
        usage=values.usage_of(fields["usage"]),
        request_id=fields["request_id"],
        incomplete=bool(fields["incomplete"]),
        side=bool(fields["side"]),
        created_at=fields["created_at"],
    )


def session_fields(
    title: str | UnsetType | None = UNSET,
    model: str | UnsetType | None = UNSET,
    params: Json | UnsetType = UNSET,
    state: Json | UnsetType = UNSET,
    metadata: dict[str, str] | UnsetType = UNSET,
) -> dict[str, Any]:
    """What is given of a session's own fields, as a row has it."""
    given: dict[str, Any] = {}
    if title is not UNSET:
        given["title"] = None if title is None else values.cleaned(title)
    if model is not UNSET:
        given["model"] = None if model is None else values.cleaned(model)
    if params is not UNSET:
        given["params"] = values.written(params, "params")
    if state is not UNSET:
        given["state"] = values.written(state, "state")
    if metadata is not UNSET:
        given["metadata"] = values.written(values.checked_metadata(metadata), "metadata")
    return given


def like(session: SessionRecord) -> dict[str, Any]:
    """The fields of a row that another session with the same settings has."""
    fields = session_fields(
        session.title, session.model, session.params, session.state, session.metadata
    )
    made = {"created_at": session.created_at} if session.created_at else {}
    return fields | made | {"usage": values.usage_text(session.usage)}
