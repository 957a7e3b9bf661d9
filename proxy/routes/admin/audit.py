"""/admin/audit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct
from msgspec.structs import asdict

from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.people.audit import AuditEntry
from chattable.proxy.routes.typed import (
    PAGE,
    InjectedServices,
    Limit,
    ListPage,
    page,
)

MOMENT = "A date or time in ISO 8601, in UTC unless it says otherwise, or unix seconds"


class AuditRecord(Struct, kw_only=True):
    """One change, or the attempt; an outcome that stays `begun` says that nobody knows."""

    id: str
    object: str = "audit.entry"
    created_at: int
    actor: str
    actor_name: str
    action: str
    target: str | None
    target_name: str
    request_id: str | None
    details: dict[str, Any]
    outcome: str


class AuditPage(ListPage[AuditRecord], kw_only=True):
    """A page of the audit trail."""


@get("/audit", summary="Who changed what, newest first")
async def list_audit(
    services: InjectedServices,
    who: Annotated[str, QueryParameter(name="actor")] = "",
    action: FromQuery[str] = "",
    target: FromQuery[str] = "",
    since: Annotated[str | None, QueryParameter(name="from", description=MOMENT)] = None,
    until: Annotated[str | None, QueryParameter(name="to", description=MOMENT)] = None,
    limit: Limit = PAGE,
    after: FromQuery[str | None] = None,
) -> AuditPage:
    found = await services.audit.list(
        limit,
        after,
        actor=who,
        action=action,
        target=target,
        since=_moment(since, "from"),
        until=_moment(until, "to"),
    )
    return page(AuditPage, [_entry(entry) for entry in found.data], more=found.has_more)


ROUTES = Router("/", tags=["Audit"], route_handlers=[list_audit])


def _moment(text: str | None, name: str) -> int | None:
    """A time from the query; None if absent."""
    if text is None:
        return None
    try:
        if text.isascii() and text.isdigit() and len(text) <= 11:
            return int(text)
        given = datetime.fromisoformat(text)
        return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        message = (
            f"Invalid value for '{name}': expected unix seconds or a date such as 2026-11-21,"
            f" but got '{clip(text)}'."
        )
        raise InvalidRequest(message, param=name, code="invalid_value") from None


def _entry(entry: AuditEntry) -> AuditRecord:
    fields = asdict(entry)
    return AuditRecord(created_at=fields.pop("at"), **fields)
