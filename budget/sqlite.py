"""The ledger in a SQLite file: one thread that holds the one connection it writes with.

A commit costs far more than the statements in it: what is asked while one is under way shares the
next. What is acknowledged survives the end of any process at once, and a loss of power after the
next `flush`, or at once with `sync`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any

from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.sql import SqlLedger
from chattable.budget.steps import THRESHOLDS, Dialect, Steps, T

NOW = "(julianday('now') - 2440587.5) * 86400.0"
BUSY = 5.0  # seconds a commit waits for another process's
TOGETHER = 64  # operations in one commit at most

_Asked = tuple[Callable[[], Steps[Any]], "asyncio.Future[Any]", float]  # what, for whom, when
_Outcome = tuple[Any, BaseException | None]


class Transactions:
    """Runs operations on a SQLite file that other processes may use at the same time.

    Law: an operation happens wholly or not at all, whatever becomes of those that share its commit.
    """

    def __init__(self, file: str, *, sync: bool = False) -> None:
        self._file = file
        self._sync = sync
        self._waiting: list[_Asked] = []
        self._runner: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._connection: sqlite3.Connection | None = None  # the thread's own
        self._failed = 0.0  # when the database was last away

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        if self._runner is not None:
            await asyncio.wait([self._runner])
        self._thread.submit(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation, and returns once it is committed."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, future, time.monotonic()))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await future

    async def flush(self) -> None:
        """Waits until the log of the file's changes is on the disk."""
        if not self._sync:
            await asyncio.to_thread(_flush, f"{self._file}-wal")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            try:
                outcomes = await loop.run_in_executor(self._thread, self._all, batch)
            except (
                RuntimeError
            ) as ended:  # there is no thread any more: nobody is left waiting for it
                outcomes = [(None, LedgerUnavailableError(str(ended)))] * len(batch)
            for (_, future, _), (result, error) in zip(batch, outcomes, strict=True):
                if future.done():  # nobody waits for it any more
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

    def _all(self, batch: Sequence[_Asked]) -> list[_Outcome]:
        if len(batch) > 1:
            # then each on its own: it need not be the fault of all
            with suppress(LedgerUnavailableError):
                return self._transact(batch)
        outcomes: list[_Outcome] = []
        for one in batch:
            try:
                outcomes += self._transact([one])
            except LedgerUnavailableError as error:
                outcomes.append((None, error))
        return outcomes

    def _transact(self, batch: Sequence[_Asked]) -> list[_Outcome]:
        # it has waited with the one before it: not each of a queue for as long again
        if batch[0][2] < self._failed:
            raise LedgerUnavailableError("the database was away while this waited")
        try:
            connection = self._connection = self._connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                if len(batch) == 1:
                    outcomes: list[_Outcome] = [(drive(connection, batch[0][0]()), None)]
                else:
                    outcomes = [_apart(connection, operation) for operation, _, _ in batch]
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, sqlite3.ProgrammingError) as error:
            if isinstance(error, sqlite3.OperationalError):
                self._failed = time.monotonic()
            self._close()  # what is wrong with it may be over with a new one
            raise LedgerUnavailableError(f"the database: {error}") from error
        except Exception as error:  # its caller's
            return [(None, error)]
        return outcomes

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file, timeout=BUSY, isolation_level=None, uri=self._file.startswith("file:")
        )
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class SqliteLedger(SqlLedger):
    """Keeps the ledger in a file."""

    def __init__(
        self,
        transactions: Transactions,
        *,
        zone: tzinfo = UTC,
        now: str = NOW,
        thresholds: tuple[int, ...] = THRESHOLDS,
    ) -> None:
        super().__init__(Dialect(now, zone, False, thresholds))
        self._transactions = transactions

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation."""
        return await self._transactions.run(operation)

    async def flush(self) -> None:
        """Waits until what was written is on the disk."""
        await self._transactions.flush()


def _apart(connection: sqlite3.Connection, operation: Callable[[], Steps[Any]]) -> _Outcome:
    """Runs one operation within the transaction; what it raises undoes what it did, and nothing else."""
    connection.execute("SAVEPOINT operation")
    try:
        outcome: _Outcome = drive(connection, operation()), None
    except (sqlite3.OperationalError, sqlite3.ProgrammingError):
        raise
    except Exception as error:  # its caller's
        connection.execute("ROLLBACK TO operation")
        outcome = None, error
    connection.execute("RELEASE operation")
    return outcome


def _flush(file: str) -> None:
    with suppress(FileNotFoundError), Path(file).open("rb") as log:
        getattr(os, "fdatasync", os.fsync)(log.fileno())  # macOS has only the latter


def drive(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    try:
        sql, parameters = next(steps)
        while True:
            sql, parameters = steps.send(connection.execute(sql, parameters).fetchall())
    except StopIteration as done:
        result: T = done.value
        return result
