"""Who asks: a key becomes a `Principal`, a request becomes a `Caller`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from chattable.agents.chattable import TurnSession, TurnUser
from chattable.proxy.errors import ForbiddenError, UnauthorizedError
from chattable.proxy.people.users import KeyRecord, UserRecord, Users
from chattable.proxy.store.secret import digest

if TYPE_CHECKING:
    from chattable.agents.chattable import Context
    from chattable.proxy.cache.controls import Controls
    from chattable.proxy.sessions.resolver import SessionRef

KEY_CACHE_S = 1.0  # after which a revoked key is refused everywhere
MAX_CACHED_KEYS = 10_000

MISSING = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)


class Principal(Struct, frozen=True):
    """A user together with what the key at hand allows."""

    user: TurnUser
    key_id: str = ""
    team: str | None = None  # its id: what is counted against a team goes on when it is renamed
    models: tuple[str, ...] | None = None  # names or prefixes ending in `*`; None: all
    admin: bool = False
    trusted: bool = False  # may ask on behalf of other users
    acting: bool = False  # asks on behalf of another user now
    team_name: str = ""

    def may_use(self, model: str) -> bool:
        """Whether the key's list has the model."""
        return self.models is None or any(matches(pattern, model) for pattern in self.models)


class Caller(Struct, frozen=True):
    """Who asks, and under which terms: the frozen facts of one request."""

    principal: Principal
    request_id: str
    began: float  # time.monotonic
    max_calls: int | None = None
    parent: Context | None = None  # the turn whose borrowed key this request carries
    idempotency_key: str = ""
    cache: Controls | None = None  # what the request says about the response cache
    session_ref: SessionRef | None = None  # the session it names by a header
    session: TurnSession | None = None  # the one it belongs to
    tag: str = ""  # what it is for, where it is not the user's own question


ADMIN = Principal(TurnUser("admin", "admin"), admin=True)


class Auth:
    """Knows keys.

    Law: a key that is unknown, revoked, expired or of a disabled user opens nothing, within
    `KEY_CACHE_S`. What was looked up is kept by the clock `monotonic`, so that a wall clock that is
    set back does not prolong it; keys expire by the wall clock, `clock`.
    """

    def __init__(
        self,
        users: Users,
        admin_keys: Iterable[str],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = users
        self._admins = {digest(key) for key in admin_keys}
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, tuple[float, Principal | UnauthorizedError]] = {}
        self._asking: dict[str, asyncio.Task[tuple[KeyRecord, UserRecord] | None]] = {}

    async def principal(self, secret: str) -> Principal:
        """The principal behind a key, or `UnauthorizedError`."""
        if not secret:
            raise UnauthorizedError(MISSING)
        name = digest(secret)
        if name in self._admins:
            return ADMIN
        now = self._monotonic()
        until, found = self._cache.get(name, (0.0, None))
        if found is None or until <= now:
            found = self._judge(secret, await self._found(name, secret), self._clock())
            self._remember(name, now, found)
        if isinstance(found, Principal):
            return found
        raise UnauthorizedError(str(found), found.code)

    async def _found(self, name: str, secret: str) -> tuple[KeyRecord, UserRecord] | None:
        """Looks a key up, once for all requests that need it at the same time."""
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._users.find(secret))
            task.add_done_callback(lambda _: self._asking.pop(name))
        return await asyncio.shield(task)

    async def acting(self, principal: Principal, name: str) -> Principal:
        """The principal of a trusted key that asks on behalf of an end user.

        The user is made if unknown; what the key allows stays as it is.
        """
        now, cached = self._monotonic(), f"{principal.key_id} {name}"
        until, found = self._cache.get(cached, (0.0, None))
        if not isinstance(found, Principal) or until <= now:
            user = await self._users.named(name)
            if user.disabled:
                raise ForbiddenError(f"The user {user.name} is disabled.")
            found = replace(
                principal,
                user=TurnUser(user.id, user.name),
                team=user.team_id,
                team_name=user.team or "",
                acting=True,
            )
            self._remember(cached, now, found)
        return found

    def _remember(self, name: str, now: float, found: Principal | UnauthorizedError) -> None:
        if len(self._cache) >= MAX_CACHED_KEYS:
            self._cache.clear()
        self._cache[name] = (now + KEY_CACHE_S, found)

    def forget(self) -> None:
        """Drops what was looked up: keys or users have changed here."""
        self._cache.clear()

    def _judge(
        self, secret: str, found: tuple[KeyRecord, UserRecord] | None, now: float
    ) -> Principal | UnauthorizedError:
        if found is None:
            return UnauthorizedError(
                f"Incorrect API key provided: {masked(secret)}.", "invalid_api_key"
            )
        key, user = found
        if key.revoked_at is not None:
            return UnauthorizedError(
                f"The API key {masked(secret)} was revoked.", "invalid_api_key"
            )
        if key.expires_at is not None and key.expires_at <= now:
            return UnauthorizedError(
                f"The API key {masked(secret)} has expired.", "invalid_api_key"
            )
        if user.disabled:
            return UnauthorizedError(
                f"The user of the API key {masked(secret)} is disabled.", "invalid_api_key"
            )
        models = None if key.models is None else tuple(key.models)
        return Principal(
            TurnUser(user.id, user.name),
            key.id,
            user.team_id,
            models,
            user.admin,
            key.trusted,
            team_name=user.team or "",
        )


def masked(secret: str) -> str:
    """A key as an error message may show it."""
    return (
        f"{secret[:3]}****{secret[-4:]}" if len(secret) >= 16 and secret.isprintable() else "****"
    )


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern's, which may end in `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
