"""The one door to the database: transactions, health and migrations, on SQLite and PostgreSQL alike."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.postgres import Gate, drive
from chattable.budget.sqlite import Transactions
from chattable.budget.steps import Steps, T
from chattable.proxy.store import address, postgres, schema, sqlite
from chattable.proxy.store.errors import Crowded, Unavailable
from chattable.proxy.store.outages import outages

PING = 2.0  # seconds
# of `run` at once on PostgreSQL; the ledger has six connections of its own, and everybody else the
# rest
OPERATIONS = 4


class Database:
    """Connections to one database.

    Law: `begin` is a write transaction, committed on a clean exit and rolled back otherwise;
    `connect` only reads. A database that is away raises `Unavailable`, within bounded time, from
    every method. The URL's password is never shown.
    """

    def __init__(self, url: str, *, pool_size: int = 12, sync: bool = False) -> None:
        """`sync`: what `run` has committed to a SQLite file survives a loss of power."""
        self._url = address.parse(url)
        self.file = self._file_of_url() if self.is_sqlite else ""
        self.transactions = Transactions(self.file, sync=sync) if self.is_sqlite else None
        self._gate = Gate(OPERATIONS)
        self._anchor: sqlite3.Connection | None = None
        self._reader = (
            sqlite.engine(self.file, pool_size)
            if self.is_sqlite
            else postgres.engine(self._url, pool_size)
        )
        self._writer = self._reader.execution_options(write=True)

    def __repr__(self) -> str:
        return f"Database({self})"

    def __str__(self) -> str:
        return address.shown(self._url)

    @property
    def is_sqlite(self) -> bool:
        """Says which of the two this is."""
        return self._url.drivername == "sqlite"

    @property
    def is_file(self) -> bool:
        """Says whether it is a file, and neither a server nor in memory."""
        return self.is_sqlite and not sqlite.is_memory(self.file)

    async def start(self) -> None:
        """Prepares a SQLite file; asks nothing of a PostgreSQL, which may come up later."""
        if sqlite.is_memory(self.file):
            # the database lives as long as one connection
            self._anchor = sqlite3.connect(self.file, uri=True)
        elif self.is_sqlite:
            with outages(str(self)):
                await asyncio.to_thread(sqlite.prepare, self.file)

    async def stop(self) -> None:
        """Closes every connection; a database in memory is gone."""
        if self.transactions is not None:
            await self.transactions.stop()
        await self._reader.dispose()
        if self._anchor:
            self._anchor.close()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that may write."""
        with outages(str(self)):
            async with self._writer.begin() as connection:
                yield connection

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """Opens a transaction that only reads and is rolled back."""
        with outages(str(self)):
            async with self._reader.connect() as connection:
                yield connection

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs what is asked with every request, in a transaction: on SQLite together with all that is asked at the time."""
        try:
            if self.transactions is not None:
                return await self.transactions.run(operation)
            async with self._gate.turn(), self.begin() as connection:
                return await drive(connection, operation())
        except LedgerUnavailableError as error:
            raise Unavailable(f"{self}: {error}") from error

    async def ping(self) -> None:
        """Returns when the database answers; raises `Unavailable` otherwise."""
        with outages(str(self)):
            async with asyncio.timeout(PING), self._reader.connect() as connection:
                await connection.execute(text("SELECT 1"))

    async def trouble(self) -> str:
        """What keeps the database from serving, as said behind its name; empty if nothing does."""
        try:
            await self.ping()
        except Crowded:
            return "has no free connection"
        except Unavailable:
            return "does not answer"
        if self.transactions is None:
            return await self._refuses_to_write()
        try:
            async with asyncio.timeout(PING):
                await self.transactions.run(_nothing)
        except TimeoutError:
            return "is locked: somebody else has been writing to the file for seconds"
        except LedgerUnavailableError as error:
            return f"takes nothing: {error}"
        return ""

    async def _refuses_to_write(self) -> str:
        try:
            async with asyncio.timeout(PING), self.connect() as connection:
                question = text("SELECT current_setting('transaction_read_only')")
                setting = await connection.scalar(question)
        except (Unavailable, TimeoutError):
            return "does not answer"
        return "is read-only, as a replica is" if setting == "on" else ""

    async def version(self) -> str | None:
        """Returns the version of the schema; None before the first migration."""
        async with self.connect() as connection:
            return await connection.run_sync(schema.version)

    async def up_to_date(self) -> bool:
        """Says whether the schema is the one this Chattable needs."""
        return await self.version() == schema.head()

    async def migrate(self, progress: schema.Progress | None = None) -> None:
        """Brings the schema to the newest version, all or nothing; calls `progress` with each script applied.

        Law: of any number of processes that migrate at once one does the work; the others wait and
        find it done.
        """
        from chattable.proxy.store.upgrade import upgrade

        unpooled = (
            sqlite.migration_engine(self.file)
            if self.is_sqlite
            else postgres.migration_engine(self._url)
        )
        try:
            with outages(str(self)):
                async with unpooled.execution_options(write=True).begin() as connection:
                    if not self.is_sqlite:  # whose transaction has waited for the others already
                        await postgres.lock_migrations(connection)
                    await connection.run_sync(upgrade, progress)
        finally:
            await unpooled.dispose()

    def _file_of_url(self) -> str:
        name = self._url.database
        return sqlite.memory() if name in (None, "", ":memory:") else str(name)


def _nothing() -> Steps[None]:
    """An operation whose transaction is all there is to it."""
    yield from ()
