"""/admin/usage and /admin/events: what was used by whom, and what happened to budgets."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.types import ControllerRouterHandler
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.proxy.house import House
from chattable.proxy.requests import integer
from chattable.proxy.routes.bodies import admin_only, page
from chattable.proxy.store.text import printable
from chattable.proxy.usage import as_csv

FILTERS = ("user", "team", "key", "model", "agent", "session", "tag")


def routes(house: House) -> list[ControllerRouterHandler]:
    """Reports, for admins only."""

    @get("/admin/usage", summary="Usage; ?group_by=user,model&from=&to=&user=&team=&key=&model=&agent=&session=&tag=&format=csv")
    async def usage(request: Request[Any, Any, Any]) -> Response[Any]:
        await admin_only(request, house)
        return await answer(request, house, {})

    @get("/admin/events", summary="Budget events, newest first; ?after= ?limit=")
    async def events(request: Request[Any, Any, Any]) -> Json:
        await admin_only(request, house)
        most = min(max(1, integer(request, "limit", 100)), 1000)
        found = await house.outbox.newest(most + 1, printable(request.query_params.get("after", ""), "after"))
        return page([{"object": "budget.event", **asdict(notice)} for notice in found[:most]], more=len(found) > most)

    return [usage, events]


async def answer(request: Request[Any, Any, Any], house: House, only: dict[str, str]) -> Response[Any]:
    """A report as the query asks for it, as JSON or CSV; `only` is what the caller may see."""
    query = request.query_params
    by = [name.strip() for name in query.get("group_by", "").split(",") if name.strip()]
    given = {name: printable(query[name], name) for name in FILTERS if query.get(name)}
    rows = await house.usage.report(by, query.get("from", ""), query.get("to", ""), given | only)
    if query.get("format") == "csv":
        return Response(as_csv(by, rows), media_type="text/csv; charset=utf-8")
    return Response({"object": "list", "data": rows, "has_more": False})
