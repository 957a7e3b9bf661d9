"""Ids: a prefix that says of what, the moment it was made, and enough chance that nobody guesses it."""

import secrets
from collections.abc import Sequence

from sqlalchemy import Table, select

from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Invalid, NotFound
from chattable.proxy.store.text import printable

SOME = 500  # ids in one query


def new_id(prefix: str, now: float) -> str:
    """Makes an id that nobody guesses and that sorts by the moment it was made: lists are in order within a second too."""
    return f"{prefix}{int(now * 1000):012x}{secrets.token_urlsafe(15)}"


def findable(what: str, id_or_name: str) -> str:
    """Keeps from the driver what cannot be in a table, and therefore not be found there."""
    try:
        return printable(id_or_name, what)
    except Invalid:
        raise NotFound(what, id_or_name) from None


async def names(database: Database, table: Table, ids: Sequence[str]) -> dict[str, str]:
    """What the rows with these ids are called; those that are gone have no name."""
    found: dict[str, str] = {}
    async with database.connect() as connection:
        for start in range(0, len(ids), SOME):
            query = select(table.c.id, table.c.name).where(
                table.c.id.in_(ids[start : start + SOME])
            )
            found |= {row.id: row.name for row in await connection.execute(query)}
    return found
