"""Streams whose key or user may ask no more are cut, on whichever worker or replica they run."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

import pytest
from answers import Gate
from conversations import Kept, Told, talk
from databases import execute, held, migrated_postgres, migrated_sqlite
from openai import APIError, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
server: {{workers: {workers}}}
providers: {{stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}}}
models: {{m: {{provider: stub}}}}
database_url: {database}
"""
STREAMS = 6  # enough for two workers to have some each


@dataclass
class House:
    """A server with two doors: `here` streams, `there` somebody changes keys and users."""

    here: Chattable
    there: Chattable
    database: str

    def client(self, name: str, **fields: bool) -> OpenAI:
        key = self.there.user_key(name, **fields)
        return OpenAI(base_url=f"{self.here.base_url}/v1", api_key=key, max_retries=0, timeout=30)

    def key_of(self, name: str) -> str:
        (key,) = self.there.admin("GET", f"/admin/users/{name}/keys")["data"]
        return str(key["id"])


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(
    request: pytest.FixtureRequest,
    upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """SQLite with two workers, PostgreSQL with two replicas."""
    if request.param == "sqlite":
        url = migrated_sqlite(tmp_path_factory.mktemp("house") / "chat.db")
        config = CONFIG.format(url=upstream.url, workers=2, database=json.dumps(url))
        with chattable(config) as server:
            yield House(server, server, url)
        return
    with held(migrated_postgres()) as url:
        config = CONFIG.format(url=upstream.url, workers=1, database=json.dumps(url))
        with chattable(config) as one, chattable(config) as two:
            yield House(one, two, url)


def revoke(house: House, name: str) -> None:
    house.there.admin("DELETE", f"/admin/users/{name}/keys/{house.key_of(name)}")


def disable(house: House, name: str) -> None:
    house.there.admin("PATCH", f"/admin/users/{name}", {"disabled": True})


def delete(house: House, name: str) -> None:
    house.there.admin("DELETE", f"/admin/users/{name}")


def expire(house: House, name: str) -> None:
    statement = f"UPDATE keys SET expires_at = 1 WHERE id = '{house.key_of(name)}'"
    if house.here is not house.there:
        asyncio.run(execute(house.database, statement))
        return
    with (
        closing(sqlite3.connect(house.database.partition("///")[2], timeout=10)) as connection,
        connection,
    ):
        connection.execute(statement)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(STREAMS + 1) as running:
        yield running


@pytest.fixture
def gates(upstream: ScriptedUpstream) -> Iterator[list[Gate]]:
    """What holds each answer after the role and two words."""
    upstream.clear()
    held = [Gate(3) for _ in range(STREAMS + 1)]
    upstream.script(*held)
    yield held
    for gate in held:
        gate.release()


def cut(
    house: House,
    upstream: ScriptedUpstream,
    pool: ThreadPoolExecutor,
    gates: list[Gate],
    sdk: OpenAI,
    end: Callable[[], None],
    user: str = "",
    codes: tuple[str, ...] = ("invalid_api_key",),
) -> None:
    """Begins streams and another user's, ends what the first ones go by, and sees which end."""
    headers = {"X-User-Id": user} if user else {}

    def stream(i: int) -> Told:
        with OpenAI(base_url=sdk.base_url, api_key=sdk.api_key, max_retries=0, timeout=30) as own:
            return talk(own, "one two three", f"s{i}", stream=True, headers=headers)

    other: Future[Told] = pool.submit(
        talk, house.client("somebody-else"), "one two three", stream=True
    )
    told = [pool.submit(stream, i) for i in range(STREAMS)]
    for gate in gates:
        gate.wait()
    end()
    done, _ = wait(told, timeout=20)
    assert len(done) == STREAMS
    for one in told:
        with pytest.raises(APIError) as error:
            one.result()
        assert error.value.code in codes, error.value
    upstream.wait(lambda: upstream.aborted == STREAMS)
    assert not other.done()
    for gate in gates:
        gate.release()
    assert other.result(20).text == "one two three"


@pytest.mark.parametrize("end", [revoke, disable, delete, expire])
def test_streams_end_with_what_they_go_by(
    house: House,
    upstream: ScriptedUpstream,
    pool: ThreadPoolExecutor,
    gates: list[Gate],
    end: Callable[[House, str], None],
) -> None:
    name = f"ada-{end.__name__}"
    codes = ["invalid_api_key"]
    if end is delete:  # its sessions go as well, and a busy machine may see that first
        codes.append("not_found")
    cut(house, upstream, pool, gates, house.client(name), lambda: end(house, name), codes=(*codes,))


@pytest.mark.parametrize("which", ["end user", "owner"])
def test_streams_of_a_trusted_key_end_with_its_owner_and_with_its_end_user(
    house: House,
    upstream: ScriptedUpstream,
    pool: ThreadPoolExecutor,
    gates: list[Gate],
    which: str,
) -> None:
    owner, user = f"ui-{which[0]}", f"eva-{which[0]}"
    sdk = house.client(owner, trusted=True)
    cut(
        house,
        upstream,
        pool,
        gates,
        sdk,
        lambda: disable(house, user if which == "end user" else owner),
        user,
    )


def test_nothing_is_kept_of_a_stream_that_was_cut_and_its_session_goes_on(
    house: House,
    upstream: ScriptedUpstream,
) -> None:
    upstream.clear()
    sdk, kept, gate = house.client("kay"), Kept(house.there, house.database), Gate(3)
    talk(sdk, "before", "s")
    upstream.script(gate)
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(talk, sdk, "one two three", "s", stream=True)
        gate.wait()
        revoke(house, "kay")
        with pytest.raises(APIError, match="revoked"):
            told.result(20)
    gate.release()
    assert talk(house.client("kay"), "after", "s").injected == 2
    assert kept.said("kay", "s") == ["u:before", "a:before", "u:after", "a:after"]
