"""PostgreSQL: bounded waits everywhere, so that one locked row or a full server is a quick 503 and not a queue."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

CONNECT = 2.0  # seconds for a new connection
QUEUE = 0.25  # seconds a request waits for a free one
SILENCE = 12.0  # seconds after which a server that should have timed out itself counts as lost

# What a request's session may not exceed, in milliseconds; the same name in the URL's query wins.
SESSION = {
    "application_name": "chattable",
    "lock_timeout": "1000",
    "statement_timeout": "10000",
    "idle_in_transaction_session_timeout": "30000",
    "jit": "off",  # our statements are small: compiling them costs more than running them
}
MIGRATION = {"application_name": "chattable migrate"}
MIGRATION_LOCK = 0x63686174  # "chat": advisory locks are named by numbers


def engine(url: URL, pool_size: int) -> AsyncEngine:
    """Makes an engine for requests."""
    pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": QUEUE, "pool_use_lifo": True}
    return _engine(url, SESSION, SILENCE, **pool)


def migration_engine(url: URL) -> AsyncEngine:
    """Makes an engine for a migration, which takes the time it needs."""
    return _engine(url, MIGRATION, None, poolclass=NullPool)


async def lock_migrations(connection: AsyncConnection) -> None:
    """Waits until no other process migrates, then holds the others off until the transaction ends."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": MIGRATION_LOCK})
    # A table that stays locked stops the migration, not the traffic that would queue behind it.
    await connection.execute(text("SET LOCAL lock_timeout = '10s'"))


def _engine(
    url: URL, session: Mapping[str, str], silence: float | None, **options: Any
) -> AsyncEngine:
    # The driver reads the URL itself: `sslmode` and the like mean what they mean elsewhere, and
    # SQLAlchemy, which logs its own URL, never sees the password.
    arguments = {
        "dsn": url.render_as_string(hide_password=False),
        "timeout": CONNECT,
        "command_timeout": silence,
        "server_settings": {
            name: value for name, value in session.items() if name not in url.query
        },
    }
    made = create_async_engine(
        "postgresql+asyncpg://", connect_args=arguments, hide_parameters=True, **options
    )

    def taken(connection: Any, *_: object) -> None:
        # The driver knows of a closed socket without asking: a restarted server costs no request.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    event.listen(made.sync_engine, "checkout", taken)
    return made
