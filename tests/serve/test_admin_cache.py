"""/admin/cache: what the cache did, and how it is made to forget."""

import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream
from valkeys import valkey_server

CONFIG = """
redis_url: "{redis}"
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, retries: 0}}
models:
  m: {{provider: stub}}
  other: {{provider: stub, model: m}}
cache: {{ttl: 1h}}
"""


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest, upstream: ScriptedUpstream) -> Iterator[Chattable]:
    if request.param == "memory":
        with chattable(CONFIG.format(url=upstream.url, redis="")) as running:
            yield running
        return
    with (
        valkey_server() as valkey,
        chattable(CONFIG.format(url=upstream.url, redis=valkey.url)) as running,
    ):
        yield running


def ask(server: Chattable, name: str, key: str, model: str = "m") -> str:
    """Asks the same as ever; says what became of it."""
    sdk = OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)
    messages: Any = [{"role": "user", "content": f"the same of {name}"}]
    return str(
        sdk.chat.completions.with_raw_response.create(model=model, messages=messages).headers[
            "x-cache"
        ]
    )


def test_stats_and_purges(server: Chattable, upstream: ScriptedUpstream) -> None:
    keys = {name: server.user_key(name) for name in ("alice", "bob")}
    before = server.admin("GET", "/admin/cache")
    assert (before["enabled"], before["scope"], before["hits"], before["hit_rate"]) == (
        True,
        "user",
        0,
        None,
    )
    first = [ask(server, name, keys[name]) for name in ("alice", "bob", "alice", "bob")]
    assert first == ["MISS", "MISS", "HIT", "HIT"]
    stats = server.admin("GET", "/admin/cache")
    assert (stats["hits"], stats["misses"], stats["stores"], stats["hit_rate"]) == (2, 2, 2, 0.5)
    assert stats["bytes"] > 0

    alice = server.admin("GET", "/admin/users/alice")["id"]
    assert server.admin("DELETE", "/admin/cache?user=alice") == {
        "object": "cache.purged",
        "user": alice,
        "model": None,
    }
    assert [ask(server, name, keys[name]) for name in ("alice", "bob")] == ["MISS", "HIT"]
    server.admin("DELETE", "/admin/cache?model=nothing")
    assert [ask(server, name, keys[name]) for name in ("alice", "bob")] == ["HIT", "HIT"]
    server.admin("DELETE", "/admin/cache?model=stub/m")
    assert [ask(server, name, keys[name]) for name in ("alice", "bob")] == ["MISS", "MISS"]
    server.admin("DELETE", "/admin/cache")
    assert [ask(server, name, keys[name]) for name in ("alice", "bob")] == ["MISS", "MISS"]
    assert len(upstream.requests) == 7
    trail = server.admin("GET", "/admin/audit?action=cache.purge")["data"]
    assert [(entry["target_name"], entry["outcome"]) for entry in trail] == [
        ("all", "done"), ("stub/m", "done"), ("nothing", "done"), ("alice", "done"),
    ]  # fmt: skip


def test_what_a_purge_refuses(server: Chattable) -> None:
    for path, status in (("?user=nobody", 404), ("?user=%00", 404), ("?users=alice", 400)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.admin("DELETE", f"/admin/cache{path}")
        assert refused.value.code == status, refused.value.msg
    assert "There are user and model" in refused.value.msg


def test_a_purge_without_redis_is_no_purge(upstream: ScriptedUpstream) -> None:
    with (
        valkey_server() as valkey,
        chattable(CONFIG.format(url=upstream.url, redis=valkey.url)) as server,
    ):
        key = server.user_key("alice")
        assert ask(server, "alice", key) == "MISS"
        valkey.kill()
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.admin("DELETE", "/admin/cache")
        assert (refused.value.code, "cache_unavailable" in refused.value.msg) == (503, True)
        entry = server.admin("GET", "/admin/audit?action=cache.purge")["data"][0]
        assert entry["outcome"].startswith("failed: Redis is away")
