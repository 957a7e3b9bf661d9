"""The law of `Users`, on both databases."""

import asyncio
import hashlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from databases import in_time, transaction
from sqlalchemy import select, text

from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.people.teams import Teams
from chattable.proxy.people.users import UserRecord, Users
from chattable.proxy.store import tables
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, Invalid, NotFound
from chattable.proxy.store.secret import masked

HOSTILE = [
    "",
    " ",
    " a",
    "a ",
    "a\n",
    "\x00",
    "a\x00b",
    "\ud800",
    "x\udfff",
    "\x7f",
    "\x85",
    "a\u2028b",
    "n" * 201,
]
UNUSUAL = [
    "é",
    "e\u0301",
    "👩\u200d💻 and 😀",
    "'; DROP TABLE users;--",
    "%",
    "_",
    "a/b",
    "Ω" * 200,
    "null",
    "İi",
    "A",
    "a",
]


# Seconds that are past by the test's clock, or none.
NEVER = (-1, 0, 1_900_000_000, 2**63, 253_402_300_800)


class Clock:
    """A clock that a test sets."""

    now = 1_900_000_000.75

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(database: Database, clock: Clock) -> Users:
    return Users(database.storage, clock)


@pytest.fixture
async def other_process(database: Database, url: str) -> AsyncIterator[Users]:
    """The same users over connections of their own, as another worker has them."""
    other = Database(url)
    await other.start()
    yield Users(other.storage)
    await other.stop()


# --- users ----------------------------------------------------------------------------------------


async def test_a_created_user_is_found_by_id_and_by_name(users: Users) -> None:
    alice = await users.create("alice", team="red")
    assert re.fullmatch(r"user_[A-Za-z0-9_-]{24,}", alice.id)
    assert (alice.name, alice.team, alice.disabled, alice.created_at) == (
        "alice",
        "red",
        False,
        1_900_000_000,
    )
    assert await users.get(alice.id) == await users.get("alice") == alice
    assert (await users.create("bob")).team is None


@pytest.mark.parametrize(
    "unknown", ["nobody", "user_nobody", "", "\x00", "\ud800", "alice\x00", "ALICE", "alic_", "%"]
)
async def test_what_names_nobody_is_not_found(users: Users, unknown: str) -> None:
    await users.create("alice")
    for call in (
        users.get(unknown),
        users.update(unknown, team="x"),
        users.update(unknown),
        users.delete(unknown),
        users.list_keys(unknown),
        users.create_key(unknown, name="k"),
    ):
        with pytest.raises(NotFound) as refused:
            await call
        assert (refused.value.what, refused.value.id) == ("user", unknown)
        str(refused.value).encode()  # the message can be sent
    with pytest.raises(NotFound, match="key"):
        await users.revoke_key(unknown)


@pytest.mark.parametrize("name", [*HOSTILE, "user_x"])
async def test_an_unusable_name_is_refused_by_field(users: Users, name: str) -> None:
    with pytest.raises(Invalid) as refused:
        await users.create(name)
    assert refused.value.field == "name"
    str(refused.value).encode()
    await users.create("alice")
    with pytest.raises(Invalid) as refused:
        await users.update("alice", name=name)
    assert refused.value.field == "name"
    assert await users.count() == 1


@pytest.mark.parametrize("bad", HOSTILE)
async def test_an_unusable_team_key_name_or_model_is_refused_by_field(
    users: Users, bad: str
) -> None:
    await users.create("alice")
    for field, call in (
        ("team", users.create("bob", team=bad)),
        ("team", users.update("alice", team=bad)),
        ("name", users.create_key("alice", name=bad)),
        ("models", users.create_key("alice", name="k", models=["fast", bad])),
    ):
        with pytest.raises(Invalid) as refused:
            await call
        assert refused.value.field == field
    assert await users.count() == 1
    assert await users.list_keys("alice") == ()


