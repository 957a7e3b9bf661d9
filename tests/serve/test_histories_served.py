"""One conversation at several vendors in turn, and what a client may tell an upstream: over the real process."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from answers import Answer, Plain, Request
from conversations import Kept
from openai import BadRequestError, OpenAI
from process import Chattable, chattable
from upstream import ScriptedUpstream

CONFIG = """
providers:
  claude: {{kind: anthropic, api_key: key-of-claude, base_url: "{url}/claude", retries: 0}}
  groq: {{kind: groq, api_key: key-of-groq, base_url: "{url}/groq", retries: 0}}
  google: {{kind: gemini, api_key: key-of-google, base_url: "{url}/google", retries: 0}}
  aws: {{kind: bedrock, api_key: key-of-aws, region: us-east-1, base_url: "{url}/aws", retries: 0}}
  other: {{kind: openai, api_key: key-of-other, base_url: "{url}/other", retries: 0}}
  open: {{kind: openai, api_key: key-of-open, base_url: "{url}/open", retries: 0, allow: [service_tier, extra_body]}}
  strict: {{kind: openai, api_key: key-of-strict, base_url: "{url}/strict", retries: 0, unsupported: reject}}
models:
  claude: {{provider: claude, model: claude-sonnet-4-5}}
  groq: {{provider: groq, model: openai/gpt-oss-120b}}
  google: {{provider: google, model: gemini-3.8-flash}}
  aws: {{provider: aws, model: "anthropic.claude-sonnet-4-5-20250929-v1:0"}}
  other: {{provider: other}}
  open: {{provider: open}}
  strict: {{provider: strict}}
