"""Every store of this folder runs on a SQLite file and on a real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import migrated_postgres, migrated_sqlite

from chattable.budget.storage import redis
from chattable.proxy.store.database import Database


@pytest.fixture
def shared_redis(shared_redis: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the shared Redis: what it answers is tested, not how soon a busy machine does."""
    monkeypatch.setattr(redis, "TIMEOUT", 10.0)
    return shared_redis


@pytest.fixture
async def migrated_postgres_url(postgres: str) -> AsyncIterator[str]:
    """The URL of a PostgreSQL database with the newest schema."""
    async with migrated_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind with the newest schema."""
    if kind == "sqlite":
        return migrated_sqlite(tmp_path / "chattable.db")
    return str(request.getfixturevalue("migrated_postgres_url"))


@pytest.fixture
def empty_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/chattable.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[Database]:
    """A started database without tables."""
    database = Database(empty_url)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """A started database with the newest schema."""
    database = Database(url)
    await database.start()
    yield database
    await database.stop()
