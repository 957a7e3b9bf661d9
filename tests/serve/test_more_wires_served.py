"""OpenAI's SDK asks, and servers that speak Azure, Bedrock and Ollama answer from what was recorded of each."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Answer, Plain, Raw, Request, head
from frames import framed
from openai import BadRequestError, OpenAI, RateLimitError
from process import Chattable, chattable
from upstream import ScriptedUpstream
from wired import DATA

from chattable.adapters.services import VENDORS
from chattable.proxy.config import reader
from chattable.proxy.config.document import ConfigError

ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEYS: dict[str, Any] = {
    "AWS_ACCESS_KEY_ID": ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AZURE_KEY": "azure-key-of-the-server",
}
CONFIG = """
providers:
  azure: {{kind: azure, api_key: "${{AZURE_KEY}}", base_url: "{url}/openai/v1/", api_version: "2024-10-21", retries: 0}}
  aws:
    kind: bedrock
    api_key: "${{AWS_ACCESS_KEY_ID}}:${{AWS_SECRET_ACCESS_KEY}}:${{AWS_SESSION_TOKEN:-}}"
    base_url: "{url}"
    region: eu-central-1
    retries: 0
  ollama: {{kind: ollama-native, base_url: "{url}/v1", retries: 0}}
models:
  azure: {{provider: azure, model: my-deployment}}
  bedrock: {{provider: aws, model: "anthropic.claude-sonnet-4-5-20250929-v1:0"}}
  ollama: {{provider: ollama, model: "qwen3:8b"}}
"""
FRAMED = {
    "azure": "text/event-stream",
    "bedrock": "application/vnd.amazon.eventstream",
    "ollama": "application/x-ndjson",
}
MODELS = list(FRAMED)


def data_of(model: str, what: str) -> bytes:
    end = "" if what in ("plain", "blocked") else "_stream"
    [path] = DATA.glob(f"{model}_{what}{end}.*")
    return framed(path.read_bytes()) if model == "bedrock" and end else path.read_bytes()


def model_of(request: Request) -> str:
    """Who is asked, if the request is as that one wants it."""
    path = request.path
    if path == "/openai/deployments/my-deployment/chat/completions?api-version=2024-10-21":
        return (
            "azure"
            if request.headers["api-key"] == KEYS["AZURE_KEY"]
            and "authorization" not in request.headers
            else ""
        )
    if path.startswith("/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"):
        return "bedrock" if f"Credential={ID}/" in request.headers["authorization"] else ""
    return "ollama" if path == "/api/chat" and "authorization" not in request.headers else ""


def reply(request: Request) -> Answer:
    model = model_of(request)
    if not model:
        return Plain(404, {"error": {"message": f"nothing at {request.path}"}})
    stream = request.json.get("stream") or request.path.endswith("-stream")
    what = "tools" if "tools" in request.json or "toolConfig" in request.json else "text"
    if stream:
        return Raw(
            [
                head(200, {"content-type": FRAMED[model], "connection": "close"}),
                data_of(model, what),
            ]
        )
    return Plain(200, data_of(model, "plain"), {"content-type": "application/json"})


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.reply = reply
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url.removesuffix("/v1")), **KEYS) as running:
        yield running


@pytest.fixture
def client(server: Chattable, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    upstream.clear()
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as client:
        yield client


def asked(model: str, **params: Any) -> Any:
    return {"model": model, "messages": [{"role": "user", "content": "Grüß dich 👋"}], **params}


CITY: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": CITY}}
    for name in ("get_weather", "get_time")
]


@pytest.mark.parametrize("model", MODELS)
def test_a_chat(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(**asked(model, max_tokens=50))
    [choice] = answer.choices
    assert (
        choice.message.content in ("Grüß dich 👋", '{"city": "Paris"}')
        and choice.finish_reason == "stop"
    )
    assert (
        answer.usage
        and answer.usage.total_tokens
        == answer.usage.prompt_tokens + answer.usage.completion_tokens
        > 0
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(client: OpenAI, model: str) -> None:
    with client.chat.completions.stream(
        **asked(model), stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    assert (
        final.choices[0].message.content == "Grüß dich 👋"
        and final.choices[0].finish_reason == "stop"
    )
    assert final.usage and final.usage.completion_tokens


@pytest.mark.parametrize("model", MODELS)
def test_streamed_calls_and_their_answers(
    client: OpenAI, upstream: ScriptedUpstream, model: str
) -> None:
    params = asked(model, tools=TOOLS)
    with client.chat.completions.stream(**params) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls and len(message.tool_calls) >= 2
    params["messages"] += [message.model_dump(exclude_none=True)]
    params["messages"] += [
        {"role": "tool", "tool_call_id": call.id, "content": f"answer {i}"}
        for i, call in enumerate(message.tool_calls)
    ]
    with client.chat.completions.stream(**params) as stream:
        stream.until_done()
    sent = json.dumps(upstream.requests[-1].json)
    assert "answer 0" in sent and "answer 1" in sent and message.tool_calls[0].function.name in sent


def test_a_blocked_prompt_is_the_clients_to_mend(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    upstream.script(Plain(400, data_of("azure", "blocked")))
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(**asked("azure"))
    assert (caught.value.code, caught.value.param) == ("content_filter", "messages")


def test_an_overflow_and_a_throttle(client: OpenAI, upstream: ScriptedUpstream) -> None:
    upstream.script(Plain(400, {"message": "Input is too long for requested model."}))
    with pytest.raises(BadRequestError) as long:
        client.chat.completions.create(**asked("bedrock"))
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    upstream.script(Plain(429, {"message": f"Account 123456789012 with {ID} is too fast"}))
    with pytest.raises(RateLimitError) as fast:
        client.chat.completions.create(**asked("bedrock"))
    assert "123456789012" not in fast.value.message and ID not in fast.value.message


MISTAKES = [
    ("{kind: azure}", "providers.p: `base_url` is needed"),
    ("{kind: bedrock}", "providers.p: `region` is needed"),
    ("{kind: bedrock, region: Frankfurt}", "providers.p.region: must be a region of AWS"),
    (
        "{kind: openai, region: eu-central-1}",
        "providers.p.region: `region` is not a setting of this kind",
    ),
]


@pytest.mark.parametrize("provider, told", MISTAKES)
def test_what_a_provider_lacks_is_told_before_it_is_asked(provider: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reader.parse(f"providers: {{p: {provider}}}\n".encode(), "config.yaml", {}, VENDORS)
    assert told in str(caught.value)
