"""What must not grow with the tables: plans, statements and slices, counted and never timed."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from databases import migrated_sqlite, transaction
from sqlalchemy import text

from chattable.agents.errors import InvalidRequest
from chattable.budget import operations, verification
from chattable.budget.ledger import Charge, Difference, HoldRequest, UsageRow
from chattable.budget.limits import MAX_AMOUNT, Limit, Payer
from chattable.budget.sql_ledger import SqlLedger
from chattable.budget.storage.statements import Row, Steps
from chattable.proxy.people import usage as reports
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.usage import Report, UsageReports
from chattable.proxy.people.users import Users
from chattable.proxy.routes.admin.budgets import shown_budgets
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import Retention
from chattable.proxy.store.sessions.sql_store import SqlSessions

GROWING = "calls|entries|accounts|limits|users|keys|sessions|session_messages|audit|notices"
# Reads a whole table, or sorts what it has found of one.
WHOLE = re.compile(rf"SCAN (?:{GROWING})(?! USING (?:COVERING )?INDEX)")

Spied = Callable[[Callable[[], Steps[Any]]], Callable[[], Steps[Any]]]


class Statements:
    """Everything that a database is asked from now on."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.seen: list[tuple[str, Row]] = []
        self.written = 0  # operations that a writer had to wait for
        storage = database.storage
        self._read, run = storage.read, storage.run

        async def read(operation: Callable[[], Steps[Any]]) -> Any:
            return await self._read(lambda: self._spied(operation()))

        async def write(operation: Callable[[], Steps[Any]]) -> Any:
            self.written += 1
            return await run(lambda: self._spied(operation()))

        monkeypatch.setattr(storage, "read", read)
        monkeypatch.setattr(storage, "run", write)

    def _spied(self, steps: Steps[Any]) -> Steps[Any]:
        try:
            statement = next(steps)
            while True:
                self.seen.append(statement)
                statement = steps.send((yield statement))
        except StopIteration as done:
            return done.value

    async def plans(self) -> list[str]:
        """How SQLite would do what was asked, a line a step."""
        return [
            line
            for sql, given in self.seen
            for *_, line in await self._read(partial(_plan, sql, given))
        ]


