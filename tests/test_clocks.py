"""What is believed for a while is believed by a clock that nobody sets, not by the wall's (F6)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from session_model import MemorySessions

from chattable.agents.chat import Chat, Message
from chattable.proxy.errors import ForbiddenError, UnauthorizedError
from chattable.proxy.identity.auth import KEY_CACHE_S, Auth
from chattable.proxy.people.users import Users
from chattable.proxy.sessions import plans
from chattable.proxy.store.database import Database
from chattable.proxy.store.sessions.port import NewItem, TurnRecord

HOUR = 3600.0


class Clocks:
    """The wall's clock and the monotonic one: only the first can be set."""

    def __init__(self) -> None:
        self.passed, self.set_by = 0.0, 0.0

    def wall(self) -> float:
        return 1_900_000_000.0 + self.passed + self.set_by

    def monotonic(self) -> float:
        return self.passed


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


class TestKeys:
    """What was looked up of a key is forgotten in time, whatever the wall's clock says."""

    @pytest.fixture
    async def users(self, tmp_path: Path, clocks: Clocks) -> AsyncIterator[Users]:
        database = Database(f"sqlite:///{tmp_path}/chattable.db")
        await database.start()
        await database.migrate()
        yield Users(database.storage, clocks.wall)
        await database.stop()

    @pytest.fixture
    def auth(self, users: Users, clocks: Clocks) -> Auth:
        return Auth(users, [], clocks.wall, clocks.monotonic)

    async def test_f6_a_revoked_key_is_refused_though_the_clock_was_set_back(
        self, users: Users, auth: Auth, clocks: Clocks
    ) -> None:
        await users.create("alice")
        key, secret = await users.create_key("alice", name="k")
        assert (await auth.principal(secret)).user.name == "alice"
        await users.revoke_key(key.id)  # as another process does: nothing is forgotten here
        clocks.set_by -= HOUR
        assert (await auth.principal(secret)).user.name == "alice"  # believed until its time is up
        clocks.passed += KEY_CACHE_S
        with pytest.raises(UnauthorizedError, match="was revoked"):
            await auth.principal(secret)

    async def test_f6_a_disabled_end_user_is_refused_though_the_clock_was_set_back(
        self, users: Users, auth: Auth, clocks: Clocks
    ) -> None:
        await users.create("front")
        _, secret = await users.create_key("front", name="k", trusted=True)
        trusted = await auth.principal(secret)
        assert (await auth.acting(trusted, "bob")).user.name == "bob"
        await users.update("bob", disabled=True)
        clocks.set_by -= HOUR
        clocks.passed += KEY_CACHE_S
        with pytest.raises(ForbiddenError, match="disabled"):
            await auth.acting(trusted, "bob")

    async def test_whoever_is_known_is_not_looked_up_again(
        self, users: Users, auth: Auth, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Law: while no user, key or team changes, nobody is looked up twice."""
        for name in ("alice", "front"):
            await users.create(name)
        _, alices = await users.create_key("alice", name="k")
        _, fronts = await users.create_key("front", name="k", trusted=True)
        looked_up: list[str] = []
        find, named = users.find, users.named

        async def counted_find(secret: str) -> Any:
            looked_up.append(secret)
            return await find(secret)

        async def counted_named(name: str) -> Any:
            looked_up.append(name)
            return await named(name)

        monkeypatch.setattr(users, "find", counted_find)
        monkeypatch.setattr(users, "named", counted_named)
        for _ in range(3):
            assert (await auth.principal(alices)).user.name == "alice"
            trusted = await auth.principal(fronts)
            assert (await auth.acting(trusted, "bob")).user.name == "bob"
            clocks.passed += KEY_CACHE_S * 60
        assert sorted(looked_up) == sorted([alices, fronts, "bob"])
        await users.update("bob", name="bobby")  # as another process does
        clocks.passed += KEY_CACHE_S
        assert (await auth.principal(alices)).user.name == "alice"
        assert looked_up[3:] == [alices]

    async def test_who_is_looked_up_during_a_change_is_looked_up_again(
        self, users: Users, auth: Auth, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Law: what was read before a change is not kept as if it were read after it."""
        await users.create("alice")
        key, secret = await users.create_key("alice", name="k")
        find, read, revoked = users.find, asyncio.Event(), asyncio.Event()

        async def slow_find(secret: str) -> Any:
            found = await find(secret)
            read.set()
            await revoked.wait()
            return found

        monkeypatch.setattr(users, "find", slow_find)
        early = asyncio.create_task(auth.principal(secret))
        await read.wait()
        await users.revoke_key(key.id)
        clocks.passed += KEY_CACHE_S
        monkeypatch.setattr(users, "find", find)
        with pytest.raises(UnauthorizedError, match="was revoked"):
            await auth.principal(secret)
        revoked.set()
        assert (await early).user.name == "alice"  # it asked before
        clocks.passed += KEY_CACHE_S
        with pytest.raises(UnauthorizedError, match="was revoked"):
            await auth.principal(secret)

    async def test_f6_keys_expire_by_the_wall_clock(
        self,
        users: Users,
        auth: Auth,
        clocks: Clocks,
    ) -> None:
        await users.create("alice")
        _, secret = await users.create_key("alice", name="k", expires_at=int(clocks.wall() + HOUR))
        assert await auth.principal(secret)
        clocks.set_by += HOUR
        with pytest.raises(UnauthorizedError, match="has expired"):
            await auth.principal(secret)


async def test_f6_a_lock_in_memory_ends_though_the_clock_was_set_back(clocks: Clocks) -> None:
    store = MemorySessions(clocks.wall, clocks.monotonic)
    session = await store.open("user_a", "s")
    assert await store.lock(session, "one", 15.0)
    clocks.set_by -= HOUR
    assert await store.lock(session, "two", 15.0) is None
    clocks.passed += 16
    assert await store.lock(session, "two", 15.0)


STEPS = [(30, 0, True), (90, 0, False), (600, -HOUR, False)]


@pytest.mark.parametrize(("passed", "set_by", "replayed"), STEPS)
async def test_f6_a_retry_gets_the_stored_answer_only_if_it_was_given_just_before(
    clocks: Clocks, passed: float, set_by: float, replayed: bool
) -> None:
    store = MemorySessions(clocks.wall, clocks.monotonic)
    said = [NewItem(message=Message(*one)) for one in (("user", "go on"), ("assistant", "so on"))]
    session = await store.open("user_a", "s")
    session = (await store.commit(session, TurnRecord(entries=tuple(said)))).session
    clocks.passed += passed
    clocks.set_by += set_by
    chat, now = Chat("m", [Message("user", "go on")]), clocks.wall()
    plan = await plans.appended(store, session, chat, most=10, tokens=None, retried=now)
    assert (plan.replay is not None) == replayed
