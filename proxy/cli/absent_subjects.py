"""What only the database can tell of a config: names that may be typing errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.config.document import dotted
from chattable.proxy.config.hints import hint
from chattable.proxy.config.settings import Config
from chattable.proxy.people.teams import Team, Teams
from chattable.proxy.people.users import UserRecord, Users
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import NotFound
from chattable.proxy.store.page import MAX_LIMIT, Page


async def absent_subjects(config: Config) -> list[str]:
    """One line for every user, team and key of `rate_limits` that the database does not have."""
    limits, database = config.rate_limits, Database(config.database_url)
    if not (limits.users or limits.teams or limits.keys) or _to_be_made(database):
        return []
    users, teams = Users(database.storage), Teams(database.storage)
    try:
        await database.start()
        keys = [key for key in limits.keys if await _has_key(users, key)]
        return [
            *_absent("users", limits.users, await _names(users.list)),
            *_absent("teams", limits.teams, await _names(teams.list)),
            *_absent("keys", limits.keys, keys),
        ]
    except StorageUnavailable as error:
        return [f"rate_limits: whether these users exist is not known: {error}"]
    finally:
        await database.stop()


def _to_be_made(database: Database) -> bool:
    """Whether nobody can be there yet; `check` makes no file."""
    return database.is_file and not Path(database.file).exists()


def _absent(kind: str, named: Iterable[str], there: list[str]) -> list[str]:
    what = kind.removesuffix("s")
    return [
        f"{dotted(('rate_limits', kind, name))}: there is no such {what} yet{hint(name, there)}"
        for name in named
        if name not in there
    ]


async def _names(
    listed: Callable[[int, str | None], Awaitable[Page[UserRecord] | Page[Team]]],
) -> list[str]:
    names: list[str] = []
    after = None
    while True:
        page = await listed(MAX_LIMIT, after)
        names += [one.name for one in page.data]
        if not page.has_more:
            return names
        after = page.data[-1].id


async def _has_key(users: Users, key: str) -> bool:
    with suppress(NotFound):
        return bool(await users.get_key(key))
    return False
