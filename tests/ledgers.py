"""Ledgers on real databases, with a clock that a test can set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, tzinfo

from databases import transaction
from sqlalchemy import text

from chattable.budget.sql_ledger import SqlLedger
from chattable.proxy.store.database import Database

CLOCK = "(SELECT now FROM test_clock)"
START = 1_795_000_000  # 2026-11-18T11:06:40Z, a Wednesday


class Clock:
    """The database's clock, set by the test: both databases read it from a table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = float(START)

    async def make(self) -> None:
        async with transaction(self._database) as connection:
            await connection.execute(text("CREATE TABLE test_clock (now DOUBLE PRECISION)"))
            await connection.execute(
                text("INSERT INTO test_clock VALUES (:now)"), {"now": self.now}
            )

    async def advance(self, seconds: float) -> None:
        await self.set(self.now + seconds)

    async def set(self, now: float) -> None:
        self.now = now
        async with transaction(self._database) as connection:
            await connection.execute(text("UPDATE test_clock SET now = :now"), {"now": now})


@asynccontextmanager
async def open_ledger(
    url: str, *, now: str = CLOCK, zone: tzinfo = UTC
) -> AsyncIterator[SqlLedger]:
    """The ledger of a migrated database: by a storage of its own, as another process has."""
    other = Database(url, now=now)
    await other.start()
    ledger = SqlLedger(other.storage, zone=zone)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()
        await other.stop()
