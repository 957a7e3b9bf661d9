"""What every test may use, how processes share tests out, and where the time of a run went."""

import os
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import httpx2  # the openai package's
import pytest
from databases import fresh_postgres, shared_postgres, stop_shared_postgres
from shared import close_run, open_run
from spread import Spread, longest_first
from timing import Timing
from valkeys import redis_url
from xdist.scheduler import Scheduling

# Every client of httpx reads all of the world's certificates, which takes longer than most tests:
# here they share them.
transports: Any  # they import the function, and do not offer it
for transports in (httpx._transports.default, httpx2._transports.default):
    transports.create_ssl_context = cache(transports.create_ssl_context)


def pytest_configure(config: pytest.Config) -> None:
    """Opens the run, in the process that was started by hand."""
    if not hasattr(config, "workerinput"):
        open_run()
        config.pluginmanager.register(Timing())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leaves nothing of it behind."""
    if not hasattr(config, "workerinput"):
        stop_shared_postgres()
        close_run()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With `-n auto`, one process more than cores, as tests wait a lot; single files are run by one.

    With twice as many, servers of several workers take half a minute to start.
    """
    folders = any(Path(argument).is_dir() for argument in config.args)
    return 1 + (os.cpu_count() or 1) if folders else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, what takes longest begins first."""
    if hasattr(config, "workerinput"):
        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    """Gives each process whole groups of tests."""
    return Spread(config, log)


@pytest.fixture(scope="session")
def postgres() -> str:
    """The URL of a PostgreSQL server, the same one for the whole run."""
    return shared_postgres()


@pytest.fixture
async def postgres_url(postgres: str) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database."""
    async with fresh_postgres(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[str]:
    """The URL of a Redis to share with other tests: use names of your own."""
    with redis_url() as url:
        yield url