async def test_unusual_names_are_kept_to_the_code_point_and_apart(users: Users) -> None:
    made = [await users.create(name, team=name) for name in UNUSUAL]
    assert len({user.id for user in made}) == len(UNUSUAL)
    for name, user in zip(UNUSUAL, made, strict=True):
        assert await users.get(name) == user
        assert (user.name, user.team) == (name, name)
        key, _ = await users.create_key(name, name=name, models=[name])
        assert (key.name, key.models) == (name, (name,))


async def test_any_text_is_stored_unchanged_or_refused(users: Users) -> None:
    source = random.Random(20)
    ranges = [
        (0, 0xFF),
        (0xD7F0, 0xE010),
        (0x2000, 0x2070),
        (0xFFF0, 0x1000F),
        (0x1F600, 0x1F64F),
        (0x41, 0x5A),
    ]
    outcomes: Counter[str] = Counter()
    for _ in range(300):
        name = "".join(
            chr(source.randint(*source.choice(ranges))) for _ in range(source.randint(1, 5))
        )
        try:
            user = await users.create(name)
        except (Invalid, Conflict) as refused:
            outcomes[type(refused).__name__] += 1
        else:
            assert await users.get(user.id) == user
            assert user.name == name
            outcomes["stored"] += 1
    assert outcomes["stored"] > 50 < outcomes["Invalid"]


async def test_a_taken_name_is_a_conflict(users: Users) -> None:
    alice, bob = await users.create("alice"), await users.create("bob")
    with pytest.raises(Conflict) as refused:
        await users.create("alice")
    assert refused.value.field == "name"
    with pytest.raises(Conflict) as refused:
        await users.update(bob.id, name="alice")
    assert refused.value.field == "name"
    assert await users.get("alice") == alice
    assert await users.get("bob") == bob
    assert await users.update("alice", name="alice") == alice


async def test_of_creations_at_once_one_succeeds(users: Users, other_process: Users) -> None:
    stores = (users, other_process)
    calls = (stores[i % 2].create("alice") for i in range(20))
    results = in_time(await asyncio.gather(*calls, return_exceptions=True))
    assert Counter(type(result) for result in results) == {
        UserRecord: 1,
        Conflict: len(results) - 1,
    }
    assert await users.count() == 1


async def test_an_update_changes_what_is_given(users: Users) -> None:
    alice = await users.create("alice", team="red")
    assert await users.update("alice") == alice
    renamed = await users.update("alice", name="alicia")
    assert (renamed.id, renamed.name, renamed.team) == (alice.id, "alicia", "red")
    assert (await users.update(alice.id, team=None)).team is None
    assert (await users.update(alice.id, team="blue", disabled=True)).disabled
    seen = await users.get(alice.id)
    assert (seen.name, seen.team, seen.disabled, seen.created_at) == (
        "alicia",
        "blue",
        True,
        alice.created_at,
    )
    with pytest.raises(NotFound):
        await users.get("alice")


async def test_a_deleted_user_takes_the_keys_along(users: Users, database: Database) -> None:
    alice = await users.create("alice")
    await users.create("bob")
    _, gone = await users.create_key("alice", name="k")
    _, stays = await users.create_key("bob", name="k")
    assert await users.delete("alice") == alice
    assert await users.find(gone) is None
    assert await users.find(stays) is not None
    async with transaction(database) as connection:
        assert len((await connection.execute(select(tables.keys))).all()) == 1
    with pytest.raises(NotFound):
        await users.delete("alice")
    assert (await users.create("alice")).id != alice.id


