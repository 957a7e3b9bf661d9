"""SQLite: one file, one writer at a time, readers that never wait."""

import sqlite3
import time
from pathlib import Path
from secrets import token_hex
from typing import Any

from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from chattable.proxy.store.errors import Unavailable

BUSY = 5.0  # seconds a writer waits for the one before it, and a request for a connection
MIGRATION = 60.0  # seconds a migration waits for another


def memory() -> str:
    """Names a fresh database in memory that all connections of this process can share."""
    return f"file:/chattable-{token_hex(8)}?vfs=memdb"


def is_memory(file: str) -> bool:
    """Says whether `memory` made this name."""
    return file.endswith("?vfs=memdb")


def engine(file: str, pool_size: int) -> AsyncEngine:
    """Makes an engine for requests."""
    # Without a file there is no WAL, and a reader would block the writer: one connection, taken in
    # turns.
    size = 1 if is_memory(file) else pool_size
    return _engine(
        file, foreign_keys=True, busy=BUSY, pool_size=size, max_overflow=0, pool_timeout=BUSY
    )


def migration_engine(file: str) -> AsyncEngine:
    """Makes an engine for a migration: rebuilding a table with foreign keys on would delete the rows that refer to it."""
    return _engine(file, foreign_keys=False, busy=MIGRATION, poolclass=NullPool)


def prepare(file: str) -> None:
    """Makes the file, readable by its owner only, and turns on write-ahead logging, which stays on."""
    path = Path(file)
    if not path.parent.is_dir():
        raise Unavailable(
            f"{file}: the folder {path.parent} does not exist; make it, or change database_url."
        )
    path.touch(mode=0o600)
    connection = sqlite3.connect(file, timeout=BUSY)
    try:
        _log_ahead(connection, time.monotonic() + BUSY)
    finally:
        connection.close()


def _log_ahead(connection: sqlite3.Connection, deadline: float) -> None:
    # Where two processes turn it on at once SQLite tells one that the file is locked, without
    # waiting: so we wait.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _engine(file: str, *, foreign_keys: bool, busy: float, **options: Any) -> AsyncEngine:
    path, _, vfs = file.partition("?vfs=")
    url = URL.create(
        "sqlite+aiosqlite", database=path, query={"vfs": vfs, "uri": "true"} if vfs else {}
    )
    made = create_async_engine(url, connect_args={"timeout": busy}, hide_parameters=True, **options)

    def opened(connection: Any, _: object) -> None:
        # `began` begins: the driver would not before a SELECT or a CREATE
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA foreign_keys = {int(foreign_keys)}")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    def began(connection: Connection) -> None:
        # A reader that turns into a writer fails at once when another came first; a writer from the
        # start waits.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(made.sync_engine, "connect", opened)
    event.listen(made.sync_engine, "begin", began)
    return made
