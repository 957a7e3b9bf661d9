"""Who may ask, and with which keys."""

import hmac
import json
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from chattable.budget.storage.errors import ConstraintViolated
from chattable.budget.storage.statements import Dialect, Row, Steps, array
from chattable.budget.storage.storage import Storage
from chattable.budget.tables import FLAG, INTEGER, TEXT
from chattable.proxy.people.teams import joined
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.ids import Ids, findable, names_of
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.secret import digest, imported, masked, new_secret
from chattable.proxy.store.text import addressable, short

USER_ID = "user_"
KEY_ID = "key_"
MAX_MODELS = 1000
LAST_SECOND = 253_402_300_799  # of the year 9999

# A user with the name of the team.
USER = "users.id, users.name, teams.name, users.team, users.disabled, users.admin, users.created_at"
FROM_USERS = "users LEFT JOIN teams ON teams.id = users.team"
# Everything of a key but its digest, which leaves this file only as a yes or no.
KEY = (
    "keys.id, keys.user_id, keys.name, keys.prefix, CAST(keys.models AS TEXT), keys.trusted,"
    " keys.expires_at, keys.revoked_at, keys.created_at"
)
NEW_KEY = {
    "id": TEXT,
    "user_id": TEXT,
    "name": TEXT,
    "digest": TEXT,
    "prefix": TEXT,
    "models": "JSON",
    "trusted": FLAG,
    "expires_at": INTEGER,
    "created_at": INTEGER,
}


class UserRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with keys."""

    id: str
    name: str
    team: str | None  # its name
    team_id: str | None
    disabled: bool
    admin: bool
    created_at: int


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
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

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._dialect = storage.dialect
        self._clock = clock
        self._ids = Ids(clock)

    async def create(
        self, name: str, team: str | None = None, *, admin: bool = False
    ) -> UserRecord:
        """Adds a user; an admin's keys may administer."""
        now = self._clock()
        user = self._new(_user_name(name), now, admin=admin)
        return await self._storage.run(lambda: _create(self._dialect, user, team, now))

    async def get(self, id_or_name: str) -> UserRecord:
        """Returns the user, or raises `NotFound`."""
        return await self._storage.read(lambda: user_named(id_or_name))

    async def named(self, id_or_name: str) -> UserRecord:
        """Returns the user, who is made if unknown: one transaction."""
        user = self._new(id_or_name, self._clock())
        return await self._storage.run(lambda: _named_or_made(self._dialect, user))

    async def revision(self) -> int:
        """Returns a number that changes once a user, a key or a team was changed or deleted.

        What is new does not change it. It counts in the database, whoever makes the change.
        """
        return await self._storage.read(_revision)

    async def names(self, ids: Sequence[str]) -> dict[str, str]:
        """What those with these ids are called."""
        return await self._storage.read(lambda: names_of(self._dialect, "users", ids))

    async def list(self, limit: int = 100, after: str | None = None) -> Page[UserRecord]:
        """Returns users, oldest first, from behind the one with the id `after`."""
        most = checked_limit(limit) + 1
        return page_of(await self._storage.read(lambda: _listed(most, after)), limit)

    async def update(
        self,
        id_or_name: str,
        *,
        name: str | UnsetType = UNSET,
        team: str | UnsetType | None = UNSET,
        disabled: bool | UnsetType = UNSET,
        admin: bool | UnsetType = UNSET,
    ) -> UserRecord:
        """Changes what is given and returns the user as it is now."""
        changes: Row = {}
        if name is not UNSET:
            changes["name"] = _user_name(name)
        if disabled is not UNSET:
            changes["disabled"] = disabled
        if admin is not UNSET:
            changes["admin"] = admin
        if not changes and team is UNSET:
            return await self.get(id_or_name)
        now = self._clock()
        try:
            return await self._storage.run(
                lambda: _update(self._dialect, id_or_name, changes, team, now)
            )
        except ConstraintViolated:
            raise _taken(changes["name"]) from None

    async def delete(self, id_or_name: str) -> UserRecord:
        """Removes the user with all keys and returns who it was."""
        return await self._storage.run(lambda: _delete(id_or_name))

    async def count(self) -> int:
        """Returns how many users there are."""
        return await self._storage.read(_count)

    async def create_key(
        self,
        user: str,
        *,
        name: str,
        models: Sequence[str] | None = None,
        expires_at: int | None = None,
        trusted: bool = False,
        secret: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """Adds a key to the user named by id or name, and returns it with its secret.

        The secret is made here, or imported.
        """
        secret = new_secret() if secret is None else imported(secret)
        now = self._now()
        key = KeyRecord(
            id=self._ids.new(KEY_ID),
            user_id="",
            name=short(name, "name"),
            prefix=masked(secret),
            models=_models(models),
            trusted=trusted,
            expires_at=_expiry(expires_at, now),
            revoked_at=None,
            created_at=now,
        )
        try:
            added = await self._storage.run(
                lambda: _create_key(self._dialect, user, key, digest(secret))
            )
        except ConstraintViolated:
            raise Conflict("This key exists already.", "key") from None
        return added, secret

    async def list_keys(self, user: str) -> tuple[KeyRecord, ...]:
        """Returns the user's keys, oldest first, the revoked ones too."""
        return await self._storage.read(lambda: _keys_of(user))

    async def get_key(self, id: str) -> KeyRecord:  # noqa: A002 - the public word for it
        """Returns a key, or raises `NotFound`."""
        return await self._storage.read(lambda: key_named(id))

    # the public word for it
    async def revoke_key(self, id: str, user: str | None = None) -> KeyRecord:  # noqa: A002
        """Ends a key for good, if it is that user's; a repetition changes nothing."""
        now = self._now()
        return await self._storage.run(lambda: _revoke(id, user, now))

    async def find(self, secret: str) -> tuple[KeyRecord, UserRecord] | None:
        """Returns the key with this secret and its user, or None for any string that is none.

        Law: a revoked or expired key and a disabled user are returned as well: what they may do is
        the caller's decision.
        """
        return await self._storage.read(lambda: _find(digest(secret)))

    async def active(self, ids: Collection[str]) -> set[str]:
        """Which of these ids are of users who are not disabled, or of keys that open something."""
        now = self._clock()
        return await self._storage.read(lambda: _active(self._dialect, ids, now))

    def _new(self, name: str, now: float, *, admin: bool = False) -> Row:
        new = {"id": self._ids.new(USER_ID), "name": name, "created_at": int(now)}
        return new | {"disabled": False, "admin": admin}

    def _now(self) -> int:
        return int(self._clock())


def user_named(id_or_name: str, lock: str = "") -> Steps[UserRecord]:
    """The user of that id or name, or `NotFound`."""
    where, given = _named(id_or_name)
    rows = yield f"SELECT {USER} FROM {FROM_USERS} WHERE {where}{lock}", given
    if not rows:
        raise NotFound("user", id_or_name)
    return _user_of(rows[0])


def key_named(id: str) -> Steps[KeyRecord]:  # noqa: A002 - the public word for it
    """The key of that id, or `NotFound`."""
    rows = yield f"SELECT {KEY} FROM keys WHERE id = :id", {"id": findable("key", id)}
    if not rows:
        raise NotFound("key", id)
    return _key_of(rows[0])


def _create(dialect: Dialect, user: Row, team: str | None, now: float) -> Steps[UserRecord]:
    joins = None if team is None else (yield from joined(dialect, team, now))
    added = yield (
        "INSERT INTO users (id, name, team, disabled, admin, created_at)"
        " VALUES (:id, :name, :team, :disabled, :admin, :created_at)"
        " ON CONFLICT (name) DO NOTHING RETURNING 1",
        user | {"team": joins},
    )
    if not added:
        raise _taken(user["name"])
    return (yield from user_named(user["id"]))


def _named_or_made(dialect: Dialect, new: Row) -> Steps[UserRecord]:
    with suppress(NotFound):
        return (yield from user_named(new["name"]))
    _user_name(new["name"])
    with suppress(Conflict):  # somebody else was faster
        return (yield from _create(dialect, new, None, new["created_at"]))
    return (yield from user_named(new["name"]))


def _revision() -> Steps[int]:
    ((revision,),) = yield "SELECT revision FROM people_revision", {}
    return int(revision)


def _listed(most: int, after: str | None) -> Steps[list[UserRecord]]:
    where, given = "", {"most": most}
    if after is not None:
        where = " WHERE (users.created_at, users.id) > (:at, :last)"
        given |= yield from _position(after)
    order = "ORDER BY users.created_at, users.id LIMIT :most"
    rows = yield f"SELECT {USER} FROM {FROM_USERS}{where} {order}", given
    return [_user_of(row) for row in rows]


def _position(after: str) -> Steps[Row]:
    try:
        user = yield from user_named(after)
    except NotFound:
        raise Invalid(f"after names no user: {after!r}; begin again without it.", "after") from None
    return {"at": user.created_at, "last": user.id}


def _update(
    dialect: Dialect, id_or_name: str, changes: Row, team: str | UnsetType | None, now: float
) -> Steps[UserRecord]:
    if team is not UNSET:
        joins = None if team is None else (yield from joined(dialect, team, now))
        changes = changes | {"team": joins}
    where, given = _named(id_or_name)
    settings = ", ".join(f"{name} = :{name}" for name in changes)
    rows = yield f"UPDATE users SET {settings} WHERE {where} RETURNING id", changes | given
    if not rows:
        raise NotFound("user", id_or_name)
    return (yield from user_named(rows[0][0]))


def _delete(id_or_name: str) -> Steps[UserRecord]:
    user = yield from user_named(id_or_name)
    if not (yield "DELETE FROM users WHERE id = :id RETURNING 1", {"id": user.id}):
        raise NotFound("user", id_or_name)
    return user


def _count() -> Steps[int]:
    ((count,),) = yield "SELECT COUNT(*) FROM users", {}
    return int(count)


def _create_key(dialect: Dialect, user: str, key: KeyRecord, hashed: str) -> Steps[KeyRecord]:
    # nobody deletes the owner meanwhile
    owner = yield from user_named(user, dialect.keep("users"))
    added = msgspec.structs.replace(key, user_id=owner.id)
    row = msgspec.structs.asdict(added) | {
        "digest": hashed,
        "models": None if key.models is None else json.dumps(key.models),
    }
    yield dialect.insert("keys", NEW_KEY, [[row[name] for name in NEW_KEY]])
    return added


def _keys_of(user: str) -> Steps[tuple[KeyRecord, ...]]:
    owner = yield from user_named(user)
    rows = yield (
        f"SELECT {KEY} FROM keys WHERE user_id = :user ORDER BY created_at, id",
        {"user": owner.id},
    )
    return tuple(map(_key_of, rows))


# the public word for it
def _revoke(id: str, user: str | None, now: int) -> Steps[KeyRecord]:  # noqa: A002
    where, given = "id = :id", {"id": findable("key", id), "now": now}
    if user is not None:
        where += " AND user_id = :user"
        given["user"] = (yield from user_named(user)).id
    rows = yield (
        f"UPDATE keys SET revoked_at = COALESCE(revoked_at, :now) WHERE {where} RETURNING {KEY}",
        given,
    )
    if not rows:
        raise NotFound("key", id)
    return _key_of(rows[0])


def _find(wanted: str) -> Steps[tuple[KeyRecord, UserRecord] | None]:
    rows = yield (
        f"SELECT keys.digest, {USER}, {KEY} FROM {FROM_USERS} JOIN keys ON keys.user_id = users.id"
        " WHERE keys.digest = :digest",
        {"digest": wanted},
    )
    if not rows or not hmac.compare_digest(rows[0][0], wanted):
        return None
    _, *both = rows[0]
    return _key_of(both[7:]), _user_of(both[:7])


def _active(dialect: Dialect, ids: Collection[str], now: float) -> Steps[set[str]]:
    wanted = dialect.rows("rows", {"id": TEXT})
    rows = yield (
        "SELECT keys.id FROM keys JOIN users ON users.id = keys.user_id"
        f" WHERE keys.id IN {wanted} AND NOT users.disabled AND keys.revoked_at IS NULL"
        " AND (keys.expires_at IS NULL OR keys.expires_at > :now) UNION ALL"
        f" SELECT id FROM users WHERE id IN {wanted} AND NOT disabled",
        {"now": now, **array([[one] for one in ids])},
    )
    return {row[0] for row in rows}


def _named(id_or_name: str) -> tuple[str, Row]:
    column = "id" if id_or_name.startswith(USER_ID) else "name"
    return f"users.{column} = :who", {"who": findable("user", id_or_name)}


def _user_of(row: Sequence[Any]) -> UserRecord:
    user, name, team, team_id, disabled, admin, at = row
    return UserRecord(
        id=user,
        name=name,
        team=team,
        team_id=team_id,
        disabled=bool(disabled),
        admin=bool(admin),
        created_at=at,
    )


def _key_of(row: Sequence[Any]) -> KeyRecord:
    fields = dict(zip(KeyRecord.__struct_fields__, row, strict=True))
    models = fields["models"]
    fields["models"] = None if models is None else tuple(json.loads(models))
    return KeyRecord(**fields | {"trusted": bool(fields["trusted"])})


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a user named {name!r} already.", "name")


def _user_name(name: str) -> str:
    if name.startswith(USER_ID):
        raise Invalid(f"name must not begin with {USER_ID!r}: ids do.", "name")
    return addressable(name, "name")


def _models(models: Sequence[str] | None) -> tuple[str, ...] | None:
    if models is None:
        return None
    if isinstance(models, str) or not 1 <= len(models) <= MAX_MODELS:
        raise Invalid(
            f"models must be null for every model, or a list of 1 to {MAX_MODELS} names.", "models"
        )
    return tuple(short(model, "models") for model in models)


def _expiry(expires_at: int | None, now: int) -> int | None:
    if expires_at is not None and not now < expires_at <= LAST_SECOND:
        wrong = "is in the past" if 0 <= expires_at <= now else "is none"
        rule = "expires_at must be unix seconds between now and the year 9999"
        raise Invalid(f"{rule}; {expires_at} {wrong}.", "expires_at")
    return expires_at
