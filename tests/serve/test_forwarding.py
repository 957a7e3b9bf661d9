"""Embeddings, completions, moderations and the rest: passed on as they came, under the same keys, budgets and fallbacks."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from answers import Answer, Plain, Request, error, proper
from openai import BadRequestError, NotFoundError, OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
providers:
  one: {{kind: openai, base_url: "{one}", api_key: key-of-one, retries: 0}}
  two: {{kind: vllm, base_url: "{two}", retries: 0}}
  claude: {{kind: anthropic, base_url: "{two}", api_key: x}}
models:
  embed: {{provider: one, model: text-embedding-3-small, fallbacks: [spare], price: {{input: 1, output: 2}}}}
  spare: {{provider: two, model: bge}}
  instruct: {{provider: one}}
  moderate: {{provider: one}}
  opus: {{provider: claude}}
default_model: moderate
agents:
  echo: {{use: "chattable.agents.echo:Echo"}}
rate_limits: {{users: {{hasty: {{requests_per_minute: 2}}}}}}
"""
VECTOR = [0.5, -0.25, 1.0]


def reply(request: Request) -> Answer:
    """An upstream that has all of it."""
    body, path = request.json, request.path.removeprefix("/v1")
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    if path == "/embeddings":
        packed = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
        vector = packed if body.get("encoding_format") == "base64" else VECTOR
        many = (
            len(body["input"])
            if isinstance(body["input"], list) and isinstance(body["input"][0], (str, list))
            else 1
        )
        data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(many)]
        return Plain(200, {"object": "list", "data": data, "model": body["model"], "usage": usage})
    if path == "/completions":
        choice = {"text": " world", "index": 0, "finish_reason": "stop", "logprobs": None}
        spent = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        answer = {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": body["model"],
            "choices": [choice],
        }
        return Plain(200, answer | {"usage": spent})
    if path == "/moderations":
        return Plain(
            200,
            {
                "id": "modr-1",
                "model": body["model"],
                "results": [{"flagged": False, "categories": {}, "category_scores": {}}],
            },
        )
    if path == "/audio/speech":
        return Plain(200, b"\xff\xfb\x90sound", {"content-type": "audio/mpeg"})
    if path == "/rerank":
        return Plain(
            200, {"results": [{"index": 1, "relevance_score": 0.9}], "model": body["model"]}
        )
    return proper(request)


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[Chattable, ScriptedUpstream, ScriptedUpstream]]:
    with ScriptedUpstream() as one, ScriptedUpstream() as two:
        one.reply = two.reply = reply
        with chattable(CONFIG.format(one=one.url, two=two.url)) as server:
            yield server, one, two


House = tuple[Chattable, ScriptedUpstream, ScriptedUpstream]


@pytest.fixture(autouse=True)
def clear(house: House) -> None:
    house[1].clear()
    house[2].clear()


def sdk(house: House, name: str = "alice") -> OpenAI:
    return OpenAI(
        base_url=f"{house[0].base_url}/v1", api_key=house[0].user_key(name), max_retries=0
    )


@pytest.mark.parametrize("asked", ["hello", ["hello", "there"], [1, 2, 3], [[1, 2], [3]]], ids=str)
@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings(house: House, asked: Any, form: Any) -> None:
    _, one, _ = house
    fields = {"encoding_format": form} if form else {}
    made = sdk(house).embeddings.create(
        model="embed", input=asked, dimensions=3, extra_body={"odd": {"x": 1}}, **fields
    )
    assert made.model == "embed"
    first = made.data[0].embedding
    assert (
        first if isinstance(first, list) else list(struct.unpack("<3f", base64.b64decode(first)))
    ) == VECTOR
    (request,) = one.requests
    assert (request.json["model"], request.json["input"], request.json["odd"]) == (
        "text-embedding-3-small",
        asked,
        {"x": 1},
    )
    assert request.headers["authorization"] == "Bearer key-of-one"


def test_completions_moderations_speech_and_reranking(house: House) -> None:
    server, one, _ = house
    client = sdk(house)
    raw = client.completions.with_raw_response.create(
        model="instruct", prompt="hello", max_tokens=5, suffix="!"
    )
    assert (raw.parse().choices[0].text, raw.headers["x-chattable-model"]) == (
        " world",
        "one/instruct",
    )
    assert (one.requests[-1].json["max_tokens"], one.requests[-1].json["suffix"]) == (5, "!")
    # by the default model
    assert client.moderations.create(input="hello").results[0].flagged is False
    assert one.requests[-1].json["model"] == "moderate"
    assert (
        client.audio.speech.create(model="instruct", input="hello", voice="alloy").content
        == b"\xff\xfb\x90sound"
    )
    key = {"authorization": f"Bearer {client.api_key}"}
    asked = {"model": "instruct", "query": "q", "documents": ["a", "b"]}
    for path in ("/v1/rerank", "/rerank"):
        assert (
            httpx.post(f"{server.base_url}{path}", json=asked, headers=key).json()["results"][0][
                "index"
            ]
            == 1
        )


