"""Every `SessionStore`, twice on the same data, with clocks that a test can set.

A store of one's own joins the suite by `CHATTABLE_TEST_SESSIONS=package.module:function`, which
names an async context manager like those below.
"""

import importlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from ledgers import CLOCK, START
from ledgers import Clock as DatabaseClock
from session_model import MemorySessions

from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import SessionStore
from chattable.proxy.store.sessions.sql_store import SqlSessions


@dataclass
class Stores:
    """Two stores on one set of sessions, as of two workers; `advance` moves the clocks of both."""

    one: SessionStore
    two: SessionStore
    advance: Callable[[float], Awaitable[None]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Stores]:
    now = float(START)

    async def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    store = MemorySessions(lambda: now, lambda: now)
    yield Stores(store, store, advance)


@asynccontextmanager
async def in_sql(url: str) -> AsyncIterator[Stores]:
    """On a database with the newest schema."""
    databases = [Database(url, now=CLOCK), Database(url, now=CLOCK)]
    for database in databases:
        await database.start()
    clock = DatabaseClock(databases[0])
    await clock.make()
    one, two = (SqlSessions(database.storage, lambda: clock.now) for database in databases)
    yield Stores(one, two, clock.advance)
    for database in databases:
        await database.stop()


def own() -> dict[str, Callable[[], AbstractAsyncContextManager[Stores]]]:
    """The store that the environment names, by its name."""
    name = os.environ.get("CHATTABLE_TEST_SESSIONS")
    if not name:
        return {}
    module, _, function = name.partition(":")
    return {name: getattr(importlib.import_module(module), function)}
