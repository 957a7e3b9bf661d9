"""The ledger in PostgreSQL, through the server's own pool; rows are locked in one order, so that nothing deadlocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Float, String, TextClause, bindparam, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.budget.errors import LedgerContendedError, LedgerUnavailableError
from chattable.budget.sql import SqlLedger
from chattable.budget.steps import THRESHOLDS, Dialect, Row, Rows, Steps, T

NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
OPERATIONS = 6  # at once in one process; the pool has more connections, for everybody else
PATIENCE = 10.0  # seconds an operation waits for its turn
TYPES: dict[type, Any] = {int: BigInteger, str: String, float: Float, bool: Boolean}


class Gate:
    """Lets so many operations run at once: a burst waits here, in order, and not for the pool's last connection."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place, or `LedgerUnavailableError` after `PATIENCE` seconds."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            raise LedgerUnavailableError(f"no turn within {PATIENCE:g} seconds") from None
        try:
            yield
        finally:
            self._places.release()


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
        """`begin` opens a transaction that commits on a clean exit.

        It raises `away` when there is no database, and `contended`, part of that, when others hold
        the rows for too long.
        """
        super().__init__(Dialect(now, zone, True, thresholds))
        self._begin = begin
        self._gate = Gate(OPERATIONS)
        self._away = away
        self._contended = contended

    async def run(self, operation: Callable[[], Steps[T]]) -> T:
        """Runs an operation in a transaction of its own."""
        try:
            try:
                return await self._transact(operation)
            except (
                IntegrityError
            ):  # another process has made the same call meanwhile: this time it is seen
                return await self._transact(operation)
        except self._contended as error:
            raise LedgerContendedError(str(error)) from error
        except self._away as error:
            raise LedgerUnavailableError(str(error)) from error

    async def _transact(self, operation: Callable[[], Steps[T]]) -> T:
        async with self._gate.turn(), self._begin() as connection:
            return await drive(connection, operation())


async def drive(connection: AsyncConnection, steps: Steps[T]) -> T:
    """Runs an operation's statements."""
    rows: Rows | None = None
    while True:
        try:
            sql, parameters = next(steps) if rows is None else steps.send(rows)
        except StopIteration as done:
            result: T = done.value
            return result
        found = await connection.execute(_typed(sql, _types(parameters)), parameters)
        rows = [tuple(row) for row in found] if found.returns_rows else []


def _types(parameters: Row) -> tuple[tuple[str, type], ...]:
    return tuple((name, type(value)) for name, value in parameters.items())


@lru_cache(maxsize=512)
def _typed(sql: str, types: tuple[tuple[str, type], ...]) -> TextClause:
    """The statement with every parameter's type said: the driver would take a small number for a small column."""
    return text(sql).bindparams(
        *(bindparam(name, type_=TYPES.get(kind, BigInteger)()) for name, kind in types)
    )
