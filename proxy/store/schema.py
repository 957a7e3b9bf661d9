"""Alembic without its command line: which version a connection's database has, and how it gets to ours.

Alembic keeps the running migration in a module-level proxy, so one process migrates one database at a time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection

from chattable.proxy.store.errors import Invalid

Progress = Callable[[int, int, str], None]  # scripts applied, in all, the last one

SCRIPTS = Path(__file__).parent / "migrations"


def head() -> str:
    """Returns the version this Chattable needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def version(connection: Connection) -> str | None:
    """Returns the version the database has; None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, progress: Progress | None) -> None:
    """Runs the missing scripts in the connection's transaction, which the caller holds alone; says each one applied."""
    config = _config()
    try:
        missing = ScriptDirectory.from_config(config).iterate_revisions(head(), version(connection) or "base")
        config.attributes.update(connection=connection, on_version_apply=_told_to(progress, len(list(missing))))
        command.upgrade(config, "head")
    except (CommandError, RevisionError) as error:
        raise Invalid(
            f"The database is at version {version(connection)!r} and this Chattable knows versions up to {head()!r}: "
            "run the Chattable that made it, or a newer one.",
            "database_url",
        ) from error


def _config() -> Config:
    config = Config()
    # A '%' is an interpolation to the config parser underneath.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _told_to(progress: Progress | None, total: int) -> Callable[..., None]:
    done = 0

    def applied(*, step: Any, **_: Any) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, f"migrating to {step.up_revision_id} {step.up_revision.doc}")

    return applied
