"""OpenAI's SDK asks, a server that speaks Gemini answers, and neither notices the other."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from answers import Answer, Plain, Request, Sse
from google.genai import types
from openai import (
    APIError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from process import Chattable, chattable
from pydantic import BaseModel, ValidationError
from upstream import ScriptedUpstream

KEY = "AIza-secret-key-of-the-server"
CONFIG = """
providers: {{google: {{kind: gemini, api_key: "${{GEMINI_API_KEY}}", base_url: "{url}", retries: 0}}}}
models:
  flash: {{provider: google, model: gemini-3.8-flash}}
  old: {{provider: google, model: gemini-2.5-flash}}
"""
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": CITY}}
    for name in ("get_weather", "get_time")
]


# --- a server that speaks Gemini -------------------------------------------------------------------------------------


def trouble(status: int, name: str, message: str, *details: Any) -> Plain:
    return Plain(
        status,
        {"error": {"code": status, "message": message, "status": name, "details": list(details)}},
    )


def reply(request: Request) -> Answer:
    """Echoes the last turn: its words, or a call of every tool, after thinking if it was told to."""
    path, _, query = request.path.partition("?")
    model, _, verb = path.removeprefix("/v1/models/").partition(":")
    if model not in ("gemini-3.8-flash", "gemini-2.5-flash") or (verb, query) not in (
        ("generateContent", ""),
        ("streamGenerateContent", "alt=sse"),
    ):
        return trouble(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta")
    if request.headers.get("x-goog-api-key") != KEY or "authorization" in request.headers:
        return trouble(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
    body = request.json
    try:
        contents = [types.Content.model_validate(content) for content in body["contents"]]
        types.GenerationConfig.model_validate(body.get("generationConfig", {}))
        [types.Tool.model_validate(tool) for tool in body.get("tools", ())]
    except ValidationError as error:
        return trouble(400, "INVALID_ARGUMENT", str(error))
    unsigned = [c for c in contents if (calls := _calls(c)) and not calls[0].thought_signature]
    if unsigned and model.startswith("gemini-3"):
        return trouble(
            400,
            "INVALID_ARGUMENT",
            "Function call is missing a thought_signature in functionCall parts.",
        )
    parts = said(body)
    if verb == "generateContent":
        n = body.get("generationConfig", {}).get("candidateCount", 1)
        return Plain(
            200,
            whole(
                [
                    {
                        "content": {"parts": parts, "role": "model"},
                        "finishReason": "STOP",
                        "index": i,
                    }
                    for i in range(n)
                ]
            ),
        )
    return Sse(frames(parts), done=False)


def _calls(content: types.Content) -> list[types.Part]:
    return [part for part in content.parts or () if part.function_call]


def said(body: Any) -> list[Any]:
    """The parts of the answer."""
    last = body["contents"][-1]["parts"]
    words = "".join(part.get("text", "") for part in last)
    words += "".join(
        part["functionResponse"]["response"]["output"]
        for part in last
        if "functionResponse" in part
    )
    config = body.get("generationConfig", {})
    parts: list[Any] = []
    if config.get("thinkingConfig", {}).get("includeThoughts"):
        parts.append({"text": f"They say {words}.", "thought": True})
    if "tools" in body and "functionResponse" not in last[0]:
        names = [declared["name"] for declared in body["tools"][0]["functionDeclarations"]]
        calls: list[Any] = [
            {"functionCall": {"name": name, "args": {"city": words}}} for name in names
        ]
        calls[0]["thoughtSignature"] = base64.b64encode(words.encode()).decode()
        return parts + calls
    if "responseJsonSchema" in config:
        return [*parts, {"text": json.dumps({"city": words})}]
    return [*parts, {"text": words}]


def whole(candidates: list[Any]) -> Any:
    usage = {
        "promptTokenCount": 10,
        "cachedContentTokenCount": 3,
        "candidatesTokenCount": 4,
        "totalTokenCount": 14,
    }
    return {
        "candidates": candidates,
        "usageMetadata": usage,
        "modelVersion": "gemini",
        "responseId": "r-1",
    }


def frames(parts: list[Any]) -> Iterator[bytes]:
    """The events of an answer: every word its own, every call whole."""
    pieces = [piece for part in parts for piece in _split(part)]
    for i, piece in enumerate(pieces):
        candidate: dict[str, Any] = {"content": {"parts": [piece], "role": "model"}, "index": 0}
        if i == len(pieces) - 1:
            candidate["finishReason"] = "STOP"
        yield b"data: " + json.dumps(whole([candidate]), ensure_ascii=False).encode() + b"\r\n\r\n"


def _split(part: Any) -> list[Any]:
    if "text" not in part:
        return [part]
    return [part | {"text": word} for word in part["text"].replace(" ", " \0").split("\0")]


# --- the house before it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        running.reply = reply
        yield running


@pytest.fixture(scope="module")
def server(upstream: ScriptedUpstream) -> Iterator[Chattable]:
    with chattable(CONFIG.format(url=upstream.url), GEMINI_API_KEY=KEY) as running:
        yield running


@pytest.fixture
def client(server: Chattable, upstream: ScriptedUpstream) -> Iterator[OpenAI]:
    upstream.clear()
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=server.user_key("alice"), max_retries=0
    ) as client:
        yield client


def asked(*messages: Any, model: str = "flash", **params: Any) -> Any:
    return {"model": model, "messages": list(messages), **params}


HELLO: Any = {"role": "user", "content": "Grüß dich 👋 again"}


def test_a_chat(client: OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.create(
        **asked({"role": "system", "content": "be kind"}, HELLO, max_tokens=50, seed=7)
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
    assert request.json["systemInstruction"] == {"parts": [{"text": "be kind"}]}
    assert request.json["generationConfig"] == {"maxOutputTokens": 50, "seed": 7}


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


@pytest.mark.parametrize("model, effort", [("flash", None), ("flash", "low"), ("old", "high")])
@pytest.mark.parametrize("streaming", [False, True])
def test_tools_and_thoughts_there_and_back(
    streaming: bool, model: str, effort: str | None, client: OpenAI, upstream: ScriptedUpstream
) -> None:
    """Law: the SDK's own message, sent back as it is, becomes the very calls that the upstream had made, signatures too."""
    params: dict[str, Any] = {"tools": TOOLS} | ({"reasoning_effort": effort} if effort else {})
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
        for call in reversed(message.tool_calls)
    ]
    back = message.model_dump(exclude_none=True, exclude={"parsed"})
    for call in back["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    answer = client.chat.completions.create(**asked(HELLO, back, *results, model=model, **params))
    assert answer.choices[0].message.content == "get_weather! get_time! "
    first, second = upstream.requests
    calls = [part for part in said(first.json) if "functionCall" in part]
    sent = second.json["contents"][1]
    for part, call in zip(sent["parts"], message.tool_calls, strict=True):
        assert part["functionCall"].pop("id") == call.id
    assert sent == {"role": "model", "parts": calls}


def test_a_history_of_another_model(client: OpenAI) -> None:
    """Calls that nobody signed are taken all the same."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    past = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = client.chat.completions.create(
        **asked(HELLO, past, {"role": "tool", "tool_call_id": "call_1", "content": "noon"})
    )
    assert answer.choices[0].message.content == "noon"


class City(BaseModel):
    city: str


def test_a_schema(client: OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.parse(**asked(HELLO), response_format=City)
    assert answer.choices[0].message.parsed == City(city=HELLO["content"])
    assert upstream.requests[0].json["generationConfig"]["responseJsonSchema"]["required"] == [
        "city"
    ]


def test_several_answers(client: OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.create(**asked(HELLO, n=2))
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (0, HELLO["content"]),
        (1, HELLO["content"]),
    ]
    upstream.clear()
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**asked(HELLO, n=2, stream=True))
    assert refused.value.param == "n" and upstream.requests == []


def test_a_blocked_prompt(client: OpenAI, upstream: ScriptedUpstream) -> None:
    blocked = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5},
    }
    upstream.script(Plain(200, blocked))
    [choice] = client.chat.completions.create(**asked(HELLO)).choices
    assert (choice.finish_reason, choice.message.content) == (
        "content_filter",
        None,
    ) and "SAFETY" in (choice.message.refusal or "")


def test_its_errors_keep_their_meaning(client: OpenAI, upstream: ScriptedUpstream) -> None:
    def error(answer: Answer, kind: type[Any], stream: bool = False) -> Any:
        upstream.script(answer)
        with pytest.raises(kind) as raised:
            list(client.chat.completions.create(**asked(HELLO, stream=stream)))
        return raised.value

    long = trouble(
        400,
        "INVALID_ARGUMENT",
        "The input token count (9) exceeds the maximum number of tokens allowed (8).",
    )
    assert (error(long, BadRequestError).code, error(long, BadRequestError, True).param) == (
        "context_length_exceeded",
        "messages",
    )
    assert (
        error(trouble(429, "RESOURCE_EXHAUSTED", "Quota exceeded."), RateLimitError).code
        == "rate_limit_exceeded"
    )
    busy = error(trouble(503, "UNAVAILABLE", "The model is overloaded."), InternalServerError)
    assert (busy.status_code, busy.code) == (503, "upstream_overloaded")
    assert (
        error(trouble(404, "NOT_FOUND", "models/x is not found"), NotFoundError).code
        == "model_not_found"
    )
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    for keyless in (
        trouble(400, "INVALID_ARGUMENT", f"Bad key {KEY}", info),
        trouble(403, "PERMISSION_DENIED", f"No {KEY}"),
    ):
        told = error(keyless, InternalServerError)
        assert (told.status_code, told.code) == (502, "upstream_auth_error") and KEY not in str(
            told
        )


def test_a_stream_that_fails_says_so(client: OpenAI, upstream: ScriptedUpstream) -> None:
    kept = list(frames([{"text": "one two"}]))[:1]
    broken = b'data: {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}\r\n\r\n'
    for script in (Sse([*kept, broken], done=False), Sse(kept, done=False)):
        upstream.script(script)
        words = []
        with pytest.raises(APIError):
            for chunk in client.chat.completions.create(**asked(HELLO, stream=True)):
                words.append(chunk.choices[0].delta.content)
        assert words == ["one "]


def test_the_key_is_nowhere_else(
    client: OpenAI, server: Chattable, upstream: ScriptedUpstream
) -> None:
    client.chat.completions.create(**asked(HELLO))
    assert all(KEY not in request.path for request in upstream.requests) and KEY not in server.log()
