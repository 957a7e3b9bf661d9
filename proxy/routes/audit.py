"""/admin/audit."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import Request, get
from litestar.params import FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest, clip
from chattable.proxy.routes.bodies import admin_only, page
from chattable.proxy.routes.request_context import integer
from chattable.proxy.services import House
from chattable.proxy.store.audit import AuditEntry


def routes(house: House) -> list[ControllerRouterHandler]:
    """The audit trail, for admins only; nobody changes it."""

    @get("/admin/audit", summary="Who changed what, newest first")
    async def list_audit(
        request: Request[Any, Any, Any],
        actor: FromQuery[str] = "",
        action: FromQuery[str] = "",
        target: FromQuery[str] = "",
        since: Annotated[str | None, QueryParameter(name="from")] = None,
        until: Annotated[str | None, QueryParameter(name="to")] = None,
        limit: FromQuery[str] = "100",
        after: FromQuery[str | None] = None,
    ) -> Json:
        await admin_only(request, house)
        found = await house.audit.list(
            integer(limit, "limit"),
            after,
            actor=actor,
            action=action,
            target=target,
            since=moment(since, "from"),
            until=moment(until, "to"),
        )
        return page([_entry(entry) for entry in found.data], more=found.has_more)

    return [list_audit]


def moment(text: str | None, name: str) -> int | None:
    """A time from the query, as unix seconds or as an ISO date or time, in UTC unless it says otherwise; None if absent."""
    if text is None:
        return None
    try:
        if text.isascii() and text.isdigit() and len(text) <= 11:
            return int(text)
        given = datetime.fromisoformat(text)
        return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        message = f"Invalid value for '{name}': expected unix seconds or a date such as 2026-11-21, but got '{clip(text)}'."
        raise InvalidRequest(message, param=name, code="invalid_value") from None


def _entry(entry: AuditEntry) -> Json:
    fields = asdict(entry)
    return {"id": entry.id, "object": "audit.entry", "created_at": fields.pop("at"), **fields}
