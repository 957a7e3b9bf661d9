"""/admin/users and their keys."""

from __future__ import annotations

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from chattable.agents.errors import InvalidRequest
from chattable.proxy.people.users import KeyRecord, UserRecord
from chattable.proxy.routes.admin.user_removal import remove_user
from chattable.proxy.routes.typed import (
    PAGE,
    Deleted,
    InjectedActor,
    InjectedServices,
    Limit,
    ListPage,
    page,
)


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


class UserObject(Struct, kw_only=True):
    """A user as the API shows one; `team` is its name."""

    id: str
    object: str = "user"
    name: str
    team: str | None
    disabled: bool
    admin: bool
    created_at: int


class UserPage(ListPage[UserObject], kw_only=True):
    """A page of users."""


class KeyObject(Struct, kw_only=True):
    """A key without its secret; `models` null means all."""

    id: str
    object: str = "key"
    user_id: str
    name: str
    prefix: str
    models: tuple[str, ...] | None
    trusted: bool
    expires_at: int | None
    revoked_at: int | None
    created_at: int


class KeyPage(ListPage[KeyObject], kw_only=True):
    """A page of keys."""


class CreatedKey(KeyObject, kw_only=True):
    """A key that was just made, with its secret."""

    key: str


@post("/users", summary="Create a user")
async def create_user(
    data: JSONBody[NewUser], actor: InjectedActor, services: InjectedServices
) -> UserObject:
    async with services.audit.entry(actor, "user.create", data.name, asdict(data)) as effect:
        user = await services.users.create(data.name, data.team, admin=data.admin)
        effect.about(user.id, user.name)
    return _user(user)


@get("/users", summary="List users, oldest first")
async def list_users(
    services: InjectedServices,
    limit: Limit = PAGE,
    after: FromQuery[str | None] = None,
) -> UserPage:
    found = await services.users.list(limit, after)
    return page(UserPage, [_user(user) for user in found.data], more=found.has_more)


@get("/users/{user:str}", summary="Describe a user, by id or name")
async def get_user(user: FromPath[str], services: InjectedServices) -> UserObject:
    return _user(await services.users.get(user))


@patch("/users/{user:str}", summary="Change a user")
async def update_user(
    user: FromPath[str],
    data: JSONBody[UserChange],
    actor: InjectedActor,
    services: InjectedServices,
) -> UserObject:
    given = msgspec.to_builtins(data)
    async with services.audit.entry(actor, "user.update", user, given) as effect:
        changed = await services.users.update(user, **given)
        effect.about(changed.id, changed.name)
    services.auth.forget()
    return _user(changed)


@delete("/users/{user:str}", status_code=200, summary="Delete a user with all they have")
async def delete_user(
    user: FromPath[str], actor: InjectedActor, services: InjectedServices
) -> Deleted:
    async with services.audit.entry(actor, "user.delete", user) as effect:
        gone = await remove_user(services, user)
        effect.about(gone.id, gone.name)
    services.auth.forget()
    return Deleted(id=gone.id, object="user.deleted")


@post("/users/{user:str}/keys", summary="Create or import a key; its secret is shown this once")
async def create_key(
    user: FromPath[str], data: JSONBody[NewKey], actor: InjectedActor, services: InjectedServices
) -> CreatedKey:
    if data.key is not None and not data.key.isascii():
        message = (
            "key may hold ASCII characters only: clients do not agree on how to send others in a"
            " header."
        )
        raise InvalidRequest(message, param="key", code="invalid_value")
    fields = asdict(data)
    imported = fields.pop("key")  # which no entry may hold
    details = {"user": user, **fields, "imported": imported is not None}
    async with services.audit.entry(actor, "key.create", data.name, details) as effect:
        key, secret = await services.users.create_key(user, **fields, secret=imported)
        effect.about(key.id, key.name)
    services.auth.forget()
    return CreatedKey(**asdict(key), key=secret)


@get("/users/{user:str}/keys", summary="List a user's keys, without their secrets")
async def list_keys(user: FromPath[str], services: InjectedServices) -> KeyPage:
    return page(KeyPage, [_key(key) for key in await services.users.list_keys(user)])


@delete("/users/{user:str}/keys/{key_id:str}", status_code=200, summary="Revoke a key")
async def revoke_key(
    user: FromPath[str], key_id: FromPath[str], actor: InjectedActor, services: InjectedServices
) -> KeyObject:
    async with services.audit.entry(actor, "key.revoke", key_id, {"user": user}) as effect:
        revoked = await services.users.revoke_key(key_id, user)
        effect.about(revoked.id, revoked.name)
    services.auth.forget()
    return _key(revoked)


ROUTES = Router(
    "/",
    tags=["Users and keys"],
    route_handlers=[
        create_user,
        list_users,
        get_user,
        update_user,
        delete_user,
        create_key,
        list_keys,
        revoke_key,
    ],
)


def _user(user: UserRecord) -> UserObject:
    return msgspec.convert(user, UserObject, from_attributes=True)


def _key(key: KeyRecord) -> KeyObject:
    return KeyObject(**asdict(key))
