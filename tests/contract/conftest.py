"""Every store of this folder runs on a SQLite file and on a real PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from databases import fresh_postgres, postgres_server

from chattable.proxy.store.database import Database


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server, the same one for the whole run."""
    with postgres_server() as url:
        yield url


@pytest.fixture
async def postgres_url(postgres: str) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database."""
    async with fresh_postgres(postgres) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/chattable.db"
    fresh: str = request.getfixturevalue("postgres_url")
    return fresh


@pytest.fixture
async def empty(url: str) -> AsyncIterator[Database]:
    """A started database without tables."""
    database = Database(url)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
async def database(empty: Database) -> Database:
    """A started database with the newest schema."""
    await empty.migrate()
    return empty
