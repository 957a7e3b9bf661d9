"""Teams: who shares budgets with whom."""

import re
import time
from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import ColumnElement, RowMapping, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.ids import findable, names, new_id
from chattable.proxy.store.page import Page, checked_limit, page_of
from chattable.proxy.store.text import addressable

TEAM_ID = "team_"
FORM_OF_ID = re.compile(r"team_[0-9a-f]{12}[A-Za-z0-9_-]{20}")
NAMED = 3  # members that a refusal names; it counts the others

teams, users = tables.teams, tables.users
INSERT = text(
    "INSERT INTO teams (id, name, created_at) VALUES (:id, :name, :created_at) ON CONFLICT (name) DO NOTHING"
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

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str) -> Team:
        """Adds a team."""
        now = self._clock()
        team = Team(id=new_id(TEAM_ID, now), name=_team_name(name, "name"), created_at=int(now))
        try:
            async with self._database.begin() as connection:
                await connection.execute(teams.insert().values(msgspec.structs.asdict(team)))
        except IntegrityError:
            raise _taken(name) from None
        return team

    async def get(self, id_or_name: str) -> Team:
        """Returns the team, or raises `NotFound`."""
        async with self._database.connect() as connection:
            return await _team(connection, id_or_name)

    async def names(self, ids: Sequence[str]) -> dict[str, str]:
        """What those with these ids are called."""
        return await names(self._database, teams, ids)

    async def list(self, limit: int = 100, after: str | None = None) -> Page[Team]:
        """Returns teams, oldest first, from behind the one with the id `after`."""
        # ids sort by the moment they were made
        query = select(teams).order_by(teams.c.id).limit(checked_limit(limit) + 1)
        if after is not None:
            if not FORM_OF_ID.fullmatch(after):
                raise Invalid(
                    f"after must be the id of a team, not {after!r}; begin again without it.",
                    "after",
                )
            query = query.where(teams.c.id > after)
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return page_of([_team_of(row) for row in rows], limit)

    async def rename(self, id_or_name: str, name: str) -> Team:
        """Gives the team another name and returns it as it is now."""
        statement = (
            teams.update()
            .where(_named(id_or_name))
            .values(name=_team_name(name, "name"))
            .returning(teams)
        )
        try:
            async with self._database.begin() as connection:
                row = (await connection.execute(statement)).mappings().one_or_none()
        except IntegrityError:
            raise _taken(name) from None
        if row is None:
            raise NotFound("team", id_or_name)
        return _team_of(row)

    async def delete(self, id_or_name: str) -> Team:
        """Removes a team that nobody is in, and returns which it was."""
        async with self._database.begin() as connection:
            team = await _team(connection, id_or_name, lock=True)
            members = select(users.c.name).where(users.c.team == team.id)
            if count := (
                await connection.execute(select(func.count()).select_from(members.subquery()))
            ).scalar_one():
                names = (
                    (
                        await connection.execute(
                            members.order_by(users.c.created_at, users.c.id).limit(NAMED)
                        )
                    )
                    .scalars()
                    .all()
                )
                raise _in_use(team, count, list(names))
            await connection.execute(teams.delete().where(teams.c.id == team.id))
        return team


async def joined(connection: AsyncConnection, team: str, now: float) -> str:
    """The id of the team that a user in this transaction joins, which is made if no team has that name.

    The row stays locked until the transaction ends: it cannot be deleted meanwhile.
    """
    name = _team_name(team, "team") if not FORM_OF_ID.fullmatch(team) else None
    query = select(teams.c.id).where(_named(team)).with_for_update(read=True, key_share=True)
    # again where others made or deleted it
    while (found := (await connection.execute(query)).scalar_one_or_none()) is None:
        if name is None:
            raise Invalid(f"team names no team by its id: {team!r}.", "team")
        await connection.execute(
            INSERT, {"id": new_id(TEAM_ID, now), "name": name, "created_at": int(now)}
        )
    return str(found)


async def _team(connection: AsyncConnection, id_or_name: str, *, lock: bool = False) -> Team:
    query = select(teams).where(_named(id_or_name))
    if lock:
        query = query.with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        raise NotFound("team", id_or_name)
    return _team_of(row)


def _named(id_or_name: str) -> ColumnElement[bool]:
    column = teams.c.id if FORM_OF_ID.fullmatch(id_or_name) else teams.c.name
    return column == findable("team", id_or_name)


def _team_of(row: RowMapping) -> Team:
    return Team(**{column.name: row[column] for column in teams.c})


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
        f"The team {team.name!r} has {has}: {', '.join(names)}{others}. Move them to another team first.",
        "team",
    )
