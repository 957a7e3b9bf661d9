"""/admin/teams."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get, patch, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler
from msgspec import Struct
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.proxy.routes.bodies import admin_body, admin_only, page
from chattable.proxy.routes.request_context import integer
from chattable.proxy.services import House
from chattable.proxy.store.teams import Team


class TeamName(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/teams and of PATCH /admin/teams/{id}."""

    name: str


def routes(house: House) -> list[ControllerRouterHandler]:
    """Team administration, for admins only."""
    teams = house.teams

    @post("/admin/teams", summary="Create a team")
    async def create_team(request: Request[Any, Any, Any]) -> Json:
        actor, new = await admin_body(request, house, TeamName)
        async with house.audit.entry(actor, "team.create", new.name) as effect:
            team = await teams.create(new.name)
            effect.about(team.id, team.name)
        return _team(team)

    @get("/admin/teams", summary="List teams, oldest first")
    async def list_teams(
        request: Request[Any, Any, Any],
        limit: FromQuery[str] = "100",
        after: FromQuery[str | None] = None,
    ) -> Json:
        await admin_only(request, house)
        found = await teams.list(integer(limit, "limit"), after)
        return page([_team(team) for team in found.data], more=found.has_more)

    @get("/admin/teams/{team:str}", summary="Describe a team, by id or name")
    async def get_team(request: Request[Any, Any, Any], team: FromPath[str]) -> Json:
        await admin_only(request, house)
        return _team(await teams.get(team))

    @patch("/admin/teams/{team:str}", summary="Rename a team; its users and budgets stay with it")
    async def rename_team(request: Request[Any, Any, Any], team: FromPath[str]) -> Json:
        actor, change = await admin_body(request, house, TeamName)
        async with house.audit.entry(actor, "team.update", team, {"name": change.name}) as effect:
            renamed = await teams.rename(team, change.name)
            effect.about(renamed.id, renamed.name)
        house.auth.forget()
        return _team(renamed)

    @delete("/admin/teams/{team:str}", status_code=200, summary="Delete a team that has no users")
    async def delete_team(request: Request[Any, Any, Any], team: FromPath[str]) -> Json:
        actor = await admin_only(request, house)
        async with house.audit.entry(actor, "team.delete", team) as effect:
            gone = await teams.delete(team)
            effect.about(gone.id, gone.name)
        return {"id": gone.id, "object": "team.deleted", "deleted": True}

    return [create_team, list_teams, get_team, rename_team, delete_team]


def _team(team: Team) -> Json:
    return {"id": team.id, "object": "team", **asdict(team)}
