"""/admin/sessions: all users' sessions, without what was said in them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, delete, get
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler

from chattable.agents.chat import Json
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.routes.bodies import admin_only, page
from chattable.proxy.routes.conversations import answer, row
from chattable.proxy.routes.request_context import integer
from chattable.proxy.services import House
from chattable.proxy.store import tables
from chattable.proxy.store.ids import names
from chattable.proxy.store.sessions import Session


def routes(house: House) -> list[ControllerRouterHandler]:
    """Session administration, for admins only."""
    store = house.session_store

    async def owner_of(name: str) -> str | None:
        """The id of a user, by id or name; of what admin keys began too, which belongs to no user in the table."""
        if name in ("", ADMIN.user.id):
            return name or None
        return (await house.users.get(name)).id

    async def shown(found: list[Session]) -> list[Json]:
        known = await names(
            house.database, tables.users, sorted({session.user_id for session in found})
        )
        return [_session(session, known.get(session.user_id)) for session in found]

    @get("/admin/sessions", summary="List sessions, the one that something was last said in first")
    async def listed(
        request: Request[Any, Any, Any],
        user: FromQuery[str] = "",
        limit: FromQuery[str] = "100",
        after: FromQuery[str | None] = None,
    ) -> Response[bytes]:
        await admin_only(request, house)
        found = await store.list(await owner_of(user), integer(limit, "limit"), after)
        return answer(page(await shown(list(found.data)), more=found.has_more))

    @get("/admin/sessions/{session_id:str}", summary="Describe a session")
    async def describe(
        request: Request[Any, Any, Any], session_id: FromPath[str]
    ) -> Response[bytes]:
        await admin_only(request, house)
        [session] = await shown([await store.find(session_id)])
        return answer(session)

    @delete(
        "/admin/sessions/{session_id:str}",
        status_code=200,
        summary="Delete a session with everything that was said in it",
    )
    async def remove(request: Request[Any, Any, Any], session_id: FromPath[str]) -> Response[bytes]:
        actor = await admin_only(request, house)
        async with house.audit.entry(actor, "session.delete", session_id) as effect:
            session = await store.find(session_id)
            owner = (await names(house.database, tables.users, [session.user_id])).get(
                session.user_id, session.user_id
            )
            effect.about(session.id, f"session of {owner}")
            await store.delete(session)
        return answer({"id": session.id, "object": "session.deleted", "deleted": True})

    return [listed, describe, remove]


def _session(session: Session, user: str | None) -> Json:
    owner = {"object": "session", "user": user or session.user_id, "user_id": session.user_id}
    return row(session) | owner | {"usage": msgspec.to_builtins(session.usage)}
