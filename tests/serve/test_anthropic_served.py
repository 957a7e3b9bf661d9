"""OpenAI's SDK asks, a server that speaks Anthropic's Messages API answers, and neither notices the other."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Answer, Plain, Request, Sse
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from openai import (
    APIError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from process import Chattable, chattable
from pydantic import BaseModel, TypeAdapter, ValidationError
from upstream import ScriptedUpstream

KEY = "sk-ant-secret-of-the-server"
CONFIG = """
providers: {{claude: {{kind: anthropic, api_key: "${{ANTHROPIC_API_KEY}}", base_url: "{url}", retries: 0}}}}
models:
  haiku: {{provider: claude, model: claude-haiku-4-5}}
  opus: {{provider: claude, model: claude-opus-4-7}}
"""
BODIES = {
    True: TypeAdapter[Any](MessageCreateParamsStreaming),
    False: TypeAdapter[Any](MessageCreateParamsNonStreaming),
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": CITY}}
    for name in ("get_weather", "get_time")
]


# --- a server that speaks Anthropic ----------------------------------------------------------------------------------


def trouble(status: int, kind: str, message: str, **headers: str) -> Plain:
    return Plain(
        status,
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"},
        headers,
    )


def reply(request: Request) -> Answer:
    """Echoes the last turn: its words, or a call of every tool, after thinking if it was told to."""
    if (request.method, request.path) != ("POST", "/v1/messages"):
        return trouble(404, "not_found_error", "Not Found")
    if request.headers.get("x-api-key") != KEY or "authorization" in request.headers:
        return trouble(401, "authentication_error", "invalid x-api-key")
    if request.headers.get("anthropic-version") != "2023-06-01":
        return trouble(400, "invalid_request_error", "anthropic-version: header is required")
    body = request.json
    try:
        BODIES["stream" in body].validate_python(body)
    except ValidationError as error:
        return trouble(400, "invalid_request_error", f"messages: {error}")
    message = said(body)
    return Sse(frames(message), done=False) if body.get("stream") else Plain(200, message)


def said(body: Any) -> Any:
    last = body["messages"][-1]["content"]
    words = "".join(block["text"] for block in last if block["type"] == "text")
    words += "".join(
        part["text"]
        for block in last
        if block["type"] == "tool_result"
        for part in block["content"]
    )
    content: list[Any] = []
    if "thinking" in body:
        content.append({"type": "thinking", "thinking": f"They say {words}.", "signature": "c2ln"})
        content.append({"type": "redacted_thinking", "data": "aGlkZGVu"})
    if "tools" in body and last[0]["type"] != "tool_result":
        calls = [
            {"type": "tool_use", "name": tool["name"], "input": {"city": words}}
            for tool in body["tools"]
        ]
        content += [call | {"id": f"toolu_{i}"} for i, call in enumerate(calls)]
    elif "output_config" in body and "format" in body["output_config"]:
        content.append({"type": "text", "text": json.dumps({"city": words})})
    else:
        content.append({"type": "text", "text": words})
    reason = "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"
    usage = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": len(words.split()),
    }
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"]}
    return head | {"content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage}


def frames(message: Any) -> Iterator[bytes]:
    """The events of a message: every word, or character of JSON, its own."""

    def event(kind: str, **fields: Any) -> bytes:
        return b"event: %s\ndata: %s\n\n" % (
            kind.encode(),
            json.dumps({"type": kind, **fields}, ensure_ascii=False).encode(),
        )

    yield event(
        "message_start",
        message=message
        | {"content": [], "stop_reason": None, "usage": message["usage"] | {"output_tokens": 1}},
    )
    yield event("ping")
    empty: dict[str, Any] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"input": {}},
    }
    for i, block in enumerate(message["content"]):
        kind = block["type"]
        yield event("content_block_start", index=i, content_block=block | empty.get(kind, {}))
        deltas: list[Any] = []
        if kind == "tool_use":
            deltas = [
                {"type": "input_json_delta", "partial_json": c}
                for c in json.dumps(block["input"], ensure_ascii=False)
            ]
        elif kind == "text":
            deltas = [
                {"type": "text_delta", "text": word}
                for word in block["text"].replace(" ", " \0").split("\0")
            ]
        elif kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": c} for c in block["thinking"]]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        for delta in deltas:
            yield event("content_block_delta", index=i, delta=delta)
        yield event("content_block_stop", index=i)
    end = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event(
        "message_delta", delta=end, usage={"output_tokens": message["usage"]["output_tokens"]}
    )
    yield event("message_stop")


# --- the house before it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.reply = reply
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url), ANTHROPIC_API_KEY=KEY) as running:
        yield running


@pytest.fixture
def client(server: Chattable, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    upstream.clear()
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as client:
        yield client


def asked(*messages: Any, model: str = "haiku", **params: Any) -> Any:
    return {"model": model, "messages": list(messages), **params}


HELLO: Any = {"role": "user", "content": "Grüß dich 👋 again"}


def test_a_chat(client: OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.create(
        **asked({"role": "system", "content": "be kind"}, HELLO, max_tokens=50, temperature=0.5)
    )
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("Grüß dich 👋 again", "stop")
    assert answer.usage and answer.usage.prompt_tokens_details
    assert (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
    ) == (10, 4, 14)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    [request] = upstream.requests
    assert request.json["system"] == [{"type": "text", "text": "be kind"}]
    assert (request.json["model"], request.json["max_tokens"], request.json["temperature"]) == (
        "claude-haiku-4-5",
        50,
        0.5,
    )


def test_a_stream(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            **asked(HELLO, stream=True, stream_options={"include_usage": True})
        )
    )
    said = [
        chunk.choices[0].delta.content
        for chunk in chunks
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert said == ["Grüß ", "dich ", "👋 ", "again"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [14]


@pytest.mark.parametrize("model, effort", [("haiku", None), ("haiku", "low"), ("opus", "high")])
@pytest.mark.parametrize("streaming", [False, True])
def test_tools_and_thoughts_there_and_back(
    streaming: bool, model: str, effort: str | None, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    """Law: the SDK's own message, sent back as it is, becomes the very blocks that the upstream had sent."""
    params: dict[str, Any] = {"tools": TOOLS} | (
        {"reasoning_effort": effort, "max_tokens": 4000} if effort else {}
    )
    if streaming:
        with client.chat.completions.stream(**asked(HELLO, model=model, **params)) as stream:
            choice: Any = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked(HELLO, model=model, **params)).choices[0]
    message = choice.message
    assert choice.finish_reason == "tool_calls" and not message.content
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_time"]
    assert {json.loads(call.function.arguments)["city"] for call in message.tool_calls} == {
        HELLO["content"]
    }
    assert getattr(message, "reasoning_content", None) == (
        f"They say {HELLO['content']}." if effort else None
    )
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name}! "}
        for call in message.tool_calls
    ]
    back = message.model_dump(exclude_none=True, exclude={"parsed"})
    for call in back["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(**asked(HELLO, back, *results, model=model, **params))
    assert answer.choices[0].message.content == "get_weather! get_time! "
    first, second = upstream.requests
    assert second.json["messages"][1] == {
        "role": "assistant",
        "content": said(first.json)["content"],
    }
    assert second.json.get("thinking") == first.json.get("thinking")
    assert ("thinking" in second.json) == bool(effort)


class City(BaseModel):
    city: str


def test_a_schema(client: OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.parse(**asked(HELLO), response_format=City)
    assert answer.choices[0].message.parsed == City(city=HELLO["content"])
    assert (
        upstream.requests[0].json["output_config"]["format"]["schema"]["additionalProperties"]
        is False
    )


def test_what_it_cannot_do_is_said_before_it_is_asked(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    for params in ({"n": 2}, {"logprobs": True}, {"temperature": 1.5}):
        with pytest.raises(BadRequestError) as refused:
            client.chat.completions.create(**asked(HELLO, **params))
        assert refused.value.param == next(iter(params))
    assert upstream.requests == []


def test_its_errors_keep_their_meaning(client: OpenAI, upstream: ScriptedUpstream) -> None:
    def error(answer: Answer, kind: type[Any], stream: bool = False) -> Any:
        upstream.script(answer)
        with pytest.raises(kind) as raised:
            list(client.chat.completions.create(**asked(HELLO, stream=stream)))
        return raised.value

    long = trouble(400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum")
    assert (error(long, BadRequestError).code, error(long, BadRequestError, True).param) == (
        "context_length_exceeded",
        "messages",
    )
    slow = error(
        trouble(429, "rate_limit_error", "slow down", **{"retry-after": "3"}), RateLimitError
    )
    assert (slow.code, slow.response.headers["retry-after"]) == ("rate_limit_exceeded", "3")
    busy = error(trouble(529, "overloaded_error", "Overloaded"), InternalServerError)
    assert (busy.status_code, busy.code) == (503, "upstream_overloaded")
    assert (
        error(trouble(404, "not_found_error", "model: claude-none"), NotFoundError).code
        == "model_not_found"
    )
    keyless = error(
        trouble(401, "authentication_error", f"invalid x-api-key {KEY}"), InternalServerError
    )
    assert (keyless.status_code, keyless.code) == (502, "upstream_auth_error") and KEY not in str(
        keyless
    )


def test_a_stream_that_fails_says_so(client: OpenAI, upstream: ScriptedUpstream) -> None:
    message = said(
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "one two"}]}],
        }
    )
    kept = list(frames(message))[:4]
    broken = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    for script in (Sse([*kept, broken], done=False), Sse(kept, done=False)):
        upstream.script(script)
        words = []
        with pytest.raises(APIError):
            for chunk in client.chat.completions.create(**asked(HELLO, stream=True)):
                words.append(chunk.choices[0].delta.content)
        assert words == ["one "]
