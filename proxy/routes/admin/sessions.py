"""/admin/sessions: all users' sessions, without what was said in them."""

from __future__ import annotations

from litestar import Router, delete, get
from litestar.params import FromPath, FromQuery
from msgspec.structs import asdict

from chattable.agents.chat import Usage
from chattable.proxy.identity.auth import ADMIN
from chattable.proxy.routes.typed import (
    PAGE,
    Deleted,
    InjectedActor,
    InjectedServices,
    Limit,
    ListPage,
    page,
)
from chattable.proxy.routes.user.conversations import ConversationRow, row
from chattable.proxy.services import Services
from chattable.proxy.store.sessions.port import SessionRecord


class SessionObject(ConversationRow, kw_only=True):
    """A session as admins see it; `user` is a name, or the id of one who is gone."""

    object: str = "session"
    user: str
    user_id: str
    usage: Usage


class SessionPage(ListPage[SessionObject], kw_only=True):
    """A page of sessions."""


@get("/sessions", summary="List sessions, the one that something was last said in first")
async def list_sessions(
    services: InjectedServices,
    user: FromQuery[str] = "",
    limit: Limit = PAGE,
    after: FromQuery[str | None] = None,
) -> SessionPage:
    found = await services.session_store.list(await _owner_of(services, user), limit, after)
    return page(SessionPage, await _shown(services, list(found.data)), more=found.has_more)


@get("/sessions/{session_id:str}", summary="Describe a session")
async def get_session(session_id: FromPath[str], services: InjectedServices) -> SessionObject:
    [session] = await _shown(services, [await services.session_store.find(session_id)])
    return session


@delete(
    "/sessions/{session_id:str}",
    status_code=200,
    summary="Delete a session with everything that was said in it",
)
async def delete_session(
    session_id: FromPath[str], actor: InjectedActor, services: InjectedServices
) -> Deleted:
    async with services.audit.entry(actor, "session.delete", session_id) as effect:
        session = await services.session_store.find(session_id)
        [shown] = await _shown(services, [session])
        effect.about(session.id, f"session of {shown.user}")
        await services.session_store.delete(session)
    return Deleted(id=session.id, object="session.deleted")


ROUTES = Router("/", tags=["Sessions"], route_handlers=[list_sessions, get_session, delete_session])


async def _owner_of(services: Services, name: str) -> str | None:
    """The id of a user, by id or name; of what admin keys began too, which no user has."""
    if name in ("", ADMIN.user.id):
        return name or None
    return (await services.users.get(name)).id


async def _shown(services: Services, found: list[SessionRecord]) -> list[SessionObject]:
    ids = sorted({session.user_id for session in found})
    known = await services.users.names(ids)
    return [
        SessionObject(
            **asdict(row(session)) | {"object": "session"},
            user=known.get(session.user_id) or session.user_id,
            user_id=session.user_id,
            usage=session.usage,
        )
        for session in found
    ]