cache: {{ttl: 1h}}
"""
CALL = {"name": "get_time", "input": {}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
]


def reply(request: Request) -> Answer:
    """Every vendor in its own words: a thought, and a call of the tool unless the last message answers one."""
    body = request.json
    vendor = (
        request.path.split("/")[2]
        if request.path.startswith("/v1/")
        else request.path.split("/")[1]
    )
    turns = body.get("messages") or body.get("contents") or [""]
    answered = "noon" in json.dumps(turns[-1]) or not ("tools" in body or "toolConfig" in body)
    if vendor == "claude":
        content: list[Any] = [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]
        content.append(
            {"type": "text", "text": "of claude"}
            if answered
            else {"type": "tool_use", "id": "toolu_01A", **CALL}
        )
        usage = {"input_tokens": 3, "output_tokens": 2}
        return Plain(
            200, {"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage}
        )
    if vendor == "google":
        part: Any = (
            {"text": "of google"}
            if answered
            else {"functionCall": {"name": "get_time", "args": {}}}
        )
        candidate = {
            "content": {"parts": [part | {"thoughtSignature": "eA=="}]},
            "finishReason": "STOP",
        }
        return Plain(
            200,
            {
                "candidates": [candidate],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2},
            },
        )
    if vendor == "aws":
        thought = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}}
        said: Any = (
            {"text": "of aws"} if answered else {"toolUse": {"toolUseId": "tooluse_1", **CALL}}
        )
        usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
        message = {"role": "assistant", "content": [thought, said]}
        return Plain(
            200, {"output": {"message": message}, "stopReason": "end_turn", "usage": usage}
        )
    if "input" in body:
        return Plain(
            200,
            {
                "object": "list",
                "data": [],
                "model": "m",
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            },
        )
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    spoken: Any = {"role": "assistant", "content": f"of {vendor}", "reasoning": "Hm."}
    if not answered:
        spoken |= {"content": None, "tool_calls": [call]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return Plain(
        200, {"choices": [{"index": 0, "message": spoken, "finish_reason": "stop"}], "usage": usage}
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.reply = reply
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url)) as running:
        yield running


@pytest.fixture
def client(server: Chattable, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    upstream.clear()
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as client:
        yield client


def last(upstream: ScriptedUpstream) -> Any:
    return upstream.requests[-1].json


def test_a_session_moves_from_vendor_to_vendor_and_back(
    client: OpenAI, server: Chattable, upstream: ScriptedUpstream
) -> None:
    """Each is asked with a tool, answered, and followed by the next: each is sent its own, and what is kept is what was said."""
    headers = {"X-Session-Id": "moving", "X-Session-Mode": "append"}

    def say(model: str, message: Any, **params: Any) -> Any:
        ask: Any = client.chat.completions.create
        return (
            ask(model=model, messages=[message], extra_headers=headers, **params).choices[0].message
        )

    kept = 0
    for model in ("claude", "groq", "google", "aws", "groq", "claude"):
        called = say(model, {"role": "user", "content": f"what time is it, {model}?"}, tools=TOOLS)
        [call] = called.tool_calls
        told = say(model, {"role": "tool", "tool_call_id": call.id, "content": "noon"})
        assert told.content == f"of {model}"
        path = Kept(server).path("alice", "moving")
        assert len(path) == kept + 4
        kept = len(path)
    path = Kept(server).path("alice", "moving")
    thoughts = [
        item.message.extra.get("thinking_blocks")
        for item in path
        if item.message.role == "assistant"
    ]
    assert sum(blocks is not None for blocks in thoughts) == 6, (
        "those of Claude, at Anthropic and at Bedrock, are kept"
    )
    for request in upstream.requests:
        text = json.dumps(request.json)
        if "/groq/" in request.path:
            assert not any(
                name in text
                for name in ("thinking_blocks", "reasoning_content", "extra_content", "signature")
            )
            assert '"reasoning": "Hm."' in text
        if "/google/" in request.path:
            calls = [
                part
                for turn in request.json["contents"]
                for part in turn["parts"]
                if "functionCall" in part
            ]
            assert all("thoughtSignature" in part for part in calls)
        if "/claude/" in request.path:
            assert "reasoning" not in text
    end = last(upstream)["messages"]
    assert [turn["role"] for turn in end[:4]] == ["user", "assistant", "user", "assistant"]
    names = [
        block["id"] for turn in end for block in turn["content"] if block["type"] == "tool_use"
    ]
    assert len(names) == 6 == len({*names}), "two turns of one vendor had the same ids"


# --- F11 ----------------------------------------------------------------------------------------------------------------

TOLD = {
    "api_base": "http://evil.example",
    "base_url": "http://evil.example",
    "api_key": "sk-mine",
    "extra_headers": {"x": "y"},
    "extra_body": {"a": 1},
    "timeout": 600,
    "service_tier": "priority",
    "models": ["dearer"],
    "provider": {"order": ["dear"]},
}


def test_f11_what_changes_address_credentials_or_price_is_not_forwarded(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    hi: Any = [{"role": "user", "content": "F11"}]
    client.chat.completions.create(
        model="other", messages=hi, extra_body=TOLD | {"top_k": 5, "odd": 1}
    )
    assert last(upstream) == {"model": "other", "messages": hi, "top_k": 5, "odd": 1}
    client.chat.completions.create(model="open", messages=hi, extra_body=TOLD)
    assert last(upstream) == {
        "model": "open",
        "messages": hi,
        "service_tier": "priority",
        "extra_body": {"a": 1},
    }
    client.embeddings.create(
        model="other", input="F11", encoding_format="float", extra_body=TOLD | {"odd": 1}
    )
    assert last(upstream) == {
        "model": "other",
        "input": "F11",
        "encoding_format": "float",
        "odd": 1,
    }
    count = len(upstream.requests)
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(
            model="strict", messages=hi, extra_body={"api_base": "http://evil.example"}
        )
    assert (caught.value.param, len(upstream.requests)) == ("api_base", count)
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(
            model="strict", input="F11", encoding_format="float", extra_body={"api_base": "x"}
        )
    assert (caught.value.param, len(upstream.requests)) == ("api_base", count)


# --- C7, C12 ------------------------------------------------------------------------------------------------------------


def test_c7_a_clients_header_reaches_anthropic_from_a_list(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    hi: Any = [{"role": "user", "content": "C7"}]
    header = {"anthropic-beta": "interleaved-thinking-2025-05-14,oauth-2025-04-20"}
    extra: Any = {"context_management": {"edits": []}}
    client.chat.completions.create(
        model="claude", messages=hi, extra_headers=header, extra_body=extra
    )
    told = upstream.requests[-1].headers["anthropic-beta"]
    assert told == "interleaved-thinking-2025-05-14,context-management-2025-06-27"
    client.chat.completions.create(model="claude", messages=hi)
    assert "anthropic-beta" not in upstream.requests[-1].headers
    client.chat.completions.create(model="other", messages=hi, extra_headers=header)
    assert (
        last(upstream) == {"model": "other", "messages": hi}
        and "anthropic-beta" not in upstream.requests[-1].headers
    )
    bad = {"anthropic_beta": [5]}
    with pytest.raises(BadRequestError):
        client.chat.completions.create(model="claude", messages=hi, extra_body=bad)


def test_c12_words_to_go_on_with_are_kept_apart_for_streams(
    server: Chattable, upstream: ScriptedUpstream
) -> None:
    upstream.clear()
    key = {"authorization": f"Bearer {server.user_key('alice')}"}

    def ask(messages: Any, *, stream: bool) -> str:
        body = {"model": "other", "messages": messages, "stream": stream}
        return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, headers=key).headers[
            "x-cache"
        ]

    hi = [{"role": "user", "content": "C12"}]
    prefill = [*hi, {"role": "assistant", "content": "So"}]
    assert [ask(prefill, stream=stream) for stream in (False, True, False, True)] == [
        "MISS",
        "MISS",
        "HIT",
        "HIT",
    ]
    assert [ask(hi, stream=stream) for stream in (False, True)] == ["MISS", "HIT"]
