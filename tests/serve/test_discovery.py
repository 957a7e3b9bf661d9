"""What providers say they have is listed behind wildcards, without a request ever waiting for it."""

import time
from collections.abc import Iterator

import pytest
from answers import Plain, Silent, error
from openai import OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

from chattable.adapters.discovery import DiscoveryError, names

CONFIG = """
providers:
  stub: {{kind: openai, base_url: "{url}", api_key: x, discover: true}}
  quiet: {{kind: openai, base_url: "{url}/quiet", api_key: x}}
models:
  "stub/*": {{provider: stub}}
  "ft-*": {{provider: stub, model: "ft:*:acme"}}
  "stub/special/*": {{provider: quiet}}
  "quiet/*": {{provider: quiet}}
  named: {{provider: stub, model: a}}
"""
LIST = {
    "object": "list",
    "data": [
        {"id": "a"},
        {"id": "b/c"},
        {"id": "ft:x:acme"},
        {"id": "special/d"},
        {"id": "a"},
        {"id": 7},
    ],
}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


def listed(server: Chattable, **key: object) -> list[str]:
    sdk = OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice", **key), max_retries=0
    )
    return [model.id for model in sdk.models.list()]


def soon(server: Chattable, count: int) -> list[str]:
    deadline = time.monotonic() + 10
    while len(names_ := listed(server)) < count:
        assert time.monotonic() < deadline, names_
    return names_


def test_what_a_provider_has_is_listed_behind_its_wildcards(upstream: ScriptedUpstream) -> None:
    upstream.script(Plain(200, LIST), path="/models")
    with chattable(CONFIG.format(url=upstream.url)) as server:
        # special/… is another provider's
        found = ["named", "stub/a", "stub/b/c", "stub/ft:x:acme", "ft-x"]
        assert soon(server, 5) == found
        assert listed(server, models=["stub/*"]) == ["stub/a", "stub/b/c", "stub/ft:x:acme"]
        granted = ["stub/new", "quiet/x", "stub/a", "named", "nowhere"]  # which nobody serves
        assert listed(server, models=granted) == ["named", "stub/a", "stub/new", "quiet/x"]
        sdk = OpenAI(
            base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
        )
        sdk.chat.completions.create(model="ft-x", messages=[{"role": "user", "content": "hi"}])
        assert upstream.requests[-1].json["model"] == "ft:x:acme"
        asked = [request.path for request in upstream.requests if request.method == "GET"]
        assert asked == ["/v1/models"]  # once, and of no other provider


@pytest.mark.parametrize(
    "answer", [error(500, "boom"), Silent(), Plain(200, b"<html>")], ids=["500", "silent", "html"]
)
def test_a_provider_that_does_not_say_keeps_nobody_waiting(
    upstream: ScriptedUpstream, answer: Plain
) -> None:
    upstream.script(answer, path="/models")
    with chattable(CONFIG.format(url=upstream.url)) as server:
        upstream.wait(lambda: len(upstream.requests) == 1)
        assert listed(server) == ["named"]
        assert server.ready_after < 10


def test_lists_of_any_form() -> None:
    assert names(b'{"models": [{"name": "models/gemini-2"}, {"name": "llama3:8b"}]}') == [
        "gemini-2",
        "llama3:8b",
    ]
    assert names(b'["a", {"model": "b"}, null, 3, "", "x\\u0000"]') == ["a", "b"]
    for odd in (b"", b"{}", b'{"data": 3}', b"[" * 2000):
        with pytest.raises(DiscoveryError):
            names(odd)
