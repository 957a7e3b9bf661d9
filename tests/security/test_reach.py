"""Whom the server asks is the operator's to say: no request, answer or variable leads elsewhere."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from answers import Redirect
from echo_model import ask
from process import chattable
from upstream import ScriptedUpstream

CONFIG = """
providers:
  openai: &stub {{kind: openai, base_url: "{url}", api_key: sk-of-the-house, retries: 0}}
  vllm: {{<<: *stub, kind: vllm}}
  anthropic: {{<<: *stub, kind: anthropic}}
  gemini: {{<<: *stub, kind: gemini}}
  azure: {{<<: *stub, kind: azure}}
  bedrock: {{<<: *stub, kind: bedrock, region: eu-central-1}}
  ollama: {{<<: *stub, kind: ollama}}
models:
  openai: {{provider: openai, model: m}}
  vllm: {{provider: vllm, model: m}}
  anthropic: {{provider: anthropic, model: m}}
  gemini: {{provider: gemini, model: m}}
  azure: {{provider: azure, model: m}}
  bedrock: {{provider: bedrock, model: m}}
  ollama: {{provider: ollama, model: m}}
  "any/*": {{provider: openai}}
"""
KINDS = ["openai", "vllm", "anthropic", "gemini", "azure", "bedrock", "ollama"]
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]


@dataclass
class Reach:
    """A server, the upstream that it may ask, and a stranger that nobody may."""

    client: httpx.Client
    upstream: ScriptedUpstream
    stranger: ScriptedUpstream

    def ask(self, body: Any, **headers: str) -> httpx.Response:
        got = self.client.post("/v1/chat/completions", json=body, headers=headers)
        assert got.status_code < 500 or got.json()["error"]["type"] == "upstream_error", got.text
        return got


@pytest.fixture(scope="module")
def world() -> Iterator[Reach]:
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream())
        stranger = stack.enter_context(ScriptedUpstream())
        through: Any = dict.fromkeys(PROXIES, stranger.url.removesuffix("/v1"))
        server = stack.enter_context(
            chattable(CONFIG.format(url=upstream.url), NO_PROXY="", no_proxy="", **through),
        )
        headers = {"authorization": f"Bearer {server.user_key()}"}
        yield Reach(
            stack.enter_context(
                httpx.Client(
                    base_url=server.base_url,
                    headers=headers,
                    trust_env=False,
                    timeout=30,
                ),
            ),
            upstream,
            stranger,
        )


@pytest.fixture
def reach(world: Reach) -> Iterator[Reach]:
    """The server, with the proof afterwards that the stranger heard nothing."""
    world.upstream.clear()
    yield world
    assert world.stranger.requests == [] and world.stranger.peak_connections == 0


@pytest.mark.parametrize("kind", KINDS)
def test_29_no_proxy_of_the_environment_sees_a_request(reach: Reach, kind: str) -> None:
    reach.ask(ask("hi") | {"model": kind})
    assert len(reach.upstream.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_29_no_redirect_is_followed(reach: Reach, kind: str) -> None:
    for status in (301, 302, 303, 307, 308):
        reach.upstream.script(Redirect(f"{reach.stranger.url}/chat/completions", status))
        for stream in (False, True):
            reach.ask(ask("hi", stream=stream) | {"model": kind})


@pytest.mark.parametrize("kind", KINDS)
def test_26_no_field_of_a_body_says_whom_to_ask(reach: Reach, kind: str) -> None:
    elsewhere: dict[str, Any] = dict.fromkeys(
        ("api_base", "base_url", "apiBase", "endpoint", "host", "proxy", "url", "api_url"),
        reach.stranger.url,
    )
    elsewhere |= {
        "custom_llm_provider": "openai",
        "api_key": "sk-mine",
        "extra_headers": {"host": "elsewhere"},
    }
    reach.ask(ask("hi") | elsewhere | {"model": kind})
    nested = {"extra_body": elsewhere, "metadata": {"api_base": reach.stranger.url}}
    reach.ask(ask("hi") | nested | {"model": kind})
    for request in reach.upstream.requests:
        assert "sk-mine" not in str(request.headers) and request.headers["host"].endswith(
            f":{reach.upstream.port}",
        )


@pytest.mark.parametrize("kind", KINDS)
def test_26_no_header_of_a_client_says_whom_to_ask(reach: Reach, kind: str) -> None:
    names = [
        "x-portkey-custom-host", "x-portkey-config", "x-portkey-provider", "x-base-url",
        "x-upstream", "x-upstream-url", "x-api-base", "x-forwarded-host", "x-original-host",
        "forwarded", "helicone-target-url", "x-litellm-api-base",
    ]  # fmt: skip
    reach.ask(ask("hi") | {"model": kind}, **dict.fromkeys(names, reach.stranger.url))
    [request] = reach.upstream.requests
    assert not set(names) & request.headers.keys() and str(reach.stranger.port) not in str(
        request.headers,
    )


@pytest.mark.parametrize(
    "model",
    ["any/../../x", "any//host/x", "any/@host", "any/x?y=1", "any/x#y", "any/http://h/x"],
)
def test_26_a_models_name_is_no_address(reach: Reach, model: str) -> None:
    reach.ask(ask("hi") | {"model": model})
    assert [request.path for request in reach.upstream.requests] == ["/v1/chat/completions"]
    assert reach.upstream.requests[0].json["model"] == model.removeprefix("any/")


@pytest.mark.parametrize("kind", KINDS)
def test_30_pictures_and_files_are_never_fetched_from_here(reach: Reach, kind: str) -> None:
    there = f"{reach.stranger.url}/picture.png"
    for part in (
        {"type": "image_url", "image_url": {"url": there}},
        {"type": "video_url", "video_url": {"url": there}},
        {"type": "file", "file": {"file_data": there, "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": there, "format": "wav"}},
    ):
        content = [{"type": "text", "text": "what is this?"}, part]
        reach.ask({"model": kind, "messages": [{"role": "user", "content": content}]})
