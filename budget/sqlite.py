"""The ledger in a SQLite file: one writer thread that commits whatever is waiting at once.

A commit costs far more than the statements in it, so under load many operations share one, and all steps of calls share
their statements too; each is acknowledged only when the commit that holds it is done. A commit is on the disk then
(`synchronous = FULL`): what was acknowledged survives a loss of power as well.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any

from chattable.budget.calls import Answer, Ask, work
from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.sql import SqlLedger
from chattable.budget.steps import THRESHOLDS, Dialect, Steps, T

NOW = "(julianday('now') - 2440587.5) * 86400.0"
BATCH = 64  # operations in one commit at most
BUSY = 5.0  # seconds a commit waits for another process's


class SqliteLedger(SqlLedger):
    """Keeps the ledger in a file that other processes may use at the same time."""

    def __init__(self, file: str, *, zone: tzinfo = UTC, now: str = NOW, thresholds: tuple[int, ...] = THRESHOLDS) -> None:
        super().__init__(Dialect(now, zone, False, thresholds))
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

    async def ask(self, ask: Ask) -> Answer:
        """What comes of one step of a call, decided with all that waits."""
        job = _Job(ask)
        self._queue.put(job)
        answer: Answer = await job.future
        return answer

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            jobs, going = self._waiting()
            if not jobs:
                continue
            try:
                connection = connection or self._connect()
                self._together(connection, jobs)
            except sqlite3.Error as error:
                for job in jobs:
                    job.error = LedgerUnavailableError(f"the ledger's database: {error}")
                if connection is not None:
                    connection.close()
                    connection = None
            _deliver(jobs)
        if connection is not None:
            connection.close()

    def _together(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """Commits the jobs at once; if one of them cannot be, each on its own, so that it harms no other."""
        try:
            self._commit(connection, jobs)
        except sqlite3.OperationalError:  # the database is away, for all of them
            raise
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].error = error
                return
            for job in jobs:
                self._together(connection, [job])

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        """Runs the jobs in one transaction; one that raises is undone alone, a database error undoes all."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            asks: list[tuple[_Job, Ask]] = []
            for job in jobs:
                if callable(job.what):
                    _run(connection, job, job.what)
                else:
                    asks.append((job, job.what))
            if asks:
                answers = drive(connection, work(self.dialect, [ask for _, ask in asks]))
                for (job, _), answer in zip(asks, answers, strict=True):
                    job.result = answer
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

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
        connection.execute("PRAGMA synchronous = FULL")
        return connection


class _Job:
    def __init__(self, what: Callable[[], Steps[Any]] | Ask) -> None:
        self.what = what
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.result: Any = None
        self.error: Exception | None = None


def _run(connection: sqlite3.Connection, job: _Job, operation: Callable[[], Steps[Any]]) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = drive(connection, operation())
    except sqlite3.Error:
        raise
    except Exception as error:
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def drive(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    try:
        sql, parameters = next(steps)
        while True:
            if isinstance(parameters, list):
                connection.executemany(sql, parameters)
                sql, parameters = steps.send([])
            else:
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
