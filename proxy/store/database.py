"""The server's database: its address, its storage and the version of its schema."""

from functools import partial

from chattable.budget.storage.sqlite import SqliteStorage, is_memory, memory
from chattable.budget.storage.storage import Storage
from chattable.proxy.store import address, schema


class Database:
    """The database that a URL names; never shows the password."""

    def __init__(
        self, url: str, *, pool_size: int = 12, sync: bool = False, now: str | None = None
    ) -> None:
        """`sync`: what a SQLite file has committed survives a loss of power.

        `now` is an SQL expression in place of the database's clock.
        """
        self._url = address.parse(url)
        self.file = self._file_of_url() if self.is_sqlite else ""
        if self.is_sqlite:
            self.storage: Storage = SqliteStorage(self.file, name=str(self), sync=sync, now=now)
            return
        # SQLAlchemy's engine for asyncio is a fifth of a start, which SQLite does without
        from chattable.budget.storage.postgres import PostgresStorage

        self.storage = PostgresStorage(self._url, name=str(self), pool_size=pool_size, now=now)

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
        return self.is_sqlite and not is_memory(self.file)

    async def start(self) -> None:
        """Prepares a SQLite file; asks nothing of a PostgreSQL, which may come up later."""
        await self.storage.start()

    async def stop(self) -> None:
        """Closes every connection; a database in memory is gone."""
        await self.storage.stop()

    async def version(self) -> str | None:
        """Returns the version of the schema; None before the first migration."""
        return await self.storage.read(partial(schema.version, self.storage.dialect))

    async def up_to_date(self) -> bool:
        """Says whether the schema is the one this Chattable needs."""
        return await self.version() == schema.head()

    async def migrate(self, progress: schema.Progress | None = None) -> None:
        """Brings the schema to the newest version, all or nothing; tells `progress` of each script.

        Law: of any number of processes that migrate at once one does the work; the others wait and
        find it done.
        """
        from chattable.proxy.store.upgrade import upgrade

        await self.storage.alter(partial(upgrade, progress=progress))

    def _file_of_url(self) -> str:
        name = self._url.database
        return memory() if name in (None, "", ":memory:") else str(name)
