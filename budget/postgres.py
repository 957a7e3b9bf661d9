"""The ledger in PostgreSQL: steps of calls share a transaction, a batch after the other; everything else has its own.

A round trip costs far more than what it does, so while one batch is under way the steps that come wait for the next. Rows
are locked in one order, so that nothing deadlocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, tzinfo
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, String, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.budget.calls import Answer, Ask, work
from chattable.budget.errors import LedgerUnavailableError
from chattable.budget.sql import SqlLedger
from chattable.budget.steps import THRESHOLDS, Dialect, Row, Steps, T

NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
OPERATIONS = 6  # at once in one process; the pool has more connections, for everybody else
BATCH = 128  # steps of calls in one transaction at most
PATIENCE = 10.0  # seconds an operation waits for its turn
TYPES: dict[type, Any] = {int: BigInteger, str: String, float: Float, bool: Boolean}


class PostgresLedger(SqlLedger):
    """Keeps the ledger where any number of processes share it."""

    def __init__(
        self,
        begin: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        *,
        away: tuple[type[Exception], ...] = (),
        contended: tuple[type[Exception], ...] = (),
        zone: tzinfo = UTC,
        now: str = NOW,
        thresholds: tuple[int, ...] = THRESHOLDS,
    ) -> None:
        """`begin` opens a transaction that commits on a clean exit; `away` is what it raises when there is no database, and
        `contended`, part of that, when others hold the rows for too long.
        """
        super().__init__(Dialect(now, zone, True, thresholds))
        self._begin = begin
        self._gate = asyncio.Semaphore(OPERATIONS)
        self._away = away
        self._contended = contended
        self._waiting: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Ends; what waits is refused."""
        if self._writer is not None:
            self._writer.cancel()
            with suppress(asyncio.CancelledError):
                await self._writer

    async def ask(self, ask: Ask) -> Answer:
        """What comes of one step of a call, in the next batch."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                await self._together(batch)
            except BaseException as error:
                for _, future in batch:
                    _fail(future, LedgerUnavailableError("the ledger stops"))
                if not isinstance(error, Exception):
                    raise

    async def _together(self, batch: list[tuple[Ask, asyncio.Future[Answer]]]) -> None:
        """Commits the steps at once; if one of them cannot be, each on its own, so that it harms no other."""
        try:
            answers = await self.run(partial(work, self.dialect, [ask for ask, _ in batch]))
        except Exception as error:
            away = isinstance(error, LedgerUnavailableError) and not isinstance(error.__cause__, self._contended)
            if away or len(batch) == 1:
                for _, future in batch:
                    _fail(future, error)
                return
            await asyncio.gather(*(self._together([step]) for step in batch))
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction of its own."""
        try:
            async with self._turn(), self._begin() as connection:
                steps = operation()
                sql, parameters = next(steps)
                while True:
                    first = parameters[0] if isinstance(parameters, list) else parameters
                    found = await connection.execute(_typed(sql, _types(first)), parameters)
                    rows = [tuple(row) for row in found] if found.returns_rows else []
                    try:
                        sql, parameters = steps.send(rows)
                    except StopIteration as done:
                        result: T = done.value
                        return result
        except self._away as error:
            raise LedgerUnavailableError(str(error)) from error

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A place among the operations that run at once: a burst waits here, in order, and not for the pool's last connection."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._gate.acquire()
        except TimeoutError:
            raise LedgerUnavailableError(f"no turn within {PATIENCE:g} seconds") from None
        try:
            yield
        finally:
            self._gate.release()


def _fail(future: asyncio.Future[Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _types(parameters: Row) -> tuple[tuple[str, type], ...]:
    return tuple((name, type(value)) for name, value in parameters.items())


@lru_cache(maxsize=512)
def _typed(sql: str, types: tuple[tuple[str, type], ...]) -> TextClause:
    """The statement with every parameter's type said: the driver would take a small number for a small column."""
    return text(sql).bindparams(*(bindparam(name, type_=TYPES.get(kind, BigInteger)()) for name, kind in types))
