"""Which version a database has and which one is needed, read without Alembic."""

from collections.abc import Callable
from pathlib import Path

from chattable.budget.storage.statements import Dialect, Steps

Progress = Callable[[int, int, str], None]  # scripts applied, in all, the last one

SCRIPTS = Path(__file__).parent / "migrations"


def head() -> str:
    """Returns the version this Chattable needs: the number of the newest script."""
    return max(file.name for file in (SCRIPTS / "versions").glob("[0-9]*_*.py")).partition("_")[0]


def version(dialect: Dialect) -> Steps[str | None]:
    """Returns the version the database has; None before the first migration."""
    there = (
        "to_regclass('alembic_version') IS NOT NULL"
        if dialect.locks
        else "COUNT(*) FROM sqlite_master WHERE name = 'alembic_version'"
    )
    ((known,),) = yield f"SELECT {there}", {}
    rows = (yield "SELECT version_num FROM alembic_version", {}) if known else []
    return str(rows[0][0]) if rows else None
