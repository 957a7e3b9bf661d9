"""/v1/me: what a key's owner may know of themselves."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.proxy.routes.bodies import known_queries, page
from chattable.proxy.routes.budgets import shown_budget
from chattable.proxy.routes.request_context import caller_of
from chattable.proxy.routes.subjects import Subjects
from chattable.proxy.routes.usage import REPORT, ReportQuery, answer
from chattable.proxy.services import House


def routes(house: House) -> list[ControllerRouterHandler]:
    """The caller's own affairs."""
    ledger, subjects = house.metering.ledger, Subjects(house)

    @get("/v1/me/usage", dependencies=REPORT, summary="The caller's usage; as /admin/usage")
    async def my_usage(
        request: Request[Any, Any, Any], report: NamedDependency[ReportQuery]
    ) -> Response[Any]:
        caller = await caller_of(request, house)
        known_queries(request)
        return await answer(report, house, {"user": caller.principal.user.id})

    @get("/v1/me/budgets", summary="The budgets that bind the caller")
    async def my_budgets(request: Request[Any, Any, Any]) -> Json:
        who = (await caller_of(request, house)).principal
        known_queries(request)
        mine = {
            ("user", who.user.id),
            ("key", who.key_id),
            ("team", who.team or ""),
            ("each_user", ""),
        }
        limits = [limit for limit in await ledger.limits() if (limit.kind, limit.subject) in mine]
        if any(limit.kind == "user" for limit in limits):
            limits = [limit for limit in limits if limit.kind != "each_user"]
        owner = {limit.id: who.user.id if limit.kind == "each_user" else "" for limit in limits}
        rooms = [(limit, await ledger.room(limit.id, owner[limit.id])) for limit in limits]
        return page(
            [shown_budget(limit, await subjects.shown(limit), room) for limit, room in rooms],
            more=False,
        )

    return [my_usage, my_budgets]
