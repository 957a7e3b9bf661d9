"""Which version a database has and which one this Chattable needs, read without Alembic: a server start needs no more."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

Progress = Callable[[int, int, str], None]  # scripts applied, in all, the last one

SCRIPTS = Path(__file__).parent / "migrations"
VERSION = Table("alembic_version", MetaData(), Column("version_num", String))


def head() -> str:
    """Returns the version this Chattable needs: the number that the newest script's file begins with."""
    return max(file.name for file in (SCRIPTS / "versions").glob("[0-9]*_*.py")).partition("_")[0]


def version(connection: Connection) -> str | None:
    """Returns the version the database has; None before the first migration."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    return connection.execute(select(VERSION)).scalar()
