"""The ledger in a SQLite file: one writer thread that commits whatever is waiting at once.

A commit costs far more than the statements in it, so under load many operations share one: each has a savepoint of its own,
and is acknowledged only when the commit that holds it is done.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Generator
from datetime import UTC, tzinfo
from typing import Any

from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.law import Dialect, Steps, T
from chattable.budget.sql import SqlLedger

NOW = "(julianday('now') - 2440587.5) * 86400.0"
BATCH = 64  # operations in one commit at most
BUSY = 5.0  # seconds a commit waits for another process's


class SqliteLedger(SqlLedger):
    """Keeps the ledger in a file that other processes may use at the same time."""

    def __init__(self, file: str, *, zone: tzinfo = UTC, now: str = NOW) -> None:
        super().__init__(Dialect(now, "", zone))
        self._file = file
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)

    async def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    async def stop(self) -> None:
        """Finishes what was asked and ends."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in the next commit."""
        job = _Job(operation)
        self._queue.put(job)
        result: T = await job.future
        return result

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            jobs, going = self._waiting()
            if not jobs:
                continue
            try:
                connection = connection or self._connect()
                commit(connection, jobs)
            except sqlite3.Error as error:
                for job in jobs:
                    job.error = LedgerUnavailableError(f"the ledger's database: {error}")
                if connection is not None:
                    connection.close()
                    connection = None
            _deliver(jobs)
        if connection is not None:
            connection.close()

    def _waiting(self) -> tuple[list[_Job], bool]:
        """At least one job, and all that came meanwhile; False at the end."""
        jobs: list[_Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == BATCH:
                return jobs, True
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=BUSY, isolation_level=None, uri=self._file.startswith("file:"))
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection


class _Job:
    def __init__(self, operation: Callable[[], Steps[Any]]) -> None:
        self.operation = operation
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.result: Any = None
        self.error: Exception | None = None


def commit(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    """Runs the jobs in one transaction; one that raises is undone alone, a database error undoes all."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for job in jobs:
            connection.execute("SAVEPOINT job")
            try:
                job.result = drive(connection, job.operation())
            except sqlite3.Error:
                raise
            except Exception as error:
                job.error = error
                connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def drive(connection: sqlite3.Connection, steps: Generator[Any, Any, T]) -> T:
    """Runs an operation's statements."""
    try:
        sql, parameters = next(steps)
        while True:
            sql, parameters = steps.send(connection.execute(sql, parameters).fetchall())
    except StopIteration as done:
        result: T = done.value
        return result


def _deliver(jobs: list[_Job]) -> None:
    """Hands the results to the loop, which is one for all of them; a caller that left gets nothing."""

    def resolve(job: _Job) -> None:
        if job.future.cancelled():
            return
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)

    def resolve_all() -> None:
        for job in jobs:
            resolve(job)

    loop = jobs[0].future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(resolve_all)
