"""/admin/usage and /admin/events: what was used by whom, and what happened to budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.proxy.people.usage import as_csv
from chattable.proxy.routes.bodies import admin_only, page
from chattable.proxy.routes.request_context import integer
from chattable.proxy.services import House
from chattable.proxy.store.text import printable

FILTERS = ("user", "team", "key", "model", "agent", "session", "tag")


@dataclass(frozen=True)
class ReportQuery:
    """What a query may ask of a report; `FILTERS` are names of subjects."""

    group_by: FromQuery[str] = ""
    since: Annotated[str, QueryParameter(name="from")] = ""
    until: Annotated[str, QueryParameter(name="to")] = ""
    user: FromQuery[str] = ""
    team: FromQuery[str] = ""
    key: FromQuery[str] = ""
    model: FromQuery[str] = ""
    agent: FromQuery[str] = ""
    session: FromQuery[str] = ""
    tag: FromQuery[str] = ""
    format: FromQuery[str] = ""


REPORT = {"report": Provide(ReportQuery, sync_to_thread=False)}


def routes(house: House) -> list[ControllerRouterHandler]:
    """Reports, for admins only."""

    @get(
        "/admin/usage", dependencies=REPORT, summary="Usage, grouped and filtered as the query says"
    )
    async def usage(
        request: Request[Any, Any, Any], report: NamedDependency[ReportQuery]
    ) -> Response[Any]:
        await admin_only(request, house)
        return await answer(report, house, {})

    @get("/admin/events", summary="Budget events, newest first")
    async def events(
        request: Request[Any, Any, Any], limit: FromQuery[str] = "100", after: FromQuery[str] = ""
    ) -> Json:
        await admin_only(request, house)
        most = min(max(1, integer(limit, "limit")), 1000)
        found = await house.outbox.newest(most + 1, printable(after, "after"))
        return page(
            [{"object": "budget.event", **asdict(notice)} for notice in found[:most]],
            more=len(found) > most,
        )

    return [usage, events]


async def answer(query: ReportQuery, house: House, only: dict[str, str]) -> Response[Any]:
    """A report as the query asks for it, as JSON or CSV; `only` is what the caller may see."""
    by = [name.strip() for name in query.group_by.split(",") if name.strip()]
    given = {name: printable(value, name) for name in FILTERS if (value := getattr(query, name))}
    rows = await house.usage.report(by, query.since, query.until, given | only)
    if query.format == "csv":
        return Response(as_csv(by, rows), media_type="text/csv; charset=utf-8")
    return Response({"object": "list", "data": rows, "has_more": False})
