"""The ledger in a SQLite file: one thread that holds the one connection it writes with.

A commit costs far more than the statements in it: what is asked while one is under way shares the next (sql.py). What is
acknowledged survives the end of any process at once, and a loss of power after the next `flush`, or at once with `sync`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, tzinfo
from pathlib import Path

from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.sql import SqlLedger
from chattable.budget.steps import THRESHOLDS, Dialect, Steps, T

NOW = "(julianday('now') - 2440587.5) * 86400.0"
BUSY = 5.0  # seconds a commit waits for another process's


class SqliteLedger(SqlLedger):
    """Keeps the ledger in a file that other processes may use at the same time."""

    def __init__(
        self, file: str, *, zone: tzinfo = UTC, now: str = NOW, thresholds: tuple[int, ...] = THRESHOLDS, sync: bool = False
    ) -> None:
        super().__init__(Dialect(now, zone, False, thresholds))
        self._file = file
        self._sync = sync
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._connection: sqlite3.Connection | None = None  # the thread's own
        self._failed = 0.0  # when the database was last away

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        await super().stop()
        self._thread.submit(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction of its own."""
        asked = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, operation, asked)

    async def flush(self) -> None:
        """Waits until the log of the file's changes is on the disk."""
        if not self._sync:
            await asyncio.to_thread(_flush, f"{self._file}-wal")

    def _transact(self, operation: Callable[[], Steps[T]], asked: float) -> T:
        if asked < self._failed:  # it has waited with the one before it: not each of a queue for as long again
            raise LedgerUnavailableError("the ledger's database was away while this waited")
        try:
            connection = self._connection = self._connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = drive(connection, operation())
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            if isinstance(error, sqlite3.OperationalError):
                self._failed = time.monotonic()
            self._close()  # what is wrong with it may be over with a new one
            raise LedgerUnavailableError(f"the ledger's database: {error}") from error
        return result

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=BUSY, isolation_level=None, uri=self._file.startswith("file:"))
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _flush(file: str) -> None:
    with suppress(FileNotFoundError), Path(file).open("rb") as log:
        os.fdatasync(log.fileno())


def drive(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    try:
        sql, parameters = next(steps)
        while True:
            sql, parameters = steps.send(connection.execute(sql, parameters).fetchall())
    except StopIteration as done:
        result: T = done.value
        return result
