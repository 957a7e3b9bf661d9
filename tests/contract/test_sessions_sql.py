"""What sessions cost in SQL: how many statements a turn takes.

None of them reads more of a longer conversation.
"""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from databases import transaction
from msgspec.structs import replace
from session_model import MemorySessions
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from chattable.agents.chat import Message, Usage
from chattable.budget.storage import sqlite
from chattable.budget.storage.statements import Steps
from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import StoreError
from chattable.proxy.store.sessions.chain import paired
from chattable.proxy.store.sessions.port import (
    Committed,
    Item,
    NewItem,
    Retention,
    SessionRecord,
    SessionStore,
    Summary,
    TurnRecord,
    Window,
)
from chattable.proxy.store.sessions.sql_store import SqlSessions

OURS = ("sessions", "session_messages")


class Statement(NamedTuple):
    sql: str
    parameters: Any
    many: bool


@contextmanager
def statements() -> Iterator[list[Statement]]:
    """Collects what every engine is asked meanwhile."""
    seen: list[Statement] = []

    def asked(
        connection: Any, cursor: Any, sql: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if not sql.startswith("BEGIN"):
            seen.append(Statement(sql, parameters, many))

    def noted(steps: Steps[Any]) -> Steps[Any]:
        rows = None
        while True:
            try:
                sql, parameters = next(steps) if rows is None else steps.send(rows)
            except StopIteration as done:
                return done.value
            seen.append(Statement(sql, parameters, False))
            rows = yield sql, parameters

    drive = sqlite.drive
    event.listen(Engine, "before_cursor_execute", asked)
    sqlite.drive = lambda connection, steps: drive(connection, noted(steps))
    try:
        yield seen
    finally:
        sqlite.drive = drive
        event.remove(Engine, "before_cursor_execute", asked)


@pytest.fixture
def store(database: Database) -> SqlSessions:
    return SqlSessions(database.storage)


def entries(first: int, count: int) -> tuple[NewItem, ...]:
    """Alternating messages, each with a number of its own."""
    return tuple(
        NewItem(message=Message("assistant" if i % 2 else "user", f"message {i}"))
        for i in range(first, first + count)
    )


async def long_session(store: SqlSessions, name: str, length: int) -> SessionRecord:
    session = await store.open("user_alice", name)
    for first in range(0, length, 1000):
        turn = TurnRecord(entries=entries(first, min(1000, length - first)), parent=session.head)
        session = (await store.commit(session, turn)).session
    return session


async def append_turn(store: SqlSessions, name: str) -> tuple[list[Statement], list[Statement]]:
    """One turn of a client that sends only what is new: its reading and committing statements."""
    with statements() as reading:
        session = await store.open("user_alice", name)
        locked = await store.lock(session, "holder", 60)
        assert locked is not None
        window = await store.window(locked, messages=50)
    assert len(window.items) == min(50, locked.message_count)
    new = (NewItem(message=Message("user", "new")), NewItem(message=Message("assistant", "answer")))
    with statements() as committing:
        turn = TurnRecord(
            entries=new,
            parent=locked.head,
            head=locked.head,
            key="k",
            holder="holder",
            state={"x": 1},
        )
        await store.commit(locked, turn)
    return reading, committing


async def mirror_turn(
    store: SqlSessions, name: str, messages: list[Message]
) -> tuple[list[Statement], list[Statement]]:
    """One turn of a client that sends everything."""
    with statements() as reading:
        session = await store.open("user_alice", name)
        found = await store.match(session, messages)
    new = (
        *(NewItem(message=message) for message in found.rest),
        NewItem(message=Message("assistant", f"answer to {len(messages)}")),
    )
    with statements() as committing:
        await store.commit(session, TurnRecord(entries=new, parent=found.id, key="m"))
    return reading, committing


async def test_a_turn_takes_three_statements_to_read_and_four_to_commit(store: SqlSessions) -> None:
    await long_session(store, "chat", 20)
    for turn in (
        await append_turn(store, "chat"),
        await mirror_turn(
            store, "chat", [entry.message for entry in entries(0, 20)] + [Message("user", "next")]
        ),
        await mirror_turn(
            store, "chat", [entry.message for entry in entries(0, 7)] + [Message("user", "an edit")]
        ),
        await mirror_turn(store, "chat", [Message("user", "another beginning")]),
    ):
        reading, committing = turn
        assert (1 <= len(reading) <= 3, 1 <= len(committing) <= 4) == (True, True), [
            s.sql for s in reading + committing
        ]
    with statements() as first:
        session = await store.open("user_alice", "unknown yet")
        assert await store.lock(session, "h", 1) is not None
        await store.window(session)
    assert len(first) == 3  # to look, to make, to lock: there is nothing to read


async def test_the_end_that_this_process_wrote_is_not_read_again(store: SqlSessions) -> None:
    """Law: a turn after a turn reads no message, whatever was appended in between here."""
    session = await long_session(store, "chat", 20)
    expected = (await store.window(session, messages=20)).items
    for number in range(3):
        with statements() as seen:
            locked, window = await store.take("user_alice", "chat", "h", 60, messages=20)
        assert window is not None and window.items == expected
        assert any("session_messages" in one.sql for one in seen) == (number == 0)
        said = (NewItem(message=Message("user", f"new {number}")),)
        await store.commit(locked, TurnRecord(entries=said, parent=locked.head, holder="h"))
        session = await store.open("user_alice", "chat")
        expected = (await store.window(session, messages=20)).items
        assert expected[-1].message.content == f"new {number}"


async def test_a_long_conversation_costs_as_many_statements_as_a_short_one(
    store: SqlSessions,
) -> None:
    await long_session(store, "short", 60)
    await long_session(store, "long", 6000)
    for turn in (append_turn(store, "short"), append_turn(store, "long")):
        reading, committing = await turn
        assert (len(reading), len(committing)) == (3, 4)
    for count in (59, 5999):
        with statements() as seen:
            await store.items(await store.open("user_alice", "long"), 100, descending=count == 59)
        assert len(seen) == 2


# --- what a statement reads -----------------------------------------------------------------------


async def work_of(connection: AsyncConnection, statement: Statement, *, sqlite: bool) -> int:
    """Steps of SQLite's machine, or rows that PostgreSQL took from our tables and their indexes."""
    if sqlite:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.set_progress_handler(step, 1)
        await connection.exec_driver_sql(statement.sql, statement.parameters)
        await driver.set_progress_handler(None, 1)
        return steps
    plan = (
        await connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.sql}", statement.parameters
        )
    ).scalar_one()
    return rows_of((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])


