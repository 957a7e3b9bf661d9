"""Who asks: a key becomes a `Principal`, a request becomes a `Caller`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

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

T = TypeVar("T")

KEY_CACHE_S = 1.0  # after which a revoked key is refused everywhere
MAX_CACHED_KEYS = 10_000
UNKNOWN = -1  # a revision before any

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
    `KEY_CACHE_S`. Whoever is let in stays known while no user, key or team changes, wherever that
    is done: the database counts such changes, and its count is read when it is older than
    `KEY_CACHE_S`. Ages are measured by `monotonic`, so that a wall clock that is set back prolongs
    nothing; keys expire by the wall clock, `clock`.
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
        # by a key's digest, or by a trusted key's id and an end user's name; with when it expires
        self._known: dict[str, tuple[Principal, int | None]] = {}
        self._refused: dict[str, tuple[UnauthorizedError, float]] = {}  # until when
        self._revision = UNKNOWN  # of users, keys and teams, that `_known` is of
        self._checked = -KEY_CACHE_S  # when it was read
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def principal(self, secret: str) -> Principal:
        """The principal behind a key, or `UnauthorizedError`."""
        if not secret:
            raise UnauthorizedError(MISSING)
        name = digest(secret)
        if name in self._admins:
            return ADMIN
        if self._monotonic() - self._checked >= KEY_CACHE_S:
            await self._once("", self._check)
        if name in self._known:
            principal, expires_at = self._known[name]
            if expires_at is None or self._clock() < expires_at:
                return principal
        refused, until = self._refused.get(name, (None, 0.0))
        if refused is None or until <= self._monotonic():
            look_up = partial(self._look_up, name, secret, self._revision)
            found = await self._once(f"{name} {self._revision}", look_up)
            if isinstance(found, Principal):
                return found
            refused = found
        raise UnauthorizedError(str(refused), refused.code)

    async def acting(self, principal: Principal, name: str) -> Principal:
        """The principal of a trusted key that asks on behalf of an end user.

        The user is made if unknown; what the key allows stays as it is.
        """
        if self._monotonic() - self._checked >= KEY_CACHE_S:
            await self._once("", self._check)
        cached = f"{principal.key_id} {name}"
        if cached in self._known:
            return self._known[cached][0]
        revision = self._revision
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
        self._remember(cached, found, None, revision)
        return found

    def forget(self) -> None:
        """Says that keys or users have changed here."""
        self._checked, self._revision = -KEY_CACHE_S, UNKNOWN
        self._known.clear()
        self._refused.clear()

    async def _once(self, name: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Asks the database, once for all requests that need the same at the same time."""
        task: asyncio.Task[T] | None = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(ask())
            task.add_done_callback(lambda _: self._asking.pop(name))
        return await asyncio.shield(task)

    async def _check(self) -> None:
        """Forgets everybody if a user, a key or a team has changed since the last look."""
        began = self._monotonic()
        revision = await self._users.revision()
        if revision != self._revision:
            self._known.clear()
        self._revision, self._checked = revision, began

    async def _look_up(
        self, name: str, secret: str, revision: int
    ) -> Principal | UnauthorizedError:
        began = self._monotonic()
        found = await self._users.find(secret)
        judged = _judge(secret, found, self._clock())
        if isinstance(judged, UnauthorizedError):
            if len(self._refused) >= MAX_CACHED_KEYS:
                self._refused.clear()
            self._refused[name] = judged, began + KEY_CACHE_S
        elif found:
            self._remember(name, judged, found[0].expires_at, revision)
        return judged

    def _remember(self, name: str, found: Principal, expires_at: int | None, revision: int) -> None:
        """Keeps what was looked up at a revision, unless that has been found to be over since."""
        if revision == self._revision:
            if len(self._known) >= MAX_CACHED_KEYS:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[name] = found, expires_at


def _judge(
    secret: str, found: tuple[KeyRecord, UserRecord] | None, now: float
) -> Principal | UnauthorizedError:
    if found is None:
        return _invalid(f"Incorrect API key provided: {masked(secret)}.")
    key, user = found
    if key.revoked_at is not None:
        return _invalid(f"The API key {masked(secret)} was revoked.")
    if key.expires_at is not None and key.expires_at <= now:
        return _invalid(f"The API key {masked(secret)} has expired.")
    if user.disabled:
        return _invalid(f"The user of the API key {masked(secret)} is disabled.")
    return Principal(
        TurnUser(user.id, user.name),
        key.id,
        user.team_id,
        key.models,
        user.admin,
        key.trusted,
        team_name=user.team or "",
    )


def _invalid(message: str) -> UnauthorizedError:
    return UnauthorizedError(message, "invalid_api_key")


def masked(secret: str) -> str:
    """A key as an error message may show it."""
    return (
        f"{secret[:3]}****{secret[-4:]}" if len(secret) >= 16 and secret.isprintable() else "****"
    )


def matches(pattern: str, name: str) -> bool:
    """Whether a name is the pattern's, which may end in `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