def _plan(sql: str, given: Row) -> Steps[Any]:
    return (yield f"EXPLAIN QUERY PLAN {sql}", given)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated SQLite file, whose plans are asked for."""
    database = Database(migrated_sqlite(tmp_path / "chattable.db"))
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
def asked(file: Database, monkeypatch: pytest.MonkeyPatch) -> Statements:
    return Statements(file, monkeypatch)


def of(user: str) -> Payer:
    return Payer(user=user, key=f"key of {user}", team="red")


def wish(name: str, user: str = "alice", model: str = "m") -> HoldRequest:
    return HoldRequest(id=name, payer=of(user), model=model, prompt=10, max_output=20)


async def booked(ledger: SqlLedger, *names: str, user: str = "alice", model: str = "m") -> None:
    for name in names:
        await ledger.hold(wish(name, user, model))
        await ledger.settle(name, Charge(prompt=10, completion=5, cost=3))


async def with_limits(ledger: SqlLedger) -> SqlLedger:
    await ledger.put_limit(Limit(id="each", kind="each_user", subject="", per="day", tokens=10**6))
    await ledger.put_limit(
        Limit(id="all", kind="everyone", subject="", per="total", tokens=10**9, mode="soft")
    )
    return ledger


# --- plans ----------------------------------------------------------------------------------------


def usage_of(*by: str, **only: str) -> Callable[[SqlLedger], Any]:
    """The usage of a day."""
    since = 1_790_000_000
    return lambda ledger: ledger.usage(by, since=since, until=since + 86_400, only=only)


READS: dict[str, Callable[[SqlLedger], Any]] = {
    "usage": usage_of(),
    "usage by day": usage_of("day"),
    "usage by model": usage_of("model"),
    "usage by user and day": usage_of("user", "day"),
    "usage of a user": usage_of("model", user="alice"),
    "the next page of it": lambda ledger: ledger.usage(
        ("user", "day"), since=0, until=MAX_AMOUNT, only={}, after=("alice", 1), most=100
    ),
    "entries": lambda ledger: ledger.entries(),
    "entries of a user": lambda ledger: ledger.entries(user="alice"),
    "entries of a limit": lambda ledger: ledger.entries(limit_id="each", after=7),
    "entries of both": lambda ledger: ledger.entries(limit_id="each", user="alice"),
    "entries of a call": lambda ledger: ledger.entries(hold_id="one"),
    "what a cache saved": lambda ledger: ledger.tokens_saved(),
    "a page of limits": lambda ledger: ledger.storage.read(
        lambda: operations.limit_page(ledger.dialect, "each", 100)
    ),
    "limits of a user": lambda ledger: ledger.storage.read(
        lambda: operations.limit_page(ledger.dialect, subjects=[("user", "alice")])
    ),
    "verify": lambda ledger: ledger.verify(),
    "expired": lambda ledger: ledger.sweep(),
}


@pytest.mark.parametrize("read", READS)
async def test_no_answer_reads_a_whole_table(file: Database, asked: Statements, read: str) -> None:
    await READS[read](await with_limits(SqlLedger(file.storage)))
    assert [line for line in await asked.plans() if WHOLE.match(line)] == []


async def test_days_users_and_limits_are_found_by_index(file: Database, asked: Statements) -> None:
    ledger = SqlLedger(file.storage)
    for read, index in (
        ("usage by model", "ix_calls_day (day>? AND day<?)"),
        ("usage of a user", "ix_calls_user_id_day (user_id=? AND day>? AND day<?)"),
        ("entries of a limit", "ix_entries_limit_id_owner_period_id (limit_id=?)"),
        ("entries of a user", "ix_entries_hold_id (hold_id=? AND rowid>?)"),
    ):
        asked.seen.clear()
        await READS[read](ledger)
        plans = await asked.plans()
        assert any(line.endswith(index) for line in plans), (read, plans)


async def test_a_report_by_user_and_day_is_not_sorted(file: Database, asked: Statements) -> None:
    """So a page of a long one reads no more than its own groups; a short one reads its days."""
    ledger = await with_limits(SqlLedger(file.storage))
    await booked(ledger, "call")
    for read, index in (
        ("the next page of it", "ix_calls_user_id_day ((user_id,day)>(?,?))"),
        ("usage by user and day", "ix_calls_day (day>? AND day<?)"),
    ):
        asked.seen.clear()
        await READS[read](ledger)
        plans = await asked.plans()
        assert any(line.endswith(index) for line in plans), (read, plans)
        assert index.startswith("ix_calls_day") == any("TEMP B-TREE" in line for line in plans)


async def test_entries_of_a_limit_with_many_are_not_sorted(
    file: Database, asked: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await with_limits(SqlLedger(file.storage))
    await booked(ledger, "one", "two")
    few = await READS["entries of a limit"](ledger)
    assert len(few) == 2 * 2 - 3  # each has two entries of this limit, of which three come before
    asked.seen.clear()
    monkeypatch.setattr(operations, "MANY_ENTRIES", 2)
    assert await READS["entries of a limit"](ledger) == few
    plans = await asked.plans()
    assert "SEARCH entries USING INTEGER PRIMARY KEY (rowid>?)" in plans
    assert [line for line in plans if "TEMP B-TREE" in line] == []


async def test_a_sweep_with_nothing_to_do_writes_nothing(file: Database, asked: Statements) -> None:
    store = SqlSessions(file.storage)
    for name in "abc":
        await store.open("alice", name)
    asked.seen.clear()
    asked.written = 0
    for user in ("alice", None):
        assert await store.sweep(Retention(newest=3, seconds=3600), user) == 0
    assert asked.written == 0
    plans = await asked.plans()
    assert [line for line in plans if WHOLE.match(line) or "TEMP B-TREE" in line] == []


async def test_budgets_take_the_same_statements_however_many_they_are(
    file: Database, asked: Statements
) -> None:
    ledger, users = SqlLedger(file.storage), Users(file.storage)
    services: Any = SimpleNamespace(ledger=ledger)
    limits = []
    counts = []
    for number in range(20):
        user = await users.create(f"person {number}", "red")
        limit = Limit(id=f"lim {number}", kind="user", subject=user.id, per="day", tokens=10)
        await ledger.put_limit(limit)
        limits.append(limit)
        asked.seen.clear()
        shown = await file.storage.read(lambda: shown_budgets(services, limits))
        counts.append(len(asked.seen))
        assert [budget.subject for budget in shown] == [
            {"user": f"person {n}"} for n in range(number + 1)
        ]
    assert set(counts) == {3}


# --- verify, in slices ----------------------------------------------------------------------------


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[SqlLedger]:
    opened = await with_limits(SqlLedger(database.storage))
    yield opened
    await opened.stop()


async def execute(database: Database, sql: str) -> None:
    async with transaction(database) as connection:
        await connection.execute(text(sql))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 1000])
async def test_calls_go_on_while_the_ledger_is_verified(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    for user in ("alice", "bob", "carol"):
        await booked(ledger, *(f"{user} {n}" for n in range(4)), user=user)
    await ledger.hold(wish("open", "bob"))
    ledger.slice_rows = rows
    slices, read = 0, ledger.storage.read

    async def and_a_call(operation: Callable[[], Steps[Any]]) -> Any:
        nonlocal slices
        found = await read(operation)
        slices += 1
        if slices == 5:
            await ledger.settle("open", Charge(prompt=10, completion=1))
        if slices <= 20:
            await booked(ledger, f"meanwhile {slices}", user=("alice", "bob")[slices % 2])
        return found

    monkeypatch.setattr(ledger.storage, "read", and_a_call)
    told: list[tuple[int, int, str]] = []
    assert await ledger.verify(lambda *progress: told.append(progress)) == []
    assert slices >= 40 // rows
    assert told[-1][0] == told[-1][1] > 0 and all(done <= total for done, total, _ in told)


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
async def test_what_is_wrong_is_found_in_any_slice(
    database: Database, ledger: SqlLedger, rows: int
) -> None:
    for user in ("alice", "bob", "carol"):
        await booked(ledger, *(f"{user} {n}" for n in range(3)), user=user)
    await ledger.hold(wish("open", "carol"))
    ledger.slice_rows = rows
    assert await ledger.verify() == []
    await execute(database, "UPDATE accounts SET spent_tokens = 46 WHERE owner = 'bob'")
    (wrong,) = await ledger.verify()
    assert (wrong.limit, wrong.owner) == ("each", "bob")
    assert (wrong.balance[0], wrong.entries[0]) == (46, 45)
    await execute(database, "UPDATE accounts SET spent_tokens = 45 WHERE owner = 'bob'")
    # a hold that nobody will ever end
    await execute(database, "UPDATE calls SET state = 'settled' WHERE id = 'open'")
    assert [(one.limit, one.owner, one.entries) for one in await ledger.verify()] == [
        ("all", "", (30, 0)),
        ("each", "carol", (30, 0)),
    ]
    await execute(database, "UPDATE calls SET state = 'pending' WHERE id = 'open'")
    await execute(
        database,
        "INSERT INTO accounts VALUES ('each', 'dave', 0, 1, 0, 0, 0, 0, 0)",
    )
    nothing = (0,) * 6
    assert await ledger.verify() == [
        Difference("each", "dave", 0, (1, 0, 0, 0, 0, 0), nothing)
    ]  # of which no entry speaks
    await execute(database, "DELETE FROM accounts WHERE owner IN ('dave', 'alice')")
    (wrong,) = await ledger.verify()  # entries without their account
    assert (wrong.owner, wrong.balance, wrong.entries[0]) == ("alice", nothing, 45)


async def test_no_slice_has_more_rows_than_it_may(ledger: SqlLedger) -> None:
    await booked(ledger, *(f"call {n}" for n in range(10)))
    place: verification.Place | None = verification.Place()
    rows = []
    while place is not None:
        found = await ledger.storage.read(partial(verification.sums, place, 4))
        place = found.next
        rows.append(found.rows)
    assert rows == [4] * 10 + [0]  # two entries for each call and account


# --- usage, in pages ------------------------------------------------------------------------------


async def spent(ledger: SqlLedger) -> None:
    for user in ("alice", "bob", "carol"):
        for model in ("m", "n"):
            await booked(ledger, f"{user} {model}", user=user, model=model)


@pytest.mark.parametrize("by", [("user",), ("user", "day"), ("day", "user"), ("model", "user")])
async def test_pages_of_usage_are_the_whole(ledger: SqlLedger, by: tuple[str, ...]) -> None:
    await spent(ledger)

    async def page(after: tuple[str | int, ...], most: int) -> list[UsageRow]:
        return await ledger.usage(by, since=0, until=MAX_AMOUNT, only={}, after=after, most=most)

    whole = await page((), MAX_AMOUNT)
    for most in (1, 2, 4):
        rows: list[UsageRow] = []
        while found := await page(rows[-1].group if rows else (), most):
            assert len(found) <= most
            rows += found
        assert rows == whole


async def test_a_report_is_read_page_by_page(
    database: Database, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spent(ledger)
    usage = UsageReports(ledger, Users(database.storage), Teams(database.storage), UTC)
    asked = Report(by=["user", "day", "model"])
    whole, last = await usage.page(asked, 6)
    assert (len(whole), last) == (6, "")
    monkeypatch.setattr(reports, "PAGE_ROWS", 4)
    assert [rows async for rows in usage.pages(asked)] == [whole[:4], whole[4:]]
    first, last = await usage.page(asked, 1)
    assert (first, await usage.page(asked, 5, last)) == (whole[:1], (whole[1:], ""))


@pytest.mark.parametrize(
    "after",
    ["?", "x", "bnVsbA", "W10", "WzEsMl0", "WyJhIiwiYiJd", "WyJcdTAwMDAiLDFd", "WyJhIiwtMV0", "é"],
)
async def test_a_cursor_that_is_none_is_refused(
    database: Database, ledger: SqlLedger, after: str
) -> None:
    usage = UsageReports(ledger, Users(database.storage), Teams(database.storage), UTC)
    with pytest.raises(InvalidRequest) as refused:
        await usage.page(Report(by=["user", "day"]), 10, after)
    assert refused.value.param == "after"
