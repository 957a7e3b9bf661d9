"""Brings a database to our version, with Alembic; imported only to migrate.

Alembic keeps the running migration in a module-level proxy, so one process migrates one database at
a time.
"""

from collections.abc import Callable
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection

from chattable.proxy.store import schema
from chattable.proxy.store.errors import Invalid


def upgrade(connection: Connection, progress: schema.Progress | None) -> None:
    """Runs the missing scripts in the connection's transaction, which the caller holds alone."""
    config = _config()
    version = MigrationContext.configure(connection).get_current_revision()
    try:
        missing = ScriptDirectory.from_config(config).iterate_revisions(
            schema.head(), version or "base"
        )
        config.attributes.update(
            connection=connection, on_version_apply=_told_to(progress, len(list(missing)))
        )
        command.upgrade(config, "head")
    except (CommandError, RevisionError) as error:
        raise Invalid(
            f"The database is at version {version!r} and this Chattable knows versions up to "
            f"{schema.head()!r}: run the Chattable that made it, or a newer one.",
            "database_url",
        ) from error


def _config() -> Config:
    config = Config()
    # A '%' is an interpolation to the config parser underneath.
    config.set_main_option("script_location", str(schema.SCRIPTS).replace("%", "%%"))
    return config


def _told_to(progress: schema.Progress | None, total: int) -> Callable[..., None]:
    done = 0

    def applied(*, step: Any, **_: Any) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, f"migrating to {step.up_revision_id} {step.up_revision.doc}")

    return applied