async def test_no_key_outlives_its_user_in_a_race(
    users: Users, other_process: Users, database: Database
) -> None:
    names = [f"user{i}" for i in range(15)]
    for name in names:
        await users.create(name)
    calls = [
        call
        for name in names
        for call in (users.create_key(name, name="k"), other_process.delete(name))
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    made, deleted = results[::2], results[1::2]
    assert {type(result) for result in made if not isinstance(result, StorageUnavailable)} <= {
        tuple,
        NotFound,
    }
    assert {type(result) for result in deleted if not isinstance(result, StorageUnavailable)} == {
        UserRecord
    }
    # Of what a slow database refuses it has done nothing.
    left = {
        name
        for name, result in zip(names, deleted, strict=True)
        if not isinstance(result, UserRecord)
    }
    keys = {
        name for name, result in zip(names, made, strict=True) if isinstance(result, tuple)
    } & left
    assert {user.name for user in (await users.list()).data} == left
    async with transaction(database) as connection:
        assert len((await connection.execute(select(tables.keys))).all()) == len(keys)
    assert {name for name in left if await users.list_keys(name)} == keys


async def test_a_key_for_a_user_who_is_being_deleted_is_for_nobody(
    users: Users, database: Database
) -> None:
    alice = await users.create("alice")
    async with transaction(database) as connection:
        await connection.execute(tables.users.delete())
        key = asyncio.create_task(users.create_key(alice.id, name="k"))
        async with asyncio.timeout(5):
            while not database.is_sqlite and not key.done():  # until it waits for us
                if (
                    await connection.execute(
                        text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                    )
                ).scalar_one():
                    break
    with pytest.raises(NotFound):
        await key


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 20, 21])
async def test_pages_hold_everyone_once_in_a_stable_order(
    users: Users, clock: Clock, size: int
) -> None:
    for i in range(20):
        clock.now += i % 3 == 0  # several share a second
        await users.create(f"user{i}")
    everyone = (await users.list()).data
    assert [user.created_at for user in everyone] == sorted(user.created_at for user in everyone)
    assert len({user.name for user in everyone}) == 20
    page = await users.list(limit=size)
    seen = page.data
    while page.has_more:
        assert len(page.data) == size
        page = await users.list(limit=size, after=seen[-1].id)
        seen += page.data
    assert seen == everyone
    assert (await users.list(after=everyone[-1].id)).data == ()


async def test_an_empty_list_is_a_page_too(users: Users) -> None:
    page = await users.list()
    assert (page.data, page.has_more) == ((), False)
    assert await users.count() == 0


