"""/admin/users and their keys."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import FromPath, FromQuery
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from chattable.agents.chat import Json
from chattable.agents.errors import InvalidRequest
from chattable.proxy.routes.bodies import admin_body, admin_only, page
from chattable.proxy.routes.removal import remove_user
from chattable.proxy.routes.request_context import integer
from chattable.proxy.services import House
from chattable.proxy.store.users import Key, User


class NewUser(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/users."""

    name: str
    team: str | None = None
    admin: bool = False


class UserChange(Struct, forbid_unknown_fields=True):
    """Body of PATCH /admin/users/{id}."""

    name: str | UnsetType = UNSET
    team: str | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    admin: bool | UnsetType = UNSET


class NewKey(Struct, forbid_unknown_fields=True):
    """Body of POST /admin/users/{id}/keys; `key` imports an existing secret."""

    name: str = "default"
    models: list[str] | None = None
    expires_at: int | None = None
    trusted: bool = False
    key: str | None = None


def routes(house: House) -> list[ControllerRouterHandler]:
    """User and key administration, for admins only."""
    users = house.users

    @post("/admin/users", summary="Create a user")
    async def create_user(request: Request[Any, Any, Any]) -> Json:
        actor, new = await admin_body(request, house, NewUser)
        async with house.audit.entry(actor, "user.create", new.name, asdict(new)) as effect:
            user = await users.create(new.name, new.team, admin=new.admin)
            effect.about(user.id, user.name)
        return _user(user)

    @get("/admin/users", summary="List users, oldest first")
    async def list_users(
        request: Request[Any, Any, Any],
        limit: FromQuery[str] = "100",
        after: FromQuery[str | None] = None,
    ) -> Json:
        await admin_only(request, house)
        found = await users.list(integer(limit, "limit"), after)
        return page([_user(user) for user in found.data], more=found.has_more)

    @get("/admin/users/{user:str}", summary="Describe a user, by id or name")
    async def get_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        await admin_only(request, house)
        return _user(await users.get(user))

    @patch("/admin/users/{user:str}", summary="Change a user")
    async def update_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        actor, change = await admin_body(request, house, UserChange)
        given = msgspec.to_builtins(change)
        async with house.audit.entry(actor, "user.update", user, given) as effect:
            changed = await users.update(user, **given)
            effect.about(changed.id, changed.name)
        house.auth.forget()
        return _user(changed)

    @delete("/admin/users/{user:str}", status_code=200, summary="Delete a user with all they have")
    async def delete_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        actor = await admin_only(request, house)
        async with house.audit.entry(actor, "user.delete", user) as effect:
            gone = await remove_user(house, user)
            effect.about(gone.id, gone.name)
        house.auth.forget()
        return {"id": gone.id, "object": "user.deleted", "deleted": True}

    @post(
        "/admin/users/{user:str}/keys",
        summary="Create or import a key; its secret is shown this once",
    )
    async def create_key(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        actor, new = await admin_body(request, house, NewKey)
        if new.key is not None and not new.key.isascii():
            message = "key may hold ASCII characters only: clients do not agree on how to send others in a header."
            raise InvalidRequest(message, param="key", code="invalid_value")
        fields = asdict(new)
        imported = fields.pop("key")  # which no entry may hold
        details = {"user": user, **fields, "imported": imported is not None}
        async with house.audit.entry(actor, "key.create", new.name, details) as effect:
            key, secret = await users.create_key(user, **fields, secret=imported)
            effect.about(key.id, key.name)
        house.auth.forget()
        return _key(key) | {"key": secret}

    @get("/admin/users/{user:str}/keys", summary="List a user's keys, without their secrets")
    async def list_keys(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        await admin_only(request, house)
        return page([_key(key) for key in await users.list_keys(user)], more=False)

    @delete("/admin/users/{user:str}/keys/{key_id:str}", status_code=200, summary="Revoke a key")
    async def revoke_key(
        request: Request[Any, Any, Any], user: FromPath[str], key_id: FromPath[str]
    ) -> Json:
        actor = await admin_only(request, house)
        async with house.audit.entry(actor, "key.revoke", key_id, {"user": user}) as effect:
            revoked = await users.revoke_key(key_id, user)
            effect.about(revoked.id, revoked.name)
        house.auth.forget()
        return _key(revoked)

    return [
        create_user,
        list_users,
        get_user,
        update_user,
        delete_user,
        create_key,
        list_keys,
        revoke_key,
    ]


def _user(user: User) -> Json:
    fields = asdict(user)
    del fields["team_id"]
    return {"id": user.id, "object": "user", **fields}


def _key(key: Key) -> Json:
    return {"id": key.id, "object": "key", **asdict(key)}
