"""The same server on a SQLite file and on a PostgreSQL that may be killed.

After every test its books must balance.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import Gate
from promises.bases import Base, Cluster, Postgres, Sqlite
from promises.house import House, serving
from upstream import ScriptedUpstream

SEED = 20261118


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL for the whole run."""
    running = Cluster()
    try:
        yield running
    finally:
        running.delete()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def base(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    """An empty database for one test."""
    return make(kind, request, tmp_path)


def make(kind: str, request: pytest.FixtureRequest, folder: Path) -> Base:
    """A database of either kind."""
    return (
        Sqlite(folder) if kind == "sqlite" else Postgres(request.getfixturevalue("cluster"))
    ).prepare()


@pytest.fixture(scope="session")
def upstreams() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    """An honest one, and one that a test makes lie."""
    with ScriptedUpstream() as honest, ScriptedUpstream() as liar:
        yield honest, liar


@pytest.fixture(scope="session")
def standing(
    kind: str,
    upstreams: tuple[ScriptedUpstream, ScriptedUpstream],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """The house that most tests share."""
    folder = tmp_path_factory.mktemp(kind)
    with serving(make(kind, request, folder), folder, *upstreams) as house:
        yield house


@pytest.fixture
def house(standing: House) -> Iterator[House]:
    """The server; afterwards no hold is open and the books balance: P6 after every promise."""
    standing.alive()
    standing.honest.clear()
    standing.liar.clear()
    yield standing
    standing.alive()
    standing.settled()
    assert standing.differences() == 0


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Chance that can be repeated."""
    print(f"seed {SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What holds answers until it is released, and releases them when the test fails."""
    held = Gate(2)
    yield held
    held.release()
