"""The law of `Audit`, on both databases."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from databases import transaction
from sqlalchemy import text

from chattable.agents.errors import InvalidRequest
from chattable.budget.storage.errors import StorageUnavailable
from chattable.budget.storage.statements import Steps
from chattable.proxy.errors import outcome_of
from chattable.proxy.people.audit import AUDIT_ID, COMMAND_LINE, Actor, Audit, AuditEntry, Effect
from chattable.proxy.people.users import Users
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, Invalid, NotFound

BOSS = Actor("user_1", "boss", "req_1")
SECRET = "sk-" + "Qx7_" * 10


class Clock:
    """A clock that a test sets."""

    now = 1_900_000_000.0
    wall = 0.0  # how far the wall's clock was set

    def __call__(self) -> float:
        return self.now + self.wall

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(database: Database, clock: Clock) -> Audit:
    return Audit(database.storage, outcome_of, clock, clock.monotonic)


@pytest.fixture
async def onlooker(database: Database, url: str) -> AsyncIterator[Audit]:
    """The same trail over connections of its own."""
    other = Database(url)
    await other.start()
    yield Audit(other.storage, outcome_of)
    await other.stop()


async def only(audit: Audit) -> AuditEntry:
    [entry] = (await audit.list()).data
    return entry


async def note(
    audit: Audit,
    action: str = "user.update",
    actor: Actor = BOSS,
    target: str = "",
    found: str = "",
) -> None:
    async with audit.entry(actor, action, target) as effect:
        if found:
            effect.about(found, target)


# --- before and after -----------------------------------------------------------------------------


async def test_an_entry_is_there_before_its_change_and_complete_after(
    audit: Audit, onlooker: Audit
) -> None:
    async with audit.entry(
        BOSS, "user.create", "alice", {"team": "red", "admin": False, "name": None}
    ) as effect:
        begun = await only(onlooker)
        assert (begun.outcome, begun.target, begun.target_name) == ("begun", None, "alice")
        effect.about("user_2", "alice")
    done = await only(onlooker)
    assert done.id.startswith(AUDIT_ID)
    assert (done.actor, done.actor_name, done.request_id) == ("user_1", "boss", "req_1")
    assert (done.at, done.action, done.target, done.target_name) == (
        1_900_000_000,
        "user.create",
        "user_2",
        "alice",
    )
    assert (done.details, done.outcome) == ({"team": "red", "admin": False, "name": None}, "done")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            Conflict("There is a user named 'alice' already.", "name"),
            "refused: There is a user named 'alice' already.",
        ),
        (InvalidRequest("Give one.\0", param="x"), "refused: Give one.\ufffd"),
        (NotFound("user", "n" * 9999), f"refused: No user has the id or name '{'n' * 463}…"),
        (
            StorageUnavailable("postgresql://db.example: gone"),
            "failed: The database is unavailable. Please retry your request.",
        ),
        (
            ZeroDivisionError("a secret of the code"),
            "failed: The server had an error while processing your request.",
        ),
    ],
)
async def test_a_change_that_fails_leaves_its_entry(
    audit: Audit, error: Exception, outcome: str
) -> None:
    with pytest.raises(type(error)) as raised:
        async with audit.entry(BOSS, "user.create", "alice"):
            raise error
    assert raised.value is error
    entry = await only(audit)
    assert (entry.outcome, entry.target) == (outcome, None)


async def test_a_change_that_is_broken_off_stays_begun(audit: Audit) -> None:
    inside = asyncio.Event()

    async def change() -> None:
        async with audit.entry(BOSS, "user.create", "alice"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(change())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await only(audit)).outcome == "begun"


async def test_without_an_entry_there_is_no_change(audit: Audit, database: Database) -> None:
    users = Users(database.storage)
    async with transaction(database) as connection:
        await connection.execute(text("ALTER TABLE audit RENAME TO gone"))
    with pytest.raises(StorageUnavailable):
        async with audit.entry(BOSS, "user.create", "alice"):
            await users.create("alice")
    assert await users.count() == 0


async def test_a_change_stands_though_its_entry_cannot_be_closed(
    audit: Audit, database: Database, caplog: Any
) -> None:
    async with audit.entry(BOSS, "user.create", "alice"):
        await Users(database.storage).create("alice")
        async with transaction(database) as connection:
            await connection.execute(text("ALTER TABLE audit RENAME TO gone"))
    assert await Users(database.storage).count() == 1
    assert "stays begun" in caplog.text


# --- what an entry may hold -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "\x00",
        "a\x00b",
        "\ud800",
        "x\udfff",
        "a\u2028b\n",
        "n" * 100_000,
        "'; DROP TABLE audit;--",
    ],
)
async def test_whatever_was_asked_can_be_written_and_sent(audit: Audit, hostile: str) -> None:
    await note(audit, target=hostile, found=hostile)
    async with audit.entry(BOSS, "x", hostile, {"a": hostile, "b": [hostile, {hostile: hostile}]}):
        pass
    for entry in (await audit.list()).data:
        told = json.dumps(
            [entry.target, entry.target_name, entry.details], ensure_ascii=False
        ).encode()
        assert b"\\u0000" not in told and len(told) < 4000


async def test_details_are_bounded_and_every_reader_takes_them(audit: Audit) -> None:
    details = {
        "many": ["m" * 300] * 1000,
        "huge": 10**5000,
        "big": -(2**63),
        "some": 2**53,
        "cost": 0.25,
        "no": None,
    }
    async with audit.entry(BOSS, "x", "", details | {f"k{i}": i for i in range(1000)}):
        pass
    told = (await only(audit)).details
    assert (len(told), len(told["many"]), told["many"][-1], told["many"][0]) == (
        50,
        51,
        "…",
        "m" * 200 + "…",
    )
    assert (told["huge"], told["big"]) == ("out of range", "out of range")
    assert (told["some"], told["cost"], told["no"]) == (2**53, 0.25, None)


async def test_a_secret_that_was_taken_for_a_name_is_masked(audit: Audit) -> None:
    with pytest.raises(NotFound):
        async with audit.entry(BOSS, "key.revoke", f"my {SECRET}", {"user": SECRET}) as effect:
            effect.about(SECRET, SECRET)
            raise NotFound("key", SECRET)
    entry = repr(await only(audit))
    assert SECRET[7:-4] not in entry
    assert entry.count("sk-Qx7_…Qx7_") == 4


async def test_names_are_kept_to_the_code_point(audit: Audit) -> None:
    for name in ("👩\u200d💻", "e\u0301", "\u00adx", "Ω" * 200):
        await note(audit, target=name, found="user_1")
        assert (await audit.list(target=name)).data[0].target_name == name


# --- reading --------------------------------------------------------------------------------------


async def test_entries_come_newest_first_in_pages(audit: Audit) -> None:
    for i in range(7):
        await note(audit, target=f"t{i}")
    seen: list[str] = []
    after = None
    for more in (True, True, False):
        page = await audit.list(3, after)
        assert page.has_more == more
        seen += [entry.target_name for entry in page.data]
        after = page.data[-1].id
    assert seen == [f"t{i}" for i in reversed(range(7))]


async def test_entries_are_found_by_who_what_and_when(audit: Audit, clock: Clock) -> None:
    await note(audit, "user.create", target="alice", found="user_a")
    clock.now += 100
    await note(audit, "key.create", COMMAND_LINE, target="laptop", found="key_1")
    clock.now += 100
    await note(audit, "user.delete", Actor("user_2", "zoe"), target="alice", found="user_a")

    async def found(**wanted: Any) -> list[str]:
        return [entry.action for entry in (await audit.list(**wanted)).data]

    assert await found() == ["user.delete", "key.create", "user.create"]
    assert await found(actor="boss") == await found(actor="user_1") == ["user.create"]
    assert await found(actor="command line") == await found(action="key.create") == ["key.create"]
    assert (
        await found(target="alice")
        == await found(target="user_a")
        == ["user.delete", "user.create"]
    )
    assert await found(target="alice", actor="zoe") == ["user.delete"]
    assert await found(target="ALICE") == await found(target="%") == []
    start = 1_900_000_000
    assert await found(since=start + 100) == ["user.delete", "key.create"]
    assert await found(until=start + 100) == ["user.create"]
    assert await found(since=start, until=start + 200) == ["key.create", "user.create"]


@pytest.mark.parametrize("bad", ["\x00", "\ud800", "a\nb"])
async def test_what_no_entry_holds_is_refused_by_field(audit: Audit, bad: str) -> None:
    for field in ("actor", "action", "target"):
        with pytest.raises(Invalid) as refused:
            await audit.list(**{field: bad})  # type: ignore[arg-type]
        assert refused.value.field == field
    for after in (bad, AUDIT_ID + bad, "", "user_1"):
        with pytest.raises(Invalid) as refused:
            await audit.list(after=after)
        assert refused.value.field == "after"
    for limit in (0, 1001):
        with pytest.raises(Invalid, match="limit"):
            await audit.list(limit)


# --- attempts -------------------------------------------------------------------------------------


async def test_attempts_are_noted_once_per_key_and_minute(audit: Audit, clock: Clock) -> None:
    mallory = Actor("user_m", "mallory", "req_9")
    await asyncio.gather(*(audit.denied(mallory, "key_1", f"GET /admin/{i}\0") for i in range(50)))
    await audit.denied(mallory, "key_2", "GET /admin/users")
    clock.now += 50
    await audit.denied(mallory, "key_1", "again")
    assert len((await audit.list()).data) == 2
    clock.now += 11
    await audit.denied(mallory, "key_1", "later")
    last, *_, first = (await audit.list(action="denied", actor="mallory")).data
    assert (first.target_name, first.outcome, first.details) == (
        "GET /admin/0\ufffd",
        "refused: not an admin",
        {"key": "key_1"},
    )
    assert last.target_name == "later"


async def test_f6_attempts_are_noted_again_though_the_clock_was_set_back(
    audit: Audit,
    clock: Clock,
) -> None:
    await audit.denied(BOSS, "key_1", "before")
    clock.wall -= 3600
    await audit.denied(BOSS, "key_1", "at once")
    clock.now += 61
    await audit.denied(BOSS, "key_1", "later")
    assert {entry.target_name for entry in (await audit.list()).data} == {"before", "later"}


async def test_what_is_remembered_of_attempts_is_bounded(
    audit: Audit, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chattable.proxy.people.audit.MAX_QUIET_KEYS", 3)
    for i in range(10):
        await audit.denied(BOSS, f"key_{i}", "x")
    assert len((await audit.list()).data) == 3
    clock.now += 61
    for i in range(10):
        await audit.denied(BOSS, f"key_{i}", "x")
    assert len((await audit.list()).data) == 6


async def test_an_attempt_that_cannot_be_noted_is_none_the_less_refused(
    audit: Audit, database: Database, caplog: Any
) -> None:
    async with transaction(database) as connection:
        await connection.execute(text("ALTER TABLE audit RENAME TO gone"))
    await audit.denied(BOSS, "key_1", "GET /admin/users")
    assert "is not in the audit trail" in caplog.text


# --- a change and its entry at once ---------------------------------------------------------------


def adding(effect: Effect, name: str = "alice") -> Steps[str]:
    """Adds a user, and says so."""
    yield (
        "INSERT INTO users (id, name, disabled, admin, created_at)"
        " VALUES (:id, :id, :off, :off, 1)",
        {"id": name, "off": False},
    )
    effect.about(f"user_{name}", name)
    return name


async def test_a_change_and_its_entry_are_there_at_once(audit: Audit, database: Database) -> None:
    assert await audit.recorded(BOSS, "user.create", "ALICE", {"name": "alice"}, adding) == "alice"
    assert await Users(database.storage).count() == 1
    (entry,) = (await audit.list()).data
    assert (entry.outcome, entry.target, entry.target_name) == ("done", "user_alice", "alice")
    assert entry.details == {"name": "alice"}


async def test_a_change_that_is_refused_has_its_entry_and_did_nothing(
    audit: Audit, database: Database
) -> None:
    def refused(effect: Effect) -> Steps[None]:
        yield from adding(effect)
        raise NotFound("budget", "x")

    with pytest.raises(NotFound):
        await audit.recorded(BOSS, "budget.create", "user alice", {}, refused)
    assert await Users(database.storage).count() == 0
    (entry,) = (await audit.list()).data
    assert entry.outcome == "refused: No budget has the id or name 'x'."
    assert entry.target == "user_alice"


async def test_where_no_entry_can_be_written_nothing_changes(
    audit: Audit, database: Database
) -> None:
    async with transaction(database) as connection:
        await connection.execute(text("ALTER TABLE audit RENAME TO gone"))
    with pytest.raises(StorageUnavailable):
        await audit.recorded(BOSS, "user.create", "alice", {}, adding)
    assert await Users(database.storage).count() == 0
