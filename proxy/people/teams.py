"""Teams: who shares budgets with whom."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from chattable.budget.storage.errors import ConstraintViolated
from chattable.budget.storage.statements import Dialect, Row, Steps
from chattable.budget.storage.storage import Storage
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.ids import Ids, findable, names_of, new_id
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.text import addressable

TEAM_ID = "team_"
FORM_OF_ID = re.compile(r"team_[0-9a-f]{12}[A-Za-z0-9_-]{20}")
NAMED = 3  # members that a refusal names; it counts the others

ALL = "teams.id, teams.name, teams.created_at"
INSERT = (
    "INSERT INTO teams (id, name, created_at) VALUES (:id, :name, :created_at)"
    " ON CONFLICT (name) DO NOTHING RETURNING 1"
)


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """Users who share budgets."""

    id: str
    name: str
    created_at: int


class TeamInUse(Conflict):
    """A team that has users cannot go."""

    code = "in_use"


class Teams:
    """The teams, in SQL.

    Law: a team is named by id or by name, and no name has the form of an id. Of two creations with
    one name exactly one succeeds, the other is a `Conflict`. A team keeps its id when it is
    renamed, so that whatever counts for it goes on. A team with users is not deleted, and nobody
    joins one that is being deleted.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._ids = Ids(clock)

    async def create(self, name: str) -> Team:
        """Adds a team."""
        team = Team(
            id=self._ids.new(TEAM_ID),
            name=_team_name(name, "name"),
            created_at=int(self._clock()),
        )
        await self._storage.run(lambda: _create(team))
        return team

    async def get(self, id_or_name: str) -> Team:
        """Returns the team, or raises `NotFound`."""
        return await self._storage.read(lambda: team_named(id_or_name))

    async def names(self, ids: Sequence[str]) -> dict[str, str]:
        """What those with these ids are called."""
        return await self._storage.read(lambda: names_of(self._storage.dialect, "teams", ids))

    async def list(self, limit: int = 100, after: str | None = None) -> Page[Team]:
        """Returns teams, oldest first, from behind the one with the id `after`."""
        if after is not None and not FORM_OF_ID.fullmatch(after):
            raise Invalid(
                f"after must be the id of a team, not {after!r}; begin again without it.", "after"
            )
        most = checked_limit(limit) + 1
        return page_of(await self._storage.read(lambda: _listed(most, after or "")), limit)

    async def rename(self, id_or_name: str, name: str) -> Team:
        """Gives the team another name and returns it as it is now."""
        new = _team_name(name, "name")
        try:
            return await self._storage.run(lambda: _rename(id_or_name, new))
        except ConstraintViolated:
            raise _taken(name) from None

    async def delete(self, id_or_name: str) -> Team:
        """Removes a team that nobody is in, and returns which it was."""
        return await self._storage.run(lambda: _delete(self._storage.dialect, id_or_name))


def team_named(id_or_name: str, lock: str = "") -> Steps[Team]:
    """The team of that id or name, or `NotFound`."""
    where, given = _named(id_or_name)
    rows = yield f"SELECT {ALL} FROM teams WHERE {where}{lock}", given
    if not rows:
        raise NotFound("team", id_or_name)
    return _team_of(rows[0])


def joined(dialect: Dialect, team: str, now: float) -> Steps[str]:
    """The id of the team that a user joins, which is made if no team has that name.

    The row stays locked until the transaction ends: it cannot be deleted meanwhile.
    """
    name = _team_name(team, "team") if not FORM_OF_ID.fullmatch(team) else None
    where, given = _named(team)
    query = f"SELECT id FROM teams WHERE {where}{dialect.keep('teams')}"
    while not (rows := (yield query, given)):  # again where others made or deleted it
        if name is None:
            raise Invalid(f"team names no team by its id: {team!r}.", "team")
        yield INSERT, {"id": new_id(TEAM_ID, now), "name": name, "created_at": int(now)}
    return str(rows[0][0])


def _create(team: Team) -> Steps[None]:
    if not (yield INSERT, msgspec.structs.asdict(team)):
        raise _taken(team.name)


def _listed(most: int, after: str) -> Steps[list[Team]]:
    rows = yield (  # ids sort by the moment they were made
        f"SELECT {ALL} FROM teams WHERE id > :after ORDER BY id LIMIT :most",
        {"after": after, "most": most},
    )
    return [_team_of(row) for row in rows]


def _rename(id_or_name: str, name: str) -> Steps[Team]:
    where, given = _named(id_or_name)
    rows = yield (
        f"UPDATE teams SET name = :new WHERE {where} RETURNING {ALL}",
        given | {"new": name},
    )
    if not rows:
        raise NotFound("team", id_or_name)
    return _team_of(rows[0])


def _delete(dialect: Dialect, id_or_name: str) -> Steps[Team]:
    team = yield from team_named(id_or_name, dialect.lock("teams"))
    given: Row = {"team": team.id}
    ((count,),) = yield "SELECT COUNT(*) FROM users WHERE team = :team", given
    if count:
        members = yield (
            "SELECT name FROM users WHERE team = :team ORDER BY created_at, id LIMIT :some",
            given | {"some": NAMED},
        )
        raise _in_use(team, count, [name for (name,) in members])
    yield "DELETE FROM teams WHERE id = :team", given
    return team


def _named(id_or_name: str) -> tuple[str, Row]:
    column = "id" if FORM_OF_ID.fullmatch(id_or_name) else "name"
    return f"teams.{column} = :team", {"team": findable("team", id_or_name)}


def _team_of(row: Sequence[Any]) -> Team:
    return Team(**dict(zip(Team.__struct_fields__, row, strict=True)))


def _team_name(name: str, field: str) -> str:
    if FORM_OF_ID.fullmatch(name):
        raise Invalid(f"{field} must not have the form of a team's id: {name!r}.", field)
    return addressable(name, field)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a team named {name!r} already.", "name")


def _in_use(team: Team, count: int, names: list[str]) -> TeamInUse:
    others = f" and {count - len(names)} more" if count > len(names) else ""
    has = "1 user" if count == 1 else f"{count} users"
    return TeamInUse(
        f"The team {team.name!r} has {has}: {', '.join(names)}{others}."
        " Move them to another team first.",
        "team",
    )
