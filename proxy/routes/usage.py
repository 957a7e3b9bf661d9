"""/admin/usage and /admin/events: what was used by whom, and what happened to budgets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromQuery, QueryParameter
from litestar.response import Stream
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from chattable.proxy.people.usage import PAGE_ROWS, Report, UsageReports, csv_header, csv_rows
from chattable.proxy.routes.documented import CSV, operation
from chattable.proxy.routes.typed import MOST, PAGE, InjectedServices, Limit, ListPage, page
from chattable.proxy.services import Services
from chattable.proxy.store.page import checked_limit
from chattable.proxy.store.text import printable

FILTERS = ("user", "team", "key", "model", "agent", "session", "tag")
BY = "What to group by, with commas between: user, team, key, model, agent, session, tag, day"
FORMAT = "`csv` for a spreadsheet of all rows"
MOMENT = "A date, by the budgets' time zone, a time, or unix seconds"


@dataclass(frozen=True)
class ReportQuery:
    """What a query may ask of a report; `FILTERS` are names of subjects."""

    group_by: Annotated[str, QueryParameter(description=BY)] = ""
    since: Annotated[str, QueryParameter(name="from", description=MOMENT)] = ""
    until: Annotated[str, QueryParameter(name="to", description=MOMENT)] = ""
    user: FromQuery[str] = ""
    team: FromQuery[str] = ""
    key: FromQuery[str] = ""
    model: FromQuery[str] = ""
    agent: FromQuery[str] = ""
    session: FromQuery[str] = ""
    tag: FromQuery[str] = ""
    format: Annotated[str, QueryParameter(description=FORMAT)] = ""
    limit: Limit = MOST
    after: Annotated[str, QueryParameter(description="`last_id` of the page before")] = ""


class UsageFigures(Struct, kw_only=True):
    """What a group of calls used; it has the fields that the report is grouped by."""

    user: str | UnsetType = UNSET
    team: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    agent: str | UnsetType = UNSET
    session: str | UnsetType = UNSET
    tag: str | UnsetType = UNSET
    day: str | UnsetType = UNSET
    requests: int
    cached_requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    tokens_saved: int
    cost_usd: float


class UsageReport(Struct, kw_only=True):
    """A page of a report; where there are more rows `last_id` is what to give as `after`."""

    object: str = "list"
    data: list[UsageFigures]
    has_more: bool = False
    last_id: str | UnsetType = UNSET


class BudgetEvent(Struct, kw_only=True):
    """Something that happened to a budget, and what became of telling the webhook of it."""

    object: str = "budget.event"
    id: str
    at: int
    kind: str
    data: dict[str, Any]
    attempts: int
    state: str


class BudgetEventPage(ListPage[BudgetEvent], kw_only=True):
    """A page of budget events."""


REPORT = {"report": Provide(ReportQuery, sync_to_thread=False)}
REPORTS = operation(answers=CSV)


@get(
    "/usage",
    dependencies=REPORT,
    operation_class=REPORTS,
    summary="Usage, grouped and filtered as the query says",
)
async def get_usage(
    report: NamedDependency[ReportQuery], services: InjectedServices
) -> Response[UsageReport]:
    return await answer(report, services, {})


@get("/events", summary="Budget events, newest first")
async def list_events(
    services: InjectedServices,
    limit: Limit = PAGE,
    after: FromQuery[str] = "",
) -> BudgetEventPage:
    most = min(max(1, limit), 1000)
    found = await services.outbox.newest(most + 1, printable(after, "after"))
    events = [BudgetEvent(**asdict(notice)) for notice in found[:most]]
    return page(BudgetEventPage, events, more=len(found) > most)


ROUTES = Router("/", tags=["Usage"], route_handlers=[get_usage, list_events])


async def answer(query: ReportQuery, services: Services, only: dict[str, str]) -> Response[Any]:
    """A report as the query asks for it, as JSON or CSV; `only` is what the caller may see."""
    by = [name.strip() for name in query.group_by.split(",") if name.strip()]
    given = {name: printable(value, name) for name in FILTERS if (value := getattr(query, name))}
    asked = Report(by=by, since=query.since, until=query.until, only=given | only)
    if query.format == "csv":
        return await _spreadsheet(services.usage, asked, query.after)
    rows, last = await services.usage.page(asked, checked_limit(query.limit), query.after)
    data = msgspec.convert(rows, list[UsageFigures])
    return Response(UsageReport(data=data, has_more=bool(last), last_id=last or UNSET))


async def _spreadsheet(usage: UsageReports, asked: Report, after: str) -> Response[Any]:
    """All rows, of which never more than a page is in memory."""
    rows, last = await usage.page(asked, PAGE_ROWS, after)
    first = csv_header(asked.by) + csv_rows(asked.by, rows)
    if not last:
        return Response(first, media_type="text/csv")

    async def lines() -> AsyncGenerator[str]:
        yield first
        async with aclosing(usage.pages(asked, last)) as pages:
            async for rows in pages:
                yield csv_rows(asked.by, rows)

    return Stream(lines(), media_type="text/csv")
