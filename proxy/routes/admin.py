"""/admin/users and their keys."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request, delete, get, patch, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler
from msgspec import UNSET, Meta, Struct, UnsetType

from chattable.agents.chat import Json
from chattable.agents.parsing import explain
from chattable.proxy.house import House
from chattable.proxy.requests import bearer, integer, read_json
from chattable.proxy.store.users import Key, User

Id = Annotated[str, Meta(min_length=1)]


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


B = TypeVar("B")


def routes(house: House) -> list[ControllerRouterHandler]:
    """User and key administration, for admins only."""
    users = house.users

    async def body_of(request: Request[Any, Any, Any], kind: type[B]) -> B:
        await house.auth.admin(bearer(request))
        body = await read_json(request, house.max_body)
        try:
            return msgspec.convert(body, kind)
        except msgspec.ValidationError as error:
            raise explain(error) from None

    @post("/admin/users", summary="Create a user")
    async def create_user(request: Request[Any, Any, Any]) -> Json:
        new = await body_of(request, NewUser)
        return _user(await users.create(new.name, new.team, admin=new.admin))

    @get("/admin/users", summary="List users, oldest first")
    async def list_users(request: Request[Any, Any, Any]) -> Json:
        await house.auth.admin(bearer(request))
        page = await users.list(integer(request, "limit", 100), request.query_params.get("after"))
        return _page([_user(user) for user in page.data], page.has_more)

    @get("/admin/users/{user:str}", summary="Describe a user, by id or name")
    async def get_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        await house.auth.admin(bearer(request))
        return _user(await users.get(user))

    @patch("/admin/users/{user:str}", summary="Change a user")
    async def update_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        change = await body_of(request, UserChange)
        changed = await users.update(user, name=change.name, team=change.team, disabled=change.disabled, admin=change.admin)
        house.auth.forget()
        return _user(changed)

    @delete("/admin/users/{user:str}", status_code=200, summary="Delete a user and its keys")
    async def delete_user(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        await house.auth.admin(bearer(request))
        gone = await users.delete(user)
        house.auth.forget()
        return {"id": gone.id, "object": "user.deleted", "deleted": True}

    @post("/admin/users/{user:str}/keys", summary="Create or import a key; its secret is shown this once")
    async def create_key(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        new = await body_of(request, NewKey)
        key, secret = await users.create_key(
            user, name=new.name, models=new.models, expires_at=new.expires_at, trusted=new.trusted, secret=new.key
        )
        house.auth.forget()
        return _key(key) | {"key": secret}

    @get("/admin/users/{user:str}/keys", summary="List a user's keys, without their secrets")
    async def list_keys(request: Request[Any, Any, Any], user: FromPath[str]) -> Json:
        await house.auth.admin(bearer(request))
        return _page([_key(key) for key in await users.list_keys(user)], more=False)

    @delete("/admin/users/{user:str}/keys/{key_id:str}", status_code=200, summary="Revoke a key")
    async def revoke_key(request: Request[Any, Any, Any], user: FromPath[str], key_id: FromPath[str]) -> Json:
        await house.auth.admin(bearer(request))
        revoked = await users.revoke_key(key_id, user)
        house.auth.forget()
        return _key(revoked)

    return [create_user, list_users, get_user, update_user, delete_user, create_key, list_keys, revoke_key]


def _user(user: User) -> Json:
    return {"id": user.id, "object": "user", **msgspec.structs.asdict(user)}


def _key(key: Key) -> Json:
    return {"id": key.id, "object": "key", **msgspec.structs.asdict(key)}


def _page(data: list[Json], more: bool) -> Json:
    ids = [row["id"] for row in data]
    return {
        "object": "list",
        "data": data,
        "has_more": more,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }
