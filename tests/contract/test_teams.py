"""The law of `Teams` and of users in them, on both databases.

And of the migration that made rows of names.
"""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import in_time, transaction
from sqlalchemy import text

from chattable.budget.storage.errors import StorageUnavailable
from chattable.proxy.people.teams import Team, TeamInUse, Teams
from chattable.proxy.people.users import UserRecord, Users
from chattable.proxy.store import schema
from chattable.proxy.store.database import Database
from chattable.proxy.store.errors import Conflict, Invalid, NotFound

HOSTILE = [
    "",
    " ",
    " a",
    "a\n",
    "\x00",
    "a\x00b",
    "\ud800",
    "\x85",
    "a\u2028b",
    "n" * 201,
    "n" * 10_240,
]
UNUSUAL = [
    "é",
    "e\u0301",
    "👩\u200d💻",
    "'; DROP TABLE teams;--",
    "%",
    "team_",
    "team_red",
    "user_x",
    "Ω" * 200,
    "A",
    "a",
]
AN_ID = "team_" + "0" * 12 + "x" * 20


@pytest.fixture
def teams(database: Database) -> Teams:
    return Teams(database.storage)


@pytest.fixture
def users(database: Database) -> Users:
    return Users(database.storage)


@pytest.fixture
async def other(database: Database, url: str) -> AsyncIterator[Database]:
    """The same database over connections of its own, as another worker has them."""
    second = Database(url)
    await second.start()
    yield second
    await second.stop()


async def names(teams: Teams) -> list[str]:
    return [team.name for team in (await teams.list()).data]


# --- teams ----------------------------------------------------------------------------------------


async def test_a_team_is_found_by_id_and_by_name(database: Database) -> None:
    teams = Teams(database.storage, lambda: 1_900_000_000.75)
    red = await teams.create("red")
    assert re.fullmatch(r"team_[0-9a-f]{12}[\w-]{20}", red.id)
    assert (red.name, red.created_at) == ("red", 1_900_000_000)
    assert await teams.get(red.id) == await teams.get("red") == red


@pytest.mark.parametrize("unknown", ["nobody", AN_ID, "", "\x00", "\ud800", "RED", "re_", "%"])
async def test_what_names_no_team_is_not_found(teams: Teams, unknown: str) -> None:
    await teams.create("red")
    for call in (teams.get(unknown), teams.rename(unknown, "x"), teams.delete(unknown)):
        with pytest.raises(NotFound) as refused:
            await call
        assert (refused.value.what, refused.value.id) == ("team", unknown)
    assert await names(teams) == ["red"]


@pytest.mark.parametrize("name", [*HOSTILE, AN_ID])
async def test_an_unusable_name_is_refused_by_field(teams: Teams, users: Users, name: str) -> None:
    await teams.create("red")
    await users.create("alice", team="red")
    for field, call in (
        ("name", teams.create(name)),
        ("name", teams.rename("red", name)),
        ("team", users.create("bob", team=name)),
        ("team", users.update("alice", team=name)),
    ):
        with pytest.raises(Invalid) as refused:
            await call
        assert refused.value.field == field
        str(refused.value).encode()
    assert await names(teams) == ["red"]


async def test_unusual_names_are_kept_to_the_code_point_and_apart(teams: Teams) -> None:
    made = [await teams.create(name) for name in UNUSUAL]
    assert [await teams.get(name) for name in UNUSUAL] == made
    assert [await teams.get(team.id) for team in made] == made


async def test_a_taken_name_is_a_conflict(teams: Teams) -> None:
    red, blue = await teams.create("red"), await teams.create("blue")
    for call in (teams.create("red"), teams.rename("blue", "red"), teams.rename(blue.id, "red")):
        with pytest.raises(Conflict) as refused:
            await call
        assert refused.value.field == "name"
    assert await teams.rename("red", "red") == red
    assert await teams.get("blue") == blue


async def test_teams_come_in_pages(teams: Teams) -> None:
    made = sorted([await teams.create(f"t{i}") for i in range(5)], key=lambda team: team.id)
    first = await teams.list(2)
    second = await teams.list(2, first.data[-1].id)
    third = await teams.list(2, second.data[-1].id)
    assert [*first.data, *second.data, *third.data] == made
    assert (first.has_more, second.has_more, third.has_more) == (True, True, False)
    for bad in ("nobody", "t1", "team_", "\x00", "\ud800"):
        with pytest.raises(Invalid) as refused:
            await teams.list(after=bad)
        assert refused.value.field == "after"


async def test_of_creations_at_once_one_succeeds(teams: Teams, other: Database) -> None:
    stores = (teams, Teams(other.storage))
    calls = (stores[i % 2].create("red") for i in range(20))
    results = in_time(await asyncio.gather(*calls, return_exceptions=True))
    assert Counter(type(result) for result in results) == {Team: 1, Conflict: len(results) - 1}
    assert await names(teams) == ["red"]


# --- users in teams -------------------------------------------------------------------------------


async def test_a_user_makes_the_team_that_is_not_there(teams: Teams, users: Users) -> None:
    alice = await users.create("alice", team="red")
    red = await teams.get("red")
    assert (alice.team, alice.team_id) == ("red", red.id)
    bob = await users.create("bob", team=red.id)  # an id will do
    assert (bob.team, bob.team_id) == ("red", red.id)
    moved = await users.update("bob", team="blue", disabled=True)
    assert (moved.team, moved.team_id, moved.disabled) == (
        "blue",
        (await teams.get("blue")).id,
        True,
    )
    assert [user.team for user in (await users.list()).data] == ["red", "blue"]
    left = await users.update("bob", team=None)
    assert (left.team, left.team_id) == (None, None)
    assert sorted(await names(teams)) == ["blue", "red"]  # an empty team stays until it is deleted


async def test_a_user_that_is_refused_makes_no_team(teams: Teams, users: Users) -> None:
    await users.create("alice")
    for call in (users.create("alice", team="red"), users.update("nobody", team="red")):
        with pytest.raises((Conflict, NotFound)):
            await call
    assert await names(teams) == []


async def test_users_that_make_one_team_at_once_share_it(
    users: Users, teams: Teams, other: Database
) -> None:
    stores = (users, Users(other.storage))
    calls = (stores[i % 2].create(f"user{i}", team="red") for i in range(20))
    made = in_time(await asyncio.gather(*calls, return_exceptions=True))
    assert {user.name for user in made} == {user.name for user in (await users.list()).data}
    assert {user.team_id for user in made} == {(await teams.get("red")).id}
    assert await names(teams) == ["red"]


async def test_a_new_name_shows_at_once_and_the_id_stays(teams: Teams, users: Users) -> None:
    alice = await users.create("alice", team="red")
    _, secret = await users.create_key("alice", name="k")
    renamed = await teams.rename("red", "crimson")
    assert renamed.id == alice.team_id
    found = await users.find(secret)
    assert found is not None
    for user in (await users.get("alice"), found[1]):
        assert (user.team, user.team_id) == ("crimson", alice.team_id)
    with pytest.raises(NotFound):
        await teams.get("red")
    assert (await users.create("bob", team="red")).team_id != alice.team_id


async def test_a_team_with_users_stays_and_says_who(teams: Teams, users: Users) -> None:
    red = await teams.create("red")
    for count in range(1, 6):
        await users.create(f"user{count}", team="red")
        with pytest.raises(TeamInUse) as refused:
            await teams.delete("red")
        assert (f"{count} user" in str(refused.value), refused.value.code) == (True, "in_use")
    assert str(refused.value) == (
        "The team 'red' has 5 users: user1, user2, user3 and 2 more."
        " Move them to another team first."
    )
    for count in range(1, 6):
        await users.update(f"user{count}", team=None)
    assert await teams.delete(red.id) == red
    assert await names(teams) == []


async def test_nobody_is_left_in_a_team_that_is_gone(
    teams: Teams, users: Users, other: Database
) -> None:
    for i in range(15):
        await teams.create(f"t{i}")
    join = [Users(other.storage).create(f"user{i}", team=f"t{i}") for i in range(15)]
    leave = [teams.delete(f"t{i}") for i in range(15)]
    results = await asyncio.gather(
        *(call for pair in zip(join, leave, strict=True) for call in pair), return_exceptions=True
    )
    joined, left = results[::2], results[1::2]
    assert {type(result) for result in joined if not isinstance(result, StorageUnavailable)} == {
        UserRecord
    }
    assert {type(result) for result in left if not isinstance(result, StorageUnavailable)} <= {
        Team,
        TeamInUse,
    }
    there = (await users.list()).data
    # Of what a slow database refuses it has done nothing.
    assert {user.name for user in there} == {user.name for user in in_time(joined)}
    kept = {f"t{i}" for i, result in enumerate(left) if not isinstance(result, Team)}
    assert kept <= set(await names(teams))
    for user in there:
        assert (await teams.get(user.team_id or "")).name == user.team


# --- the migration --------------------------------------------------------------------------------


@pytest.fixture
async def before(empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database at the version before teams were rows."""
    folder = tmp_path / "scripts"
    shutil.copytree(schema.SCRIPTS, folder)
    for script in (folder / "versions").glob("[0-9]*.py"):
        if script.name >= "0004":
            script.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(schema, "SCRIPTS", folder)
        await empty.migrate()
    return empty


async def test_names_of_teams_become_rows(before: Database) -> None:
    people = {"alice": "red", "bob": "red", "carol": None, "dan": "team_'x' %", "eve": "RED"}
    budgets = {
        "lim_1": ("team", "red"),
        "lim_2": ("team", "nobody's yet"),
        "lim_3": ("user", "red"),
        "lim_4": ("everyone", ""),
    }
    async with transaction(before) as connection:
        for name, team in people.items():
            await connection.execute(
                text("INSERT INTO users VALUES (:id, :name, :team, FALSE, FALSE, 7)"),
                {"id": f"user_{name}", "name": name, "team": team},
            )
        await connection.execute(
            text(
                "INSERT INTO keys (id, user_id, name, digest, prefix, trusted, created_at)"
                " VALUES ('key_1', 'user_alice', 'k', 'd', 'p', FALSE, 7)"
            )
        )
        for limit_id, (kind, subject) in budgets.items():
            await connection.execute(
                text(
                    "INSERT INTO limits"
                    " VALUES (:id, :kind, :subject, 'day', 5, NULL, NULL, 'hard', TRUE)"
                ),
                {"id": limit_id, "kind": kind, "subject": subject},
            )
    await before.migrate()
    teams, users = Teams(before.storage), Users(before.storage)
    rows = {team.name: team.id for team in (await teams.list()).data}
    assert rows.keys() == {"red", "RED", "team_'x' %", "nobody's yet"}
    assert len(set(rows.values())) == 4
    for name, team in people.items():
        user = await users.get(name)
        assert (user.team, user.team_id, user.created_at) == (team, team and rows[team], 7)
    assert (await users.get_key("key_1")).user_id == "user_alice"
    async with transaction(before) as connection:
        subjects = {
            row.id: row.subject
            for row in await connection.execute(text("SELECT id, subject FROM limits"))
        }
    assert subjects == {
        "lim_1": rows["red"],
        "lim_2": rows["nobody's yet"],
        "lim_3": "red",
        "lim_4": "",
    }
    with pytest.raises(TeamInUse, match="2 users: alice, bob"):
        await teams.delete("red")
    assert await teams.delete("nobody's yet")


async def test_a_database_without_teams_migrates(before: Database) -> None:
    await before.migrate()
    assert await names(Teams(before.storage)) == []
