"""The database as a test sees it beside the server: its rows, its clock, and its absence."""

import asyncio
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import psutil
from databases import execute, migrate, migrated_sqlite, start_postgres
from ledgers import START
from sqlalchemy import make_url

Rows = list[tuple[Any, ...]]


class Base(ABC):
    """One database with the newest schema, and a clock that the ledger reads and the test sets."""

    url: str

    @abstractmethod
    def rows(self, sql: str) -> Rows:
        """What a statement finds."""

    @abstractmethod
    def change(self, sql: str) -> None:
        """Runs a statement that writes."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """The time during which the ledger cannot write."""

    def prepare(self) -> Self:
        """Makes the clock."""
        self.change("CREATE TABLE test_clock (now DOUBLE PRECISION)")
        self.now = float(START)
        self.change(f"INSERT INTO test_clock VALUES ({self.now})")
        return self

    def set_clock(self, now: float) -> None:
        """Says what time it is."""
        self.now = now
        self.change(f"UPDATE test_clock SET now = {now}")

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.set_clock(self.now + seconds)


class Sqlite(Base):
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "chattable.db"
        self.url = migrated_sqlite(self.file)

    def rows(self, sql: str) -> Rows:
        with closing(self._connect()) as connection:
            return connection.execute(sql).fetchall()

    def change(self, sql: str) -> None:
        with closing(self._connect()) as connection:
            connection.execute(sql)

    @contextmanager
    def away(self) -> Iterator[None]:
        """This process, which is another one than the server's, holds the writer's lock."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=20, isolation_level=None)


class Postgres(Base):
    """A database of a cluster that the tests own."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster, name = cluster, f"test_{uuid4().hex}"
        asyncio.run(execute(cluster.url, f"CREATE DATABASE {name}"))
        self.url = make_url(cluster.url).set(database=name).render_as_string(hide_password=False)
        asyncio.run(migrate(self.url))

    def rows(self, sql: str) -> Rows:
        async def fetch() -> Rows:
            connection = await asyncpg.connect(self.url)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def change(self, sql: str) -> None:
        asyncio.run(execute(self.url, sql))

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server is dead."""
        self.cluster.kill()
        try:
            yield
        finally:
            self.cluster.revive()


class Cluster:
    """A PostgreSQL of our own, which may be killed: never one that a test run was lent."""

    def __init__(self) -> None:
        self._server = start_postgres(Path(tempfile.mkdtemp(prefix="chattable-pg-")))
        self.url = self._server.get_uri()

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children notice and end."""
        pid = self._server.get_pid()
        assert pid is not None
        postmaster = psutil.Process(pid)
        family = [postmaster, *postmaster.children(recursive=True)]
        postmaster.kill()
        _, alive = psutil.wait_procs(family, 20)
        assert not alive, "PostgreSQL's processes outlive their postmaster"

    def revive(self) -> None:
        """Starts on the same data: it recovers from its own log."""
        self._server.ensure_postgres_running()
        assert self._server.get_uri() == self.url

    def delete(self) -> None:
        """Leaves nothing behind."""
        self._server.cleanup()
