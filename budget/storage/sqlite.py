"""A SQLite file: one thread holds the one connection that writes, others read beside it.

A commit costs far more than the statements in it: what is asked while one is under way shares the
next. What is acknowledged survives the end of any process at once, and a loss of power after the
next `flush`, or at once with `sync`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.pool import NullPool

from chattable.budget.storage.errors import ConstraintViolated, StorageUnavailable
from chattable.budget.storage.outages import outages, with_hint
from chattable.budget.storage.statements import Dialect, Steps, T, nothing, one
from chattable.budget.storage.storage import PING, Storage

NOW = "(julianday('now') - 2440587.5) * 86400.0"
BUSY = 5.0  # seconds a commit waits for another process's
MIGRATION = 60.0  # seconds a migration waits for another
TOGETHER = 64  # operations in one commit at most
READERS = 8  # reads at once

_Asked = tuple[Callable[[], Steps[Any]], "asyncio.Future[Any]", float]  # what, for whom, when
_Outcome = tuple[Any, BaseException | None]
_Batch = tuple[list[_Asked], asyncio.AbstractEventLoop]


def memory() -> str:
    """Names a fresh database in memory that all connections of this process can share."""
    return f"file:/chattable-{token_hex(8)}?vfs=memdb"


def is_memory(file: str) -> bool:
    """Says whether `memory` made this name."""
    return file.endswith("?vfs=memdb")


class SqliteStorage(Storage):
    """A file that other processes may use at the same time, or a database in memory.

    Law: an operation happens wholly or not at all, whatever becomes of those that share its commit.
    """

    def __init__(
        self, file: str, *, name: str = "", sync: bool = False, now: str | None = None
    ) -> None:
        """`sync`: what is committed survives a loss of power. `now`: an SQL expression."""
        super().__init__(name or file, Dialect(now or NOW, False))
        self._file = file
        self._sync = sync
        self._waiting: list[_Asked] = []
        # the loop that has a batch under way, or is about to
        self._busy: asyncio.AbstractEventLoop | None = None
        self._idle: asyncio.Future[None] | None = None  # who waits until none is
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._stopped = False
        self._readers = ThreadPoolExecutor(READERS, "sqlite-reader")
        self._connection: sqlite3.Connection | None = None  # the writer's own
        self._reading = threading.local()  # each reader's own
        self._opened: list[sqlite3.Connection] = []  # all of theirs
        self._anchor: sqlite3.Connection | None = None
        self._failed = 0.0  # when the database was last away

    async def start(self) -> None:
        """Prepares the file."""
        if is_memory(self._file):  # which lives as long as one connection
            self._anchor = sqlite3.connect(self._file, uri=True)
            return
        try:
            await asyncio.to_thread(prepare, self._file)
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailable(str(error), self.name) from error

    async def stop(self) -> None:
        """Finishes what was asked and ends; a database in memory is gone."""
        if self._busy is not None:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        self._stopped = True
        if self._writer is not None:
            self._batches.put(None)
            await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in [*self._opened, *([self._anchor] if self._anchor else [])]:
            connection.close()
        self._opened.clear()

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation, together with all that is asked at the time."""
        if self._stopped:
            raise StorageUnavailable("it was closed", self.name)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((operation, future, time.monotonic()))
        if self._busy is not loop:
            self._busy = loop
            loop.call_soon(
                self._hand_over, loop
            )  # with what else is asked in this turn of the loop
        try:
            return await future
        finally:
            del future  # an error in it leads back here: a circle is memory until it is collected

    async def read(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation that waits for no writer."""
        if is_memory(self._file):  # without a file there is no log that lets it not wait
            return await self.run(operation)
        loop = asyncio.get_running_loop()
        try:
            result = loop.run_in_executor(self._readers, self._look, operation)
        except RuntimeError as ended:  # there is no thread any more
            raise StorageUnavailable(str(ended), self.name) from ended
        return await result

    async def alter(self, work: Callable[[Connection], T]) -> T:
        """Does something to the schema; processes that do so at once wait for each other."""
        with outages(self.name):
            return await asyncio.to_thread(self._alter, work)

    async def ping(self) -> None:
        """Returns when the file can be read."""
        try:
            async with asyncio.timeout(PING):
                await self.read(one)
        except TimeoutError:
            raise StorageUnavailable("no answer in time", self.name) from None

    async def trouble(self) -> str:
        """What keeps the file from being read and written."""
        try:
            await self.ping()
        except StorageUnavailable:
            return "does not answer"
        try:
            async with asyncio.timeout(PING):
                await self.run(nothing)
        except TimeoutError:
            return "is locked: somebody else has been writing to the file for seconds"
        except StorageUnavailable as error:
            return f"takes nothing: {error.reason}"
        return ""

    async def flush(self) -> None:
        """Waits until the log of the file's changes is on the disk."""
        if not self._sync:
            await asyncio.to_thread(_flush, f"{self._file}-wal")

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives the writer what waits."""
        batch, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="sqlite", daemon=True)
            self._writer.start()
        self._batches.put((batch, loop))

    def _write(self) -> None:
        """What the writer does: an executor's futures would cost more than most statements."""
        while (job := self._batches.get()) is not None:
            batch, loop = job
            outcomes = self._all(batch)
            with suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(self._written, batch, outcomes, loop)
            del job, batch, outcomes
        self._close()

    def _written(
        self, batch: list[_Asked], outcomes: list[_Outcome], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Hands the outcomes of a batch to those who asked, and goes on with the next."""
        for (_, future, _), (result, error) in zip(batch, outcomes, strict=True):
            if future.done():  # nobody waits for it any more
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        if self._waiting:
            self._hand_over(loop)
            return
        self._busy = None
        if self._idle is not None:
            self._idle.set_result(None)

    def _all(self, batch: Sequence[_Asked]) -> list[_Outcome]:
        if len(batch) > 1:
            # then each on its own: it need not be the fault of all
            with suppress(StorageUnavailable):
                return self._transact(batch)
        outcomes: list[_Outcome] = []
        for each in batch:
            try:
                outcomes += self._transact([each])
            except StorageUnavailable as error:
                outcomes.append((None, error))
        return outcomes

    def _transact(self, batch: Sequence[_Asked]) -> list[_Outcome]:
        # it has waited with the one before it: not each of a queue for as long again
        if batch[0][2] < self._failed:
            raise StorageUnavailable("was away while this waited", self.name)
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
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError):
                self._failed = time.monotonic()
            self._close()  # what is wrong with it may be over with a new one
            raise StorageUnavailable(with_hint(error), self.name) from error
        except Exception as error:
            return [_refused(error)]
        return outcomes

    def _look(self, operation: Callable[[], Steps[T]]) -> T:
        connection: sqlite3.Connection | None = getattr(self._reading, "connection", None)
        try:
            if connection is None:
                connection = self._reading.connection = self._connect(query_only=True)
                self._opened.append(connection)
            connection.execute("BEGIN")
            try:
                return drive(connection, operation())
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            if connection is not None:  # as the writer does
                self._reading.connection = None
                self._opened.remove(connection)
                connection.close()
            raise StorageUnavailable(with_hint(error), self.name) from error

    def _alter(self, work: Callable[[Connection], T]) -> T:
        path, _, vfs = self._file.partition("?vfs=")
        query = {"vfs": vfs, "uri": "true"} if vfs else {}
        engine = create_engine(
            URL.create("sqlite", database=path, query=query),
            connect_args={"timeout": MIGRATION},
            hide_parameters=True,
            poolclass=NullPool,
        )
        # `began` begins: the driver would not before a SELECT or a CREATE. Foreign keys are off, as
        # they are in a new connection: rebuilding a table would delete the rows that refer to it.
        event.listen(
            engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None)
        )
        event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            return work(connection)

    def _connect(self, *, query_only: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._file,
            timeout=BUSY,
            isolation_level=None,
            uri=self._file.startswith("file:"),
            check_same_thread=False,  # `stop` closes what readers opened
        )
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._sync else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = 1")
        connection.execute(f"PRAGMA query_only = {int(query_only)}")
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def drive(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    try:
        sql, parameters = next(steps)
        while True:
            sql, parameters = steps.send(connection.execute(sql, parameters).fetchall())
    except StopIteration as done:
        result: T = done.value
        return result
    except sqlite3.IntegrityError as error:
        raise ConstraintViolated(str(error)) from error


def prepare(file: str) -> None:
    """Makes the file, for its owner only, and turns on write-ahead logging, which stays on."""
    path = Path(file)
    if not path.parent.is_dir():
        raise FileNotFoundError(
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


def _apart(connection: sqlite3.Connection, operation: Callable[[], Steps[Any]]) -> _Outcome:
    """Runs one operation within the transaction; what it raises undoes what it did, and no more."""
    connection.execute("SAVEPOINT operation")
    try:
        result = drive(connection, operation())
    except sqlite3.Error:
        raise
    except Exception as error:
        connection.execute("ROLLBACK TO operation")
        connection.execute("RELEASE operation")
        return _refused(error)
    connection.execute("RELEASE operation")
    return result, None


def _refused(error: Exception) -> _Outcome:
    """What an operation raised, which is its caller's.

    What it raised on purpose needs no traceback, and the frames of this thread would lead back to
    it: a circle is memory until it is collected.
    """
    if type(error).__module__ != "builtins":
        error.__traceback__ = None
    return None, error


def _flush(file: str) -> None:
    with suppress(FileNotFoundError), Path(file).open("rb") as log:
        getattr(os, "fdatasync", os.fsync)(log.fileno())  # macOS has only the latter