def test_a_failure_goes_to_the_fallback_and_secrets_stay_here(house: House) -> None:
    _, one, two = house
    one.script(error(500, "boom"))
    raw = sdk(house).embeddings.with_raw_response.create(model="embed", input="hello")
    assert (raw.headers["x-chattable-model"], raw.headers["x-chattable-attempts"]) == (
        "two/bge",
        "2",
    )
    assert two.requests[0].json["model"] == "bge"
    one.script(error(400, f"bad input for key-of-one at {one.url}", param="input"))
    with pytest.raises(BadRequestError) as refused:
        sdk(house).embeddings.create(model="embed", input="hello")
    assert (refused.value.param, len(two.requests)) == ("input", 1)
    assert "key-of-one" not in str(refused.value) and one.url not in str(refused.value)


@pytest.mark.parametrize("kind", ["audio/mp\x01eg", "audio/mp\x7feg", "t\u00f6ne/mpeg"])
def test_a_content_type_that_is_none_is_not_passed_on(house: House, kind: str) -> None:
    server, one, _ = house
    one.script(Plain(200, b"sound", {"content-type": kind}))
    key = server.user_key("alice")
    answer = httpx.post(
        f"{server.base_url}/v1/audio/speech",
        json={"model": "instruct", "input": "hello", "voice": "alloy"},
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
    )
    assert (answer.status_code, answer.content) == (200, b"sound")
    assert answer.headers["content-type"] == "application/octet-stream"


def test_it_is_charged(house: House) -> None:
    server, one, _ = house
    client = sdk(house, "payer")
    server.admin(
        "POST", "/admin/budgets", {"subject": {"user": "payer"}, "per": "day", "tokens": 60}
    )
    client.embeddings.create(model="embed", input="hello")
    client.completions.create(model="instruct", prompt="hello", max_tokens=5)
    client.moderations.create(model="moderate", input="hello")
    entries = server.admin("GET", "/admin/ledger?user=payer&limit=100")["data"]
    assert (
        sum(e["spent"]["tokens"] for e in entries),
        sum(e["held"]["tokens"] for e in entries),
    ) == (6, 0)
    before = len(one.requests)
    for call in (
        lambda: client.embeddings.create(model="embed", input="hello " * 100),
        lambda: client.completions.create(model="instruct", prompt="hello " * 100, max_tokens=5),
    ):
        with pytest.raises(RateLimitError) as refused:
            call()
        assert refused.value.code == "insufficient_quota"
    assert len(one.requests) == before
    client.completions.create(model="instruct", prompt="hi", max_tokens=5000)
    assert one.requests[-1].json["max_tokens"] < 54  # what was left
    hasty = sdk(house, "hasty")
    hasty.embeddings.create(model="embed", input="hello")
    raw = hasty.embeddings.with_raw_response.create(model="embed", input="hello")
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(RateLimitError) as limited:
        hasty.embeddings.create(model="embed", input="hello")
    assert limited.value.code == "rate_limit_exceeded"


def test_what_is_refused(house: House) -> None:
    server, one, _ = house
    client = sdk(house)
    for model, param in (("echo", "model"), ("opus", "model")):
        with pytest.raises(BadRequestError) as refused:
            client.embeddings.create(model=model, input="x")
        assert (refused.value.param, refused.value.code) == (param, "unsupported_model")
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="nothing", input="x")
    key = {"authorization": f"Bearer {client.api_key}"}
    for body, param in (
        ({"model": "embed"}, "input"),
        ({"model": 5, "input": "x"}, "model"),
        ({"model": "embed", "input": "x", "stream": True}, "stream"),
    ):
        answer = httpx.post(f"{server.base_url}/v1/embeddings", json=body, headers=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    for hostile in ([[["x"]] * 3], {"a": [None]}, -1, [1e300], "\ud800"):
        data = json.dumps({"model": "embed", "input": hostile})
        answer = httpx.post(f"{server.base_url}/v1/embeddings", content=data, headers=key)
        assert answer.status_code < 500, answer.text
    one.script(Plain(200, b"not json", {"content-type": "application/json"}))
    answer = httpx.post(
        f"{server.base_url}/v1/moderations", json={"model": "moderate", "input": "x"}, headers=key
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
