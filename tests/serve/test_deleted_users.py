"""What was said to a user who is deleted goes, unless the config keeps it."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from answers import Gate
from conversations import talk
from openai import APIError, AuthenticationError, OpenAI
from process import Chattable, chattable
from promises.house import until
from upstream import ScriptedUpstream

CONFIG = """
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
cache: {{scope: shared, ttl: 1h}}
database_url: "sqlite:///{home}/chat.db"
"""
WORDS = ("sessions", "session_messages", "idempotency")  # the tables that hold what was said


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream, home: Path) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url, home=home)) as running:
        yield running


@pytest.fixture(autouse=True)
def clear(upstream: ScriptedUpstream) -> None:
    upstream.clear()


def client(server: Chattable, name: str, **fields: Any) -> OpenAI:
    return OpenAI(
        base_url=f"{server.base_url}/v1",
        api_key=server.user_key(name, **fields),
        max_retries=0,
        timeout=20,
    )


def rows(home: Path) -> dict[str, int]:
    """How many rows there are of what was said."""
    with closing(sqlite3.connect(home / "chat.db", timeout=10)) as connection:
        counts = [connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() for table in WORDS]
    return {table: count for table, (count,) in zip(WORDS, counts, strict=True)}


def delete(server: Chattable, name: str) -> None:
    assert server.admin("DELETE", f"/admin/users/{name}")["deleted"] is True


def test_a_deleted_user_leaves_no_words_behind(
    server: Chattable,
    upstream: ScriptedUpstream,
    home: Path,
) -> None:
    before, ada, bob = rows(home), client(server, "ada"), client(server, "bob")
    talk(ada, "the canary sings", "s", headers={"idempotency-key": "k"})
    talk(ada, "more", "t", mode="mirror")
    assert talk(bob, "the canary sings").headers["x-cache"] == "HIT"
    delete(server, "ada")
    assert rows(home) == before
    with pytest.raises(AuthenticationError):
        talk(ada, "again", "s")
    assert talk(bob, "the canary sings").headers["x-cache"] == "MISS"
    assert talk(client(server, "ada"), "who am I", "s").injected == 0  # another of the same name


@pytest.mark.parametrize("mode", ["append", "mirror", "off"])
def test_the_turn_under_way_ends_and_is_not_kept(
    server: Chattable,
    upstream: ScriptedUpstream,
    home: Path,
    mode: str,
) -> None:
    name, held = f"una-{mode}", Gate(3)
    before, sdk = rows(home), client(server, name)
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(talk, sdk, "one two three", "s", mode=mode, stream=True)
        held.wait()
        delete(server, name)
        with pytest.raises(APIError, match="deleted") as error:
            told.result(20)
        assert error.value.code == "invalid_api_key"
    upstream.wait(lambda: upstream.aborted == 1)
    held.release()
    assert rows(home) == before


def test_a_turn_that_its_client_left_is_not_kept_either(
    server: Chattable,
    upstream: ScriptedUpstream,
    home: Path,
) -> None:
    before, sdk, held = rows(home), client(server, "lea"), Gate(3)
    upstream.script(held)
    stream = sdk.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": "one two three"}],
        stream=True,
        extra_headers={"X-Session-Id": "s"},
    )
    held.wait()
    stream.close()
    delete(server, "lea")
    upstream.wait(lambda: upstream.aborted == 1)
    held.release()
    assert rows(home) == before


def test_the_turns_of_end_users_end_with_the_key_that_asked_for_them(
    server: Chattable,
    upstream: ScriptedUpstream,
) -> None:
    held, ui = Gate(3), client(server, "the-ui", trusted=True)
    upstream.script(held)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(
            talk,
            ui,
            "one two three",
            "s",
            stream=True,
            headers={"X-User-Id": "eva"},
        )
        held.wait()
        delete(server, "the-ui")
        with pytest.raises(APIError, match="deleted"):
            told.result(20)
    held.release()


def test_a_turn_on_another_replica_is_not_kept(
    server: Chattable,
    upstream: ScriptedUpstream,
    home: Path,
) -> None:
    with chattable(CONFIG.format(url=upstream.url, home=home)) as other:
        before, held = rows(home), Gate(3)
        sdk = client(other, "rob")
        upstream.script(held)
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(talk, sdk, "one two three", "s", stream=True)
            held.wait()
            delete(server, "rob")
            with pytest.raises(APIError, match="deleted"):
                told.result(20)
        held.release()
        assert rows(home) == before


def test_the_config_may_keep_what_was_said(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    config = CONFIG.format(url=upstream.url, home=tmp_path)
    config += "sessions: {retention: {deleted_users: keep}}\n"
    with chattable(config) as server:
        talk(client(server, "kay"), "keep me", "s")
        user = server.admin("GET", "/admin/users/kay")["id"]
        delete(server, "kay")
        (kept,) = server.admin("GET", "/admin/sessions")["data"]
        assert (kept["user_id"], kept["message_count"]) == (user, 2)


def test_what_another_replica_began_meanwhile_goes_too(
    server: Chattable,
    upstream: ScriptedUpstream,
    home: Path,
) -> None:
    """It believes the key for a second yet."""
    before = rows(home)
    sdk = client(server, "ida")
    talk(sdk, "hi", "s")
    user = server.admin("GET", "/admin/users/ida")["id"]
    delete(server, "ida")
    with closing(sqlite3.connect(home / "chat.db", timeout=10, isolation_level=None)) as connection:
        texts = "locked_by, recent, usage, metadata, params, state"
        numbers = "message_count, branches, erased, trimmed, locked_until, created_at, updated_at"
        connection.execute(
            f"INSERT INTO sessions (id, user_id, {texts}, {numbers})"
            " VALUES ('conv_late', ?, '', '', '', '{}', '{}', '{}', 0, 0, 0, 0, 0, 0, 0)",
            (user,),
        )
    until(lambda: rows(home) == before, "the late session is gone", 10)
