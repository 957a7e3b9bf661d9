"""Who may ask, and with which keys."""

import hmac
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import ColumnElement, RowMapping, Select, func, or_, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.ids import findable, names, new_id
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.secret import digest, imported, masked, new_secret
from chattable.proxy.store.teams import joined
from chattable.proxy.store.text import addressable, short

USER_ID = "user_"
KEY_ID = "key_"
MAX_MODELS = 1000
MAX_IDS = 1000  # of one query
LAST_SECOND = 253_402_300_799  # of the year 9999

users, keys, teams = tables.users, tables.keys, tables.teams
# Everything of a key but its digest, which leaves this file only as a yes or no.
KEY = [column for column in keys.c if column is not keys.c.digest]


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with keys."""

    id: str
    name: str
    team: str | None  # its name
    team_id: str | None
    disabled: bool
    admin: bool
    created_at: int


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key once its secret has been handed over; `models` None means all."""

    id: str
    user_id: str
    name: str
    prefix: str
    models: tuple[str, ...] | None
    trusted: bool
    expires_at: int | None
    revoked_at: int | None
    created_at: int


class Users:
    """The users and their keys, in SQL.

    Law: a user is named by id or by name; no name looks like an id, so the two never meet. Names
    are compared by code point: nothing is folded or normalised. Of two creations with one name
    exactly one succeeds, the other is a `Conflict`. A team that a user is put into is made if it is
    not there. A deleted user's keys are gone in the same moment. A secret is returned once, by
    `create_key`, and stored as its digest.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, team: str | None = None, *, admin: bool = False) -> User:
        """Adds a user; an admin's keys may administer."""
        fields: dict[str, Any] = {
            "id": new_id(USER_ID, self._clock()),
            "name": _user_name(name),
            "disabled": False,
            "admin": admin,
        }
        try:
            async with self._database.begin() as connection:
                team_id = None if team is None else await joined(connection, team, self._clock())
                await connection.execute(
                    users.insert().values(team=team_id, created_at=self._now(), **fields)
                )
                return await _user(connection, fields["id"])
        except IntegrityError:
            raise _taken(name) from None

    async def get(self, id_or_name: str) -> User:
        """Returns the user, or raises `NotFound`."""
        async with self._database.connect() as connection:
            return await _user(connection, id_or_name)

    async def named(self, id_or_name: str) -> User:
        """Returns the user, who is made if unknown."""
        try:
            return await self.get(id_or_name)
        except NotFound:
            with suppress(Conflict):  # somebody else was faster
                return await self.create(id_or_name)
            return await self.get(id_or_name)

    async def names(self, ids: Sequence[str]) -> dict[str, str]:
        """What those with these ids are called."""
        return await names(self._database, users, ids)

    async def list(self, limit: int = 100, after: str | None = None) -> Page[User]:
        """Returns users, oldest first, from behind the one with the id `after`."""
        query = _users().order_by(users.c.created_at, users.c.id).limit(checked_limit(limit) + 1)
        async with self._database.connect() as connection:
            if after is not None:
                query = query.where(
                    tuple_(users.c.created_at, users.c.id) > await _position(connection, after)
                )
            rows = (await connection.execute(query)).mappings().all()
        return page_of([_user_of(row) for row in rows], limit)

    async def update(
        self,
        id_or_name: str,
        *,
        name: str | UnsetType = UNSET,
        team: str | UnsetType | None = UNSET,
        disabled: bool | UnsetType = UNSET,
        admin: bool | UnsetType = UNSET,
    ) -> User:
        """Changes what is given and returns the user as it is now."""
        changes: dict[str, Any] = {}
        if name is not UNSET:
            changes["name"] = _user_name(name)
        if disabled is not UNSET:
            changes["disabled"] = disabled
        if admin is not UNSET:
            changes["admin"] = admin
        if not changes and team is UNSET:
            return await self.get(id_or_name)
        try:
            async with self._database.begin() as connection:
                if team is not UNSET:
                    changes["team"] = (
                        None if team is None else await joined(connection, team, self._clock())
                    )
                statement = (
                    users.update().where(_named(id_or_name)).values(changes).returning(users.c.id)
                )
                found = (await connection.execute(statement)).scalar_one_or_none()
                if found is None:
                    raise NotFound("user", id_or_name)
                return await _user(connection, found)
        except IntegrityError:
            raise _taken(changes["name"]) from None

    async def delete(self, id_or_name: str) -> User:
        """Removes the user with all keys and returns who it was."""
        async with self._database.begin() as connection:
            user = await _user(connection, id_or_name)
            gone = await connection.execute(users.delete().where(users.c.id == user.id))
        if not gone.rowcount:
            raise NotFound("user", id_or_name)
        return user

    async def count(self) -> int:
        """Returns how many users there are."""
        async with self._database.connect() as connection:
            return (await connection.execute(select(func.count()).select_from(users))).scalar_one()

    async def create_key(
        self,
        user: str,
        *,
        name: str,
        models: Sequence[str] | None = None,
        expires_at: int | None = None,
        trusted: bool = False,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """Adds a key to the user named by id or name, and returns it with its secret: made here, or imported."""
        secret = new_secret() if secret is None else imported(secret)
        fields = {
            "id": new_id(KEY_ID, self._clock()),
            "name": short(name, "name"),
            "digest": digest(secret),
            "prefix": masked(secret),
            "models": _models(models),
            "trusted": trusted,
            "expires_at": _expiry(expires_at, self._now()),
            "created_at": self._now(),
        }
        try:
            async with self._database.begin() as connection:
                owner = await _user(connection, user, lock=True)
                statement = keys.insert().values(user_id=owner.id, **fields).returning(*KEY)
                row = (await connection.execute(statement)).mappings().one()
        except IntegrityError:
            raise Conflict("This key exists already.", "key") from None
        return _key_of(row), secret

    async def list_keys(self, user: str) -> tuple[Key, ...]:
        """Returns the user's keys, oldest first, the revoked ones too."""
        async with self._database.connect() as connection:
            owner = await _user(connection, user)
            query = (
                select(*KEY)
                .where(keys.c.user_id == owner.id)
                .order_by(keys.c.created_at, keys.c.id)
            )
            return tuple(_key_of(row) for row in (await connection.execute(query)).mappings())

    async def get_key(self, id: str) -> Key:  # noqa: A002 - the public word for it
        """Returns a key, or raises `NotFound`."""
        async with self._database.connect() as connection:
            query = select(*KEY).where(keys.c.id == findable("key", id))
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None:
            raise NotFound("key", id)
        return _key_of(row)

    async def revoke_key(self, id: str, user: str | None = None) -> Key:  # noqa: A002 - the public word for it
        """Ends a key for good and returns it, if it is that user's; a repetition changes nothing."""
        statement = (
            keys.update()
            .where(keys.c.id == findable("key", id))
            .values(revoked_at=func.coalesce(keys.c.revoked_at, self._now()))
            .returning(*KEY)
        )
        async with self._database.begin() as connection:
            if user is not None:
                statement = statement.where(keys.c.user_id == (await _user(connection, user)).id)
            row = (await connection.execute(statement)).mappings().one_or_none()
        if row is None:
            raise NotFound("key", id)
        return _key_of(row)

    async def find(self, secret: str) -> tuple[Key, User] | None:
        """Returns the key with this secret and its user, or None for any string that is none.

        Law: a revoked or expired key and a disabled user are returned as well: what they may do is
        the caller's decision.
        """
        wanted = digest(secret)
        query = (
            select(keys, users, teams.c.name)
            .select_from(keys.join(users).outerjoin(teams))
            .where(keys.c.digest == wanted)
        )
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        if row is None or not hmac.compare_digest(row[keys.c.digest], wanted):
            return None
        return _key_of(row), _user_of(row)

    async def active(self, ids: Collection[str]) -> set[str]:
        """Which of these ids are of users who are not disabled, or of keys that open something."""
        found: set[str] = set()
        some = sorted(ids)
        async with self._database.connect() as connection:
            for i in range(0, len(some), MAX_IDS):
                wanted = some[i : i + MAX_IDS]
                lasting = or_(keys.c.expires_at.is_(None), keys.c.expires_at > self._clock())
                good = (
                    select(keys.c.id)
                    .select_from(keys.join(users))
                    .where(keys.c.id.in_(wanted), ~users.c.disabled)
                )
                good = good.where(keys.c.revoked_at.is_(None), lasting)
                enabled = select(users.c.id).where(users.c.id.in_(wanted), ~users.c.disabled)
                found.update((await connection.execute(good.union_all(enabled))).scalars())
        return found

    def _now(self) -> int:
        return int(self._clock())


def _users() -> Select[Any]:
    """Users together with the names of their teams."""
    return select(users, teams.c.name).select_from(users.outerjoin(teams))


async def _user(connection: AsyncConnection, id_or_name: str, *, lock: bool = False) -> User:
    query = _users().where(_named(id_or_name))
    if lock:  # keeps PostgreSQL from deleting the user meanwhile; SQLite has one writer anyway
        query = query.with_for_update(read=True, key_share=True, of=users)
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("user", id_or_name)
    return _user_of(row)


async def _position(connection: AsyncConnection, after: str) -> tuple[int, str]:
    try:
        user = await _user(connection, after)
    except NotFound:
        raise Invalid(f"after names no user: {after!r}; begin again without it.", "after") from None
    return user.created_at, user.id


def _named(id_or_name: str) -> ColumnElement[bool]:
    column = users.c.id if id_or_name.startswith(USER_ID) else users.c.name
    return column == findable("user", id_or_name)


def _user_of(row: RowMapping) -> User:
    fields = {column.name: row[column] for column in users.c}
    return User(**fields | {"team": row[teams.c.name], "team_id": fields["team"]})


def _key_of(row: RowMapping) -> Key:
    fields = {column.name: row[column] for column in KEY}
    models = fields.pop("models")
    return Key(models=models if models is None else tuple(models), **fields)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a user named {name!r} already.", "name")


def _user_name(name: str) -> str:
    if name.startswith(USER_ID):
        raise Invalid(f"name must not begin with {USER_ID!r}: ids do.", "name")
    return addressable(name, "name")


def _models(models: Sequence[str] | None) -> list[str] | None:
    if models is None:
        return None
    if isinstance(models, str) or not 1 <= len(models) <= MAX_MODELS:
        raise Invalid(
            f"models must be null for every model, or a list of 1 to {MAX_MODELS} names.", "models"
        )
    return [short(model, "models") for model in models]


def _expiry(expires_at: int | None, now: int) -> int | None:
    if expires_at is not None and not now < expires_at <= LAST_SECOND:
        wrong = "is in the past" if 0 <= expires_at <= now else "is none"
        rule = "expires_at must be unix seconds between now and the year 9999"
        raise Invalid(f"{rule}; {expires_at} {wrong}.", "expires_at")
    return expires_at
