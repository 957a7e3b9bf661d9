"""/admin/teams."""

from __future__ import annotations

from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Struct
from msgspec.structs import asdict

from chattable.proxy.people.teams import Team
from chattable.proxy.routes.typed import (
    PAGE,
    Deleted,
    InjectedActor,
    InjectedServices,
    Limit,
    ListPage,
    page,
)


class TeamName(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/teams and of PATCH /admin/teams/{id}."""

    name: str


class TeamObject(Struct, kw_only=True):
    """A team as the API shows one."""

    id: str
    object: str = "team"
    name: str
    created_at: int


class TeamPage(ListPage[TeamObject], kw_only=True):
    """A page of teams."""


@post("/teams", summary="Create a team")
async def create_team(
    data: JSONBody[TeamName], actor: InjectedActor, services: InjectedServices
) -> TeamObject:
    async with services.audit.entry(actor, "team.create", data.name) as effect:
        team = await services.teams.create(data.name)
        effect.about(team.id, team.name)
    return _team(team)


@get("/teams", summary="List teams, oldest first")
async def list_teams(
    services: InjectedServices,
    limit: Limit = PAGE,
    after: FromQuery[str | None] = None,
) -> TeamPage:
    found = await services.teams.list(limit, after)
    return page(TeamPage, [_team(team) for team in found.data], more=found.has_more)


@get("/teams/{team:str}", summary="Describe a team, by id or name")
async def get_team(team: FromPath[str], services: InjectedServices) -> TeamObject:
    return _team(await services.teams.get(team))


@patch("/teams/{team:str}", summary="Rename a team; its users and budgets stay with it")
async def rename_team(
    team: FromPath[str], data: JSONBody[TeamName], actor: InjectedActor, services: InjectedServices
) -> TeamObject:
    async with services.audit.entry(actor, "team.update", team, {"name": data.name}) as effect:
        renamed = await services.teams.rename(team, data.name)
        effect.about(renamed.id, renamed.name)
    services.auth.forget()
    return _team(renamed)


@delete("/teams/{team:str}", status_code=200, summary="Delete a team that has no users")
async def delete_team(
    team: FromPath[str], actor: InjectedActor, services: InjectedServices
) -> Deleted:
    async with services.audit.entry(actor, "team.delete", team) as effect:
        gone = await services.teams.delete(team)
        effect.about(gone.id, gone.name)
    return Deleted(id=gone.id, object="team.deleted")


ROUTES = Router(
    "/",
    tags=["Teams"],
    route_handlers=[create_team, list_teams, get_team, rename_team, delete_team],
)


def _team(team: Team) -> TeamObject:
    return TeamObject(**asdict(team))