@pytest.mark.parametrize(
    ("limit", "after", "field"),
    [
        (0, None, "limit"),
        (-1, None, "limit"),
        (1001, None, "limit"),
        (5, "user_gone", "after"),
        (5, "\x00", "after"),
    ],
)
async def test_a_page_that_cannot_be_is_refused(
    users: Users, limit: int, after: str | None, field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await users.list(limit=limit, after=after)
    assert refused.value.field == field


# --- keys -----------------------------------------------------------------------------------------


async def test_a_key_is_found_by_its_secret(users: Users) -> None:
    alice = await users.create("alice")
    key, secret = await users.create_key(
        "alice", name="laptop", models=["fast", "openai/*"], expires_at=4_000_000_000, trusted=True
    )
    assert re.fullmatch(r"key_[A-Za-z0-9_-]{24,}", key.id)
    assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", secret)
    assert key.prefix == f"{secret[:7]}…{secret[-4:]}"
    assert (key.user_id, key.name, key.models, key.trusted) == (
        alice.id,
        "laptop",
        ("fast", "openai/*"),
        True,
    )
    assert (key.expires_at, key.revoked_at, key.created_at) == (4_000_000_000, None, 1_900_000_000)
    assert await users.find(secret) == await users.find(f" {secret}\n") == (key, alice)
    plain, other = await users.create_key(alice.id, name="phone")
    assert (plain.models, plain.expires_at, plain.trusted) == (None, None, False)
    assert secret != other
    assert {listed.id for listed in await users.list_keys("alice")} == {key.id, plain.id}


@pytest.mark.parametrize(
    "secret", ["", " ", "sk-unknown", "\x00", "\ud800", "'; --", "x" * 100_000, "sk-" + "é" * 40]
)
async def test_any_other_string_finds_nothing(users: Users, secret: str) -> None:
    await users.create("alice")
    await users.create_key("alice", name="k")
    assert await users.find(secret) is None


async def test_a_secret_in_part_or_in_other_case_finds_nothing(users: Users) -> None:
    await users.create("alice")
    key, secret = await users.create_key("alice", name="k")
    for wrong in (secret[:-1], secret[1:], secret + "x", secret.swapcase(), key.prefix, key.id):
        assert await users.find(wrong) is None
    # nor does a stolen digest
    assert await users.find(hashlib.sha256(secret.encode()).hexdigest()) is None


async def test_a_dead_key_is_found_with_what_is_wrong_with_it(users: Users, clock: Clock) -> None:
    await users.create("alice")
    key, secret = await users.create_key("alice", name="k", expires_at=int(clock.now) + 1)
    clock.now += 60
    revoked = await users.revoke_key(key.id)
    clock.now += 60
    assert await users.revoke_key(key.id) == revoked
    assert revoked.revoked_at == 1_900_000_060
    disabled = await users.update("alice", disabled=True)
    assert await users.find(secret) == (revoked, disabled)
    assert await users.list_keys("alice") == (revoked,)


@pytest.mark.parametrize(
    "secret", ["hunter22", "my pass phrase", "  padded secret  ", "пароль-пароль", "x" * 512]
)
async def test_an_existing_secret_can_be_imported(users: Users, secret: str) -> None:
    alice = await users.create("alice")
    key, kept = await users.create_key("alice", name="old", secret=secret)
    assert kept == secret.strip()
    assert await users.find(secret) == (key, alice)


@pytest.mark.parametrize(
    "secret",
    ["", "1234567", "   1234567   ", "nul\x00inside", "line\nbreak", "\ud800" * 8, "x" * 513],
)
async def test_an_unusable_secret_is_refused_by_field(users: Users, secret: str) -> None:
    await users.create("alice")
    with pytest.raises(Invalid) as refused:
        await users.create_key("alice", name="old", secret=secret)
    assert refused.value.field == "key"
    assert await users.list_keys("alice") == ()


async def test_a_secret_belongs_to_one_key(users: Users, other_process: Users) -> None:
    await users.create("alice")
    await users.create("bob")
    stores = (users, other_process)
    calls = (
        stores[i % 2].create_key(("alice", "bob")[i % 2], name="k", secret="one for all")
        for i in range(10)
    )
    results = in_time(await asyncio.gather(*calls, return_exceptions=True))
    assert Counter(type(result) for result in results) == {tuple: 1, Conflict: len(results) - 1}
    assert len(await users.list_keys("alice") + await users.list_keys("bob")) == 1
    refusal = next(result for result in results if isinstance(result, Conflict))
    assert refusal.field == "key"
    # nor whose it is
    assert not any(word in str(refusal) for word in ("alice", "bob", "one for all"))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"models": []}, "models"),
        ({"models": "fast"}, "models"),
        ({"models": ["m"] * 1001}, "models"),
    ]
    + [({"expires_at": second}, "expires_at") for second in NEVER],
)
async def test_a_key_that_cannot_be_is_refused_by_field(
    users: Users, wrong: dict[str, object], field: str
) -> None:
    await users.create("alice")
    with pytest.raises(Invalid) as refused:
        await users.create_key("alice", name="k", **wrong)  # type: ignore[arg-type]
    assert refused.value.field == field


@pytest.mark.parametrize("length", range(8, 60))
def test_a_masked_secret_shows_a_third_at_most(length: int) -> None:
    secret = "".join(chr(0x100 + i) for i in range(length))
    head, tail = masked(secret).split("…")
    assert len(head) <= 7
    assert len(tail) <= 4
    assert 2 <= len(head) + len(tail) <= length / 3
    assert secret.startswith(head)
    assert secret.endswith(tail)


