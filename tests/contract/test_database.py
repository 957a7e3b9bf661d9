"""The law of `Database`: addresses, migrations and outages, on both databases."""

import asyncio
import shutil
import sqlite3
import stat
import sys
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from databases import Wire, execute, transaction
from sqlalchemy import Connection, inspect, text

from chattable.budget.storage.errors import StorageUnavailable
from chattable.budget.storage.sqlite import prepare
from chattable.budget.storage.statements import Steps, one
from chattable.proxy.people.users import Users
from chattable.proxy.store import schema, tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Invalid

# Keeps SQLite busy for a moment.
COUNTING = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000)"
    " SELECT sum(i) FROM n"
)

NAP = "SELECT CAST(pg_sleep(9) AS TEXT)"


def asked(statement: str) -> Steps[Any]:
    """What a statement is answered."""
    return (yield statement, {})


def adding() -> Steps[None]:
    """Adds a user."""
    row = {"id": "user_x", "name": "x", "disabled": False, "admin": False, "created_at": 1}
    yield (
        "INSERT INTO users (id, name, disabled, admin, created_at)"
        " VALUES (:id, :name, :disabled, :admin, :created_at)",
        row,
    )


@asynccontextmanager
async def napping(database: Database) -> AsyncIterator[None]:
    """Keeps one of the connections to a PostgreSQL busy."""
    inside = asyncio.Event()

    def operation() -> Steps[None]:
        yield "SELECT 1", {}
        inside.set()
        yield NAP, {}

    nap = asyncio.create_task(database.storage.read(operation))
    await inside.wait()
    try:
        yield
    finally:
        nap.cancel()
        await asyncio.wait([nap])


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite://", "sqlite://"),
        ("sqlite:///chat.db", "sqlite:///chat.db"),
        ("sqlite+aiosqlite:////var/chat.db", "sqlite:////var/chat.db"),
        ("postgresql://me:hunter22@db.example/chat", "postgresql://me:***@db.example/chat"),
        ("postgres://me:hunter22@db.example:5433/chat", "postgresql://me:***@db.example:5433/chat"),
        (
            "postgresql+asyncpg://me@db/chat?password=hunter22&sslmode=require",
            "postgresql://me@db/chat",
        ),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    database = Database(url)
    assert str(database) == shown
    assert repr(database) == f"Database({shown})"
    assert database.is_sqlite == url.startswith("sqlite")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "chat.db",
        "mysql://me:hunter22@db/chat",
        "postgresql+psycopg2://me:hunter22@db/chat",
        "postgresql://me:x@hunter22@db/chat",
        "postgresql://me:x@y/hunter22@db/chat",
        "postgresql://me@db:hunter22/chat",
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        Database(url)
    assert refused.value.field == "database_url"
    assert "hunter22" not in "".join(traceback.format_exception(refused.value))


async def test_a_refused_connection_does_not_tell_the_password() -> None:
    database = Database("postgresql://me:hunter22@127.0.0.1:1/chat?password=hunter22")
    with pytest.raises(StorageUnavailable) as refused:
        await database.storage.ping()
    assert "hunter22" not in "".join(traceback.format_exception(refused.value))
    await database.stop()


# --- migrations -----------------------------------------------------------------------------------


async def test_a_migrated_database_is_what_the_tables_say(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)
        )

    assert await database.storage.alter(differences) == []
    async with transaction(database) as connection:
        await connection.execute(text("ALTER TABLE users ADD COLUMN surplus VARCHAR"))
    assert len(await database.storage.alter(differences)) == 1  # the comparison sees something


async def test_migrating_twice_does_nothing_the_second_time(empty: Database) -> None:
    said: list[tuple[int, int, str]] = []
    assert await empty.version() is None
    assert not await empty.up_to_date()
    await empty.migrate(lambda *step: said.append(step))
    assert said[0] == (1, len(said), "migrating to 0001 users and keys")
    assert await empty.version() == schema.head()
    assert await empty.up_to_date()
    said.clear()
    await Users(empty.storage).create("alice")
    await empty.migrate(lambda *step: said.append(step))
    assert said == []
    assert await Users(empty.storage).count() == 1


async def test_of_connections_that_migrate_at_once_one_does_the_work(
    empty: Database, empty_url: str
) -> None:
    said: list[tuple[int, int, str]] = []
    others = [Database(empty_url) for _ in range(3)]
    await asyncio.gather(*(other.start() for other in others))
    await asyncio.gather(
        *(database.migrate(lambda *step: said.append(step)) for database in (empty, *others))
    )
    assert sorted(said) == sorted(set(said))
    assert (1, len(said), "migrating to 0001 users and keys") in said
    assert all([await database.up_to_date() for database in (empty, *others)])
    await asyncio.gather(*(other.stop() for other in others))


async def test_of_processes_that_migrate_at_once_one_does_the_work(empty_url: str) -> None:
    program = """
import asyncio, sys
from chattable.proxy.store.database import Database
async def main():
    database = Database(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await database.start()
    await database.migrate(print)
    assert await database.up_to_date()
    await database.stop()
asyncio.run(main())
"""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-c", program, empty_url]
    processes = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    lines = [line for out, _ in ends for line in out.decode().splitlines()]
    assert lines.count(f"1 {len(lines)} migrating to 0001 users and keys") == 1
    assert len(lines) == len(set(lines))


