"""/v1/me: what a key's owner may know of themselves."""

from __future__ import annotations

from litestar import Response, Router, get
from litestar.di import NamedDependency

from chattable.budget import operations
from chattable.budget.storage.statements import Steps
from chattable.proxy.routes.admin.budgets import BudgetObject, BudgetPage, shown_budgets
from chattable.proxy.routes.guards import known_queries
from chattable.proxy.routes.typed import InjectedCaller, InjectedServices, page
from chattable.proxy.routes.usage import REPORT, REPORTS, ReportQuery, UsageReport, answer


@get(
    "/usage",
    dependencies=REPORT,
    operation_class=REPORTS,
    summary="The caller's usage; as /admin/usage",
)
async def get_my_usage(
    report: NamedDependency[ReportQuery], caller: InjectedCaller, services: InjectedServices
) -> Response[UsageReport]:
    return await answer(report, services, {"user": caller.principal.user.id})


@get("/budgets", summary="The budgets that bind the caller")
async def list_my_budgets(caller: InjectedCaller, services: InjectedServices) -> BudgetPage:
    who = caller.principal
    mine = [("user", who.user.id), ("key", who.key_id), ("team", who.team or ""), ("each_user", "")]

    def listed() -> Steps[list[BudgetObject]]:
        limits = yield from operations.limit_page(services.ledger.dialect, subjects=mine)
        if any(limit.kind == "user" for limit in limits):
            limits = [limit for limit in limits if limit.kind != "each_user"]
        return (yield from shown_budgets(services, limits, who.user.id))

    return page(BudgetPage, await services.ledger.storage.read(listed))


ROUTES = Router(
    "/me", guards=[known_queries], tags=["Me"], route_handlers=[get_my_usage, list_my_budgets]
)