async def test_the_database_holds_digests_only(users: Users, database: Database, url: str) -> None:
    await users.create("alice")
    secrets = [(await users.create_key("alice", name=f"k{i}"))[1] for i in range(3)]
    secrets.append(
        (await users.create_key("alice", name="imported", secret="my secret pass phrase"))[1]
    )
    rows: list[Any] = []
    async with transaction(database) as connection:
        for table in tables.metadata.sorted_tables:
            rows += (await connection.execute(select(table))).all()
    dump = repr(rows).encode()
    if database.is_sqlite:
        dump += b"".join(
            file.read_bytes() for file in Path(url.removeprefix("sqlite:///")).parent.iterdir()
        )
    for secret in secrets:
        assert secret[7:-4].encode() not in dump
        assert hashlib.sha256(secret.encode()).hexdigest().encode() in dump


async def test_active_are_keys_that_open_something_and_users_who_are_not_disabled(
    users: Users,
    clock: Clock,
) -> None:
    ids = {}
    for name in ("good", "revoked", "expired", "disabled", "deleted"):
        ids[name] = (await users.create(name)).id
        soon = int(clock.now) + 30 if name == "expired" else None
        key, _ = await users.create_key(name, name="k", expires_at=soon)
        ids[f"key of {name}"] = key.id
    everything = {*ids.values(), "user_", "", *(f"key_{i}" for i in range(2500))}
    assert await users.active(everything) == set(ids.values())
    assert await users.active(set()) == set()
    await users.revoke_key(ids["key of revoked"])
    await users.update("disabled", disabled=True)
    await users.delete("deleted")
    clock.now += 30
    found = await users.active(everything)
    assert {name for name, id_ in ids.items() if id_ in found} == {
        "good",
        "key of good",
        "revoked",
        "expired",
    }


# --- the revision ---------------------------------------------------------------------------------


async def test_a_change_of_users_keys_or_teams_changes_the_revision(
    database: Database, users: Users, other_process: Users
) -> None:
    """Law: whoever has read a revision knows of every change before it, whoever made it."""
    teams = Teams(database.storage)
    await users.create("alice", team="red")
    key, _ = await users.create_key("alice", name="k")
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: users.update("alice", disabled=True),
        lambda: users.update("alice", name="alicia"),
        lambda: users.update("alicia", team="blue"),
        lambda: teams.rename("blue", "green"),
        lambda: teams.delete("red"),
        lambda: users.revoke_key(key.id),
        lambda: users.delete("alicia"),
    ]
    seen = [await other_process.revision()]
    for change in changes:
        await change()
        seen.append(await other_process.revision())
    assert len(set(seen)) == len(seen)


async def test_a_change_by_hand_changes_the_revision(database: Database, users: Users) -> None:
    await users.create("alice")
    before = await users.revision()
    async with transaction(database) as connection:
        await connection.execute(text("UPDATE users SET disabled = NOT disabled"))
    assert await users.revision() != before


async def test_what_is_new_does_not_change_the_revision(users: Users) -> None:
    """Law: an end user who comes for the first time costs nobody else a look."""
    before = await users.revision()
    await users.create("alice", team="red")
    await users.create_key("alice", name="k")
    await users.named("bob")
    assert await users.revision() == before


# --- end users ------------------------------------------------------------------------------------


async def test_whoever_is_named_is_made_once(users: Users, other_process: Users) -> None:
    """Law: of many who name an unknown user at once all get the same one."""
    made = await asyncio.gather(*(one.named("bob") for one in (users, other_process) * 4))
    assert len({user.id for user in made}) == 1
    assert await users.named(made[0].id) == made[0]
    assert await users.count() == 1


async def test_an_id_of_nobody_makes_nobody(users: Users) -> None:
    with pytest.raises(Invalid, match="must not begin"):
        await users.named("user_of_nobody")
    assert await users.count() == 0
