"""A PostgreSQL: bounded waits everywhere, so that one locked row or a full server is a quick 503.

Operations wait for their turn here, in order, and not for the pool's last connection. Rows are
locked in one order, so that nothing deadlocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Connection,
    Float,
    String,
    TextClause,
    bindparam,
    event,
    text,
)
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from chattable.budget.storage.errors import ConstraintViolated, PoolExhausted, StorageUnavailable
from chattable.budget.storage.outages import outages
from chattable.budget.storage.statements import Dialect, Row, Rows, Steps, T, one
from chattable.budget.storage.storage import PING, Storage

NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
FREE = 2  # connections of the pool that `run` leaves to those who read
PATIENCE = 10.0  # seconds an operation waits for its turn
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
TYPES: dict[type, Any] = {int: BigInteger, str: String, float: Float, bool: Boolean}


class PostgresStorage(Storage):
    """A PostgreSQL that any number of processes share."""

    def __init__(
        self, url: URL, *, name: str = "", pool_size: int = 12, now: str | None = None
    ) -> None:
        """`now`: an SQL expression in place of the server's clock."""
        super().__init__(name or url.render_as_string(), Dialect(now or NOW, True))
        self._url = url
        self._engine = engine(url, pool_size)
        self._places = asyncio.Semaphore(max(1, pool_size - FREE))

    async def start(self) -> None:
        """Asks nothing: the server may come up later."""

    async def stop(self) -> None:
        """Closes every connection."""
        await self._engine.dispose()

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction of its own, once there is a place for it."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            raise StorageUnavailable(f"no turn within {PATIENCE:g} seconds", self.name) from None
        try:
            try:
                return await self._transact(operation)
            except ConstraintViolated:
                # another process has written the same row meanwhile: this time it is seen
                return await self._transact(operation)
        finally:
            self._places.release()

    async def read(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction that is rolled back."""
        with outages(self.name):
            async with self._engine.connect() as connection:
                return await drive(connection, operation())

    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Does something to the schema; of any number of processes one after the other."""
        unpooled = migration_engine(self._url)
        try:
            with outages(self.name):
                async with unpooled.begin() as connection:
                    await lock_migrations(connection)
                    return await connection.run_sync(work)
        finally:
            await unpooled.dispose()

    async def ping(self) -> None:
        """Returns when the server answers."""
        with outages(self.name):
            async with asyncio.timeout(PING):
                await self.read(one)

    async def trouble(self) -> str:
        """What keeps the server from answering and from taking anything."""
        try:
            await self.ping()
        except PoolExhausted:
            return "has no free connection"
        except StorageUnavailable:
            return "does not answer"
        try:
            async with asyncio.timeout(PING):
                read_only = await self.read(_read_only)
        except (StorageUnavailable, TimeoutError):
            return "does not answer"
        return "is read-only, as a replica is" if read_only else ""

    async def _transact(self, operation: Callable[[], Steps[T]]) -> T:
        with outages(self.name):
            async with self._engine.begin() as connection:
                return await drive(connection, operation())


def _read_only() -> Steps[bool]:
    ((setting,),) = yield "SELECT current_setting('transaction_read_only')", {}
    return bool(setting == "on")


async def drive(connection: AsyncConnection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    rows: Rows | None = None
    while True:
        try:
            sql, parameters = next(steps) if rows is None else steps.send(rows)
        except StopIteration as done:
            result: T = done.value
            return result
        found = await connection.execute(_typed(sql, _types(parameters)), parameters)
        rows = [tuple(row) for row in found] if found.returns_rows else []


def _types(parameters: Row) -> tuple[tuple[str, type], ...]:
    return tuple((name, type(value)) for name, value in parameters.items())


@lru_cache(maxsize=512)
def _typed(sql: str, types: tuple[tuple[str, type], ...]) -> TextClause:
    """The statement with its parameters' types, which the driver would guess too small."""
    return text(sql).bindparams(
        *(bindparam(name, type_=TYPES.get(kind, BigInteger)()) for name, kind in types)
    )


def engine(url: URL, pool_size: int) -> AsyncEngine:
    """Makes an engine for requests."""
    pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": QUEUE, "pool_use_lifo": True}
    return _engine(url, SESSION, SILENCE, **pool)


def migration_engine(url: URL) -> AsyncEngine:
    """Makes an engine for a migration, which takes the time it needs."""
    return _engine(url, MIGRATION, None, poolclass=NullPool)


async def lock_migrations(connection: AsyncConnection) -> None:
    """Waits until no other process migrates, then holds the others off to the transaction's end."""
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