def rows_of(node: dict[str, Any]) -> int:
    own = 0
    if "Scan" in node["Node Type"] and node.get("Relation Name") in OURS:
        loops = node["Actual Loops"]
        own = round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * loops) + loops
    if node["Node Type"] == "Bitmap Index Scan":
        own = round(node["Actual Rows"] * node["Actual Loops"])
    return own + sum(rows_of(child) for child in node.get("Plans", ()))


async def plan_of(connection: AsyncConnection, statement: Statement, *, sqlite: bool) -> list[str]:
    """The tables that a statement reads from one end to the other."""
    parameters = statement.parameters[0] if statement.many else statement.parameters
    if sqlite:
        rows: Any = await connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {statement.sql}", parameters
        )
        names = {"m", "n", "s", "a", *OURS}
        return [row[3] for row in rows if row[3].startswith("SCAN") and row[3].split()[1] in names]
    found = (
        await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement.sql}", parameters)
    ).scalar_one()
    return scans_of((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def scans_of(node: dict[str, Any]) -> list[str]:
    own = (
        [node["Relation Name"]]
        if node["Node Type"] == "Seq Scan" and node.get("Relation Name") in OURS
        else []
    )
    return own + [name for child in node.get("Plans", ()) for name in scans_of(child)]


async def crowded(database: Database, session: SessionRecord, count: int = 5000) -> None:
    """Gives the session's user so many more, empty ones."""
    own = {
        "id": "s.id || n.i",
        "alias": "s.alias || n.i",
        "alias_digest": "'x' || n.i",
        "head": "NULL",
        "message_count": "0",
    }
    names = [column.name for column in tables.sessions.c]
    taken = ", ".join(
        own.get(name, f"s.{name}").replace("n.i", "CAST(n.i AS VARCHAR)") for name in names
    )
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    copies = f"SELECT {taken} FROM sessions s CROSS JOIN n WHERE s.id = :id"
    statement = f"INSERT INTO sessions ({', '.join(names)}) {numbers} {copies}"
    async with transaction(database) as connection:
        await connection.execute(text(statement), {"id": session.id})


async def analysed(database: Database) -> None:
    """Lets the planner know what there is, as it does by itself after a while."""
    async with transaction(database) as connection:
        for table in OURS:
            await connection.execute(text(f"ANALYZE {table}"))


@pytest.mark.parametrize("informed", [True, False], ids=["analysed", "fresh"])
async def test_reading_and_appending_cost_the_same_at_20_and_at_20_000_messages(
    database: Database, store: SqlSessions, informed: bool
) -> None:
    lengths = {"short": 60, "long": 20_000}
    for name, length in lengths.items():
        await long_session(store, name, length)
    for i in range(20):
        await long_session(store, f"other {i}", 10)
    await crowded(database, await store.open("user_alice", "other 1"))
    if informed:
        await analysed(database)
    work: dict[str, list[int]] = {}
    for name in lengths:
        reading, committing = await append_turn(store, name)
        session = await store.open("user_alice", name)
        middle = (await store.items(session, 1, descending=True)).data[0]
        with statements() as paging:
            await store.items(session, 20, middle.id)
            await store.items(session, 20, descending=False)
            await store.item(session, middle.id)
        edit = [entry.message for entry in entries(0, 40)] + [Message("user", "an edit")]
        matching, branching = await mirror_turn(store, name, edit)
        everything = [*reading, *committing, *paging, *matching, *branching]
        work[name] = []
        for statement in everything:
            async with transaction(database) as connection:
                assert (
                    await plan_of(connection, statement, sqlite=database.is_sqlite) == []
                    or not informed
                ), statement.sql
                if not statement.many and statement.sql.lstrip().startswith(("SELECT", "WITH")):
                    work[name].append(
                        await work_of(connection, statement, sqlite=database.is_sqlite)
                    )
    assert len(work["short"]) == len(work["long"]) >= 10
    for short, long in zip(work["short"], work["long"], strict=True):
        assert long <= 1.5 * short + 20, work


async def test_what_is_read_does_not_grow_with_the_branches_before_the_window(
    database: Database, store: SqlSessions
) -> None:
    session = await store.open("user_alice", "chat")
    work = []
    for i in range(200):
        question = (
            await store.commit(
                session, TurnRecord(entries=(entries(2 * i, 1)), parent=session.head)
            )
        ).session
        await store.commit(
            question,
            TurnRecord(
                entries=(NewItem(message=Message("assistant", f"not {i}")),), parent=question.head
            ),
        )
        good = TurnRecord(
            entries=(NewItem(message=Message("assistant", f"yes {i}")),), parent=question.head
        )
        session = (await store.commit(question, good)).session
        if i in (49, 199):
            await analysed(database)
            with statements() as seen:
                window = await store.window(session, messages=20)
            assert [item.message.text for item in window.items[1::2]] == [
                f"yes {j}" for j in range(i - 9, i + 1)
            ]
            async with transaction(database) as connection:
                work.append(await work_of(connection, seen[0], sqlite=database.is_sqlite))
    assert work[1] <= 1.5 * work[0] + 20, work
    assert session.message_count == 400


async def test_a_conversation_of_20_000_messages_is_all_there(store: SqlSessions) -> None:
    session = await long_session(store, "long", 20_000)
    assert session.message_count == 20_000
    await store.update(
        session, summary=Summary("So far.", (await store.items(session, 100)).data[-1].id)
    )
    found = await store.match(session, [entry.message for entry in entries(0, 20_001)])
    assert (found.id, found.matched, len(found.rest)) == (session.head, 20_000, 1)
    texts: list[str] = []
    async for batch in store.export(session):
        assert len(batch) <= 500
        texts += [item.message.text for item in batch]
    assert texts == [f"message {i}" for i in range(20_000)]
    window = await store.window(await store.open("user_alice", "long"))
    assert (len(window.items), window.summary is not None) == (99, True)
    fork = await store.fork(session)
    assert fork.message_count == 20_000
    assert await store.sweep(Retention(messages=1000), "user_alice", 1) == 1
    assert all(paired([item.message for item in window.items]))


# --- the twin -------------------------------------------------------------------------------------


class Pair:
    """A session in SQL and one in memory, to which the same happens."""

    def __init__(self, sql: SqlSessions, memory: MemorySessions, name: str) -> None:
        self.stores: tuple[SessionStore, ...] = (sql, memory)
        self.name = name

    async def both(self, call: Callable[[SessionStore, SessionRecord], Awaitable[Any]]) -> Any:
        """What the call returns, or how it is refused; the same from both."""
        results = []
        for store in self.stores:
            try:
                result = await call(store, await store.open("user_alice", self.name))
            except StoreError as refused:
                result = (type(refused), str(refused))
            results.append(without_id(result.session if isinstance(result, Committed) else result))
        assert results[0] == results[1]
        return results[0]

    async def exported(self) -> list[Item]:
        """Every message, the same from both."""

        async def everything(store: SessionStore, session: SessionRecord) -> list[Item]:
            items = [item async for batch in store.export(session, 7) for item in batch]
            return sorted(items, key=lambda item: item.id)

        found: list[Item] = await self.both(everything)
        return found


def without_id(result: Any) -> Any:
    return replace(result, id="", alias=None) if isinstance(result, SessionRecord) else result


async def happen(pair: Pair, chance: random.Random, number: int) -> None:
    """Something that clients or users do."""
    items = await pair.exported()
    some = chance.choice(items).id if items else None
    text = chance.choice(["same", "other", f"word {number}"])
    role = chance.choice(["user", "assistant", "tool", "system", "item"])
    message = Message(role, text, tool_call_id="c" if role == "tool" else None)
    if role == "assistant" and chance.random() < 0.5:
        message.tool_calls = [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]
    entry = NewItem(
        message=message,
        tokens=chance.randrange(10),
        incomplete=chance.random() < 0.2,
        usage=Usage(1, 2, 3),
    )
    match chance.randrange(10):
        case 0 | 1 | 2 | 3:
            await pair.both(
                lambda store, s: store.commit(
                    s, TurnRecord(entries=(entry,), parent=s.head, head=s.head, key=text)
                )
            )
        case 4 | 5:
            side = chance.random() < 0.3
            await pair.both(
                lambda store, s: store.commit(
                    s, TurnRecord(entries=(entry, entry), parent=some, side=side)
                )
            )
        case 6:
            await pair.both(lambda store, s: store.commit(s, TurnRecord(parent=some)))
        case 7:
            await pair.both(lambda store, s: store.delete_item(s, some or "msg_none"))
        case 8:
            summary = Summary(f"until {number}", some or "msg_none")
            await pair.both(lambda store, s: store.update(s, summary=summary))
        case _ if number % 7 == 0:
            await pair.both(lambda store, s: store.sweep(Retention(messages=8)))
        case _:
            pair.name, old = f"fork {number}", pair.name
            for store in pair.stores:
                await store.fork(await store.open("user_alice", old), alias=pair.name)


@pytest.mark.parametrize("seed", range(5))
async def test_the_model_in_memory_does_the_same(database: Database, url: str, seed: int) -> None:
    chance = random.Random(seed)
    now = [1e9]
    timeless = Database(url, now="0.0")
    await timeless.start()
    pair = Pair(
        SqlSessions(timeless.storage, lambda: now[0]),
        MemorySessions(lambda: now[0]),
        "first",
    )
    elsewhere = SqlSessions(database.storage, lambda: now[0])  # knows ends that others change

    async def read_by_a_turn(store: SessionStore, _: SessionRecord) -> Window | None:
        name = pair.name
        held, window = await store.take("user_alice", name, "h", 60, messages=most, tokens=tokens)
        await store.unlock(held, "h")
        return window

    for number in range(60):
        now[0] += 1
        await happen(pair, chance, number)
        session = await pair.both(same_session)
        items = await pair.exported()
        most, tokens, at = (
            chance.randrange(1, 12),
            chance.randrange(40),
            chance.choice([None, *(item.id for item in items)]),
        )
        # called at once
        await pair.both(lambda store, s: store.window(s, messages=most))  # noqa: B023
        await pair.both(lambda store, s: store.window(s, messages=most, tokens=tokens, at=at))  # noqa: B023
        read = await pair.both(read_by_a_turn)
        assert await read_by_a_turn(elsewhere, session) == read
        page = await pair.both(lambda store, s: store.items(s, 1000, descending=False))
        assert len(page.data) == session.message_count
        for descending in (True, False):
            await pair.both(lambda store, s: store.items(s, most, at, descending=descending))  # noqa: B023
        cut = chance.randrange(len(page.data) + 1)
        client = [item.message for item in page.data[:cut]] + [Message("user", "an edit")]
        await pair.both(lambda store, s: store.match(s, client))  # noqa: B023
    await timeless.stop()


async def same_session(store: SessionStore, session: SessionRecord) -> SessionRecord:
    return session


# --- several processes ----------------------------------------------------------------------------

WORKER = """
import asyncio, sys
from chattable.agents.chat import Message, Usage
from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.sql_store import SqlSessions
from chattable.proxy.store.sessions.port import NewItem, TurnRecord

async def main(url, name, turns):
    database = Database(url)
    await database.start()
    store = SqlSessions(database.storage)
    print("ready", flush=True)
    sys.stdin.readline()
    session = await store.open("user_alice", "shared")
    for i in range(turns):
        while (locked := await store.lock(session, name, 30)) is None:
            await asyncio.sleep(0.005)
        window = await store.window(locked, messages=1)
        seen = window.items[-1].message.text if window.items else ""
        answer = f"{locked.message_count} {seen}"[:60]
        said = [Message("user", f"{name} {i}"), Message("assistant", answer)]
        entries = tuple(NewItem(message=m) for m in said)
        head = locked.head
        turn = TurnRecord(entries=entries, parent=head, head=head, holder=name)
        await store.commit(locked, turn)
    await database.stop()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture
async def workers(database: Database, url: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    pipe = asyncio.subprocess.PIPE
    made = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, url, f"w{i}", "12", stdin=pipe, stdout=pipe, stderr=pipe
        )
        for i in range(2)
    ]
    yield made
    for process in made:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_processes_take_turns_in_one_session(
    store: SqlSessions, workers: list[asyncio.subprocess.Process]
) -> None:
    for process in workers:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.wait_for(
        asyncio.gather(*(process.communicate(b"go\n") for process in workers)), 60
    )
    assert [process.returncode for process in workers] == [0, 0], ends
    session = await store.open("user_alice", "shared", create=False)
    items = (await store.items(session, 100, descending=False)).data
    texts = [item.message.text for item in items]
    assert session.message_count == len(texts) == 48
    assert sorted(texts[::2]) == sorted(f"w{i} {j}" for i in range(2) for j in range(12))
    for name in ("w0", "w1"):
        assert [text for text in texts[::2] if text.startswith(name)] == [
            f"{name} {j}" for j in range(12)
        ]
    before = ["", *texts[1::2]]
    assert texts[1::2] == [f"{2 * i} {before[i]}"[:60] for i in range(24)]


async def test_a_lock_goes_by_the_databases_own_clock(database: Database) -> None:
    """A worker whose clock is a day wrong neither takes a lock early nor keeps it too long."""
    honest, wrong = SqlSessions(database.storage), SqlSessions(database.storage, lambda: 4e9)
    session = await honest.open("user_alice", "chat")
    assert await honest.lock(session, "a", 60) is not None
    assert await wrong.lock(session, "b", 60) is None
    assert await honest.lock(session, "a", -1) is not None  # over already
    assert await wrong.lock(session, "b", 60) is not None