@pytest.fixture
def next_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a migration behind the newest one; the test writes it."""
    folder = tmp_path / "100%scripts"
    shutil.copytree(schema.SCRIPTS, folder)
    head = schema.head()
    monkeypatch.setattr(schema, "SCRIPTS", folder)
    script = folder / "versions" / "9000_next.py"
    script.write_text(
        '"""next"""\nimport sqlalchemy as sa\nfrom alembic import op\n'
        f'revision = "9000"\ndown_revision = "{head}"\n'
    )
    return script


async def test_a_migration_that_fails_leaves_nothing_behind(
    empty: Database, next_script: Path
) -> None:
    with next_script.open("a") as file:
        file.write(
            'def upgrade():\n    op.create_table("half", sa.Column("id", sa.Integer))\n    1 / 0\n'
        )
    with pytest.raises(ZeroDivisionError):
        await empty.migrate()
    assert await empty.version() is None
    assert await empty.storage.alter(lambda sync: inspect(sync).get_table_names()) == []


async def test_rebuilding_a_table_keeps_the_rows_that_refer_to_it(
    database: Database, next_script: Path
) -> None:
    users = Users(database.storage)
    await users.create("alice")
    _, secret = await users.create_key("alice", name="k")
    with next_script.open("a") as file:
        file.write(
            'def upgrade():\n    with op.batch_alter_table("users", recreate="auto") as batch:\n'
        )
        file.write('        batch.alter_column("team", type_=sa.Text())\n')
    assert not await database.up_to_date()
    await database.migrate()
    assert await database.version() == "9000"
    assert await users.find(secret) is not None
    await users.delete("alice")
    assert await users.find(secret) is None


async def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    async with transaction(database) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not await database.up_to_date()
    with pytest.raises(Invalid, match="9999") as refused:
        await database.migrate()
    assert refused.value.field == "database_url"
    assert await database.version() == "9999"


# --- transactions ---------------------------------------------------------------------------------


async def test_a_failed_transaction_leaves_nothing_behind(database: Database) -> None:
    def failing() -> Steps[None]:
        yield from adding()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.storage.run(failing)
    together = [database.storage.run(failing if i % 2 else one) for i in range(6)]
    ends = await asyncio.gather(*together, return_exceptions=True)
    assert [type(end) for end in ends] == [int, ZeroDivisionError] * 3
    with suppress(StorageUnavailable):  # SQLite refuses, PostgreSQL rolls back
        await database.storage.read(adding)
    assert await Users(database.storage).count() == 0


async def test_what_is_wrong_with_a_statement_is_no_outage(database: Database) -> None:
    with pytest.raises(Exception, match="syntax") as failed:
        await database.storage.read(lambda: asked("SELEKT 1"))
    # which says OperationalError to everything
    assert isinstance(failed.value, StorageUnavailable) == database.is_sqlite


async def test_before_the_migration_the_message_names_the_command(empty: Database) -> None:
    await empty.storage.ping()
    with pytest.raises(StorageUnavailable, match="chattable migrate"):
        await Users(empty.storage).count()


# --- SQLite ---------------------------------------------------------------------------------------


async def test_a_sqlite_file_is_private_and_set_up_for_many_readers(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/chat.db")
    await database.start()
    expected = {
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 5000,
        "synchronous": 1,
    }
    for way, query_only in ((database.storage.run, 0), (database.storage.read, 1)):
        for pragma, value in (expected | {"query_only": query_only}).items():
            assert await way(partial(asked, f"PRAGMA {pragma}")) == [(value,)]
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    await database.stop()


def test_processes_that_make_one_file_at_once_all_get_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as threads:
        for i in range(80):
            together = Barrier(6)

            def make(file: str, together: Barrier = together) -> None:
                together.wait(10)
                prepare(file)

            list(threads.map(make, [f"{tmp_path}/{i}.db"] * 6))


async def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/chat.db")
    await database.start()
    await database.migrate()
    async with transaction(database) as connection:
        await connection.execute(
            tables.users.insert().values(
                id="user_x", name="x", disabled=False, admin=False, created_at=1
            )
        )
        assert await Users(database.storage).count() == 0
    assert await Users(database.storage).count() == 1
    await database.stop()


async def test_a_sqlite_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"folder .*missing does not exist"):
        await Database(f"sqlite:///{tmp_path}/missing/chat.db").start()
    with pytest.raises(StorageUnavailable):
        await Database(f"sqlite:///{tmp_path}").start()
    (tmp_path / "letter.txt").write_bytes(b"Dear database, " * 1000)
    with pytest.raises(StorageUnavailable, match="not a database"):
        await Database(f"sqlite:///{tmp_path}/letter.txt").start()


async def test_a_sqlite_that_is_damaged_under_way_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/chat.db")
    await database.start()
    await database.migrate()
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xff" * file.stat().st_size)
    for call in (
        database.storage.ping(),
        database.version(),
        Users(database.storage).create("alice"),
        database.migrate(),
    ):
        with pytest.raises(StorageUnavailable):
            await call
    await database.stop()


async def test_memory_is_shared_by_one_database_and_survives_a_cancelled_request() -> None:
    first, two = Database("sqlite://"), Database("sqlite://")
    for database in (first, two):
        await database.start()
        await database.migrate()
    users = Users(first.storage)
    await asyncio.gather(*(users.create(f"user{i}") for i in range(30)))

    def request() -> Steps[None]:
        yield "DELETE FROM users", {}
        yield COUNTING, {}

    task = asyncio.create_task(first.storage.run(request))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await users.count() == 0  # what was asked is done wholly
    await users.create("alice")
    assert await Users(two.storage).count() == 0
    await first.stop()
    await two.stop()


# --- PostgreSQL -----------------------------------------------------------------------------------


async def test_a_postgres_that_is_gone_is_unavailable_and_comes_back(postgres_url: str) -> None:
    async with Wire(postgres_url) as wire:
        database = Database(wire.url)
        await database.start()
        await database.migrate()
        users = Users(database.storage)
        await users.create("alice")
        await wire.cut()
        for call in (
            users.get("alice"),
            users.create("bob"),
            users.find("sk-anything"),
            database.storage.ping(),
            database.version(),
            database.up_to_date(),
            database.migrate(),
        ):
            with pytest.raises(StorageUnavailable):
                await asyncio.wait_for(call, 5)
        await wire.mend()
        assert (await users.get("alice")).name == "alice"
        await database.storage.ping()
        await database.stop()


async def test_a_postgres_that_goes_amid_a_transaction_is_unavailable(postgres_url: str) -> None:
    async with Wire(postgres_url) as wire:
        database = Database(wire.url)
        await database.migrate()
        cuts = []

        def operation() -> Steps[None]:
            yield "DELETE FROM users", {}
            cuts.append(asyncio.create_task(wire.cut()))
            yield NAP, {}

        with pytest.raises(StorageUnavailable):
            await database.storage.run(operation)
        await asyncio.gather(*cuts)
        await database.stop()


async def test_a_restarted_postgres_costs_no_request(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.migrate()
    users = Users(database.storage)
    await asyncio.gather(*(users.count() for _ in range(5)))
    await execute(
        postgres_url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert await asyncio.gather(*(users.count() for _ in range(5))) == [0] * 5
    await database.stop()


async def test_when_every_connection_is_busy_the_wait_is_short(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=2)
    async with napping(database), napping(database):
        with pytest.raises(StorageUnavailable, match="busy"):
            await asyncio.wait_for(database.storage.ping(), 2)
    await database.storage.ping()
    await database.stop()


async def test_what_keeps_postgres_from_serving_is_said(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    await database.migrate()
    assert await database.storage.trouble() == ""
    async with napping(database):
        assert await database.storage.trouble() == "has no free connection"
    await database.stop()
    await execute(
        postgres_url,
        "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database())"
        " || ' SET default_transaction_read_only = on'; END $$",
    )
    replica = Database(postgres_url)
    assert await replica.storage.trouble() == "is read-only, as a replica is"
    await replica.stop()
    nowhere = Database("postgresql://me@127.0.0.1:1/chat")
    assert await nowhere.storage.trouble() == "does not answer"
    await nowhere.stop()


async def test_what_keeps_a_sqlite_file_from_being_written_is_said(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    await database.start()
    await database.migrate()
    assert await database.storage.trouble() == ""
    backup = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    backup.execute("BEGIN IMMEDIATE")
    assert (await database.storage.trouble()).startswith("is locked")
    backup.execute("ROLLBACK")
    backup.close()
    assert await database.storage.trouble() == ""
    await database.stop()


async def test_a_locked_row_holds_up_its_own_requests_only(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.migrate()
    users = Users(database.storage)
    await users.create("alice")
    await users.create("bob")
    async with transaction(database) as connection:
        await connection.execute(
            tables.users.select().where(tables.users.c.name == "alice").with_for_update()
        )
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            await asyncio.wait_for(users.update("alice", disabled=True), 5)
        assert (await users.update("bob", disabled=True)).disabled
    assert (await users.update("alice", disabled=True)).disabled
    await database.stop()


async def test_a_postgres_without_our_database_is_unavailable(
    postgres: str, postgres_url: str
) -> None:
    for url in (
        f"{postgres_url}&sslmode=nonsense",
        f"{postgres_url}&no_such_setting=1",
        postgres_url.replace("test_", "no_"),
    ):
        database = Database(url)
        with pytest.raises(StorageUnavailable):
            await database.storage.ping()
        await database.stop()


async def test_nobody_waits_for_a_database_that_was_stopped(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    await database.start()
    for way in (database.storage.run, database.storage.read):
        assert await way(one) == 1
    await database.stop()
    async with asyncio.timeout(5):
        for way in (database.storage.run, database.storage.read):
            with pytest.raises(StorageUnavailable):
                await way(one)
