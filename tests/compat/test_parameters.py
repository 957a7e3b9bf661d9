"""The checklist, 23 to 33 and 39 to 46: what upstreams refuse, and what passes through untouched."""

import json
from typing import Any

import openai
import pytest
from answers import Html, Plain, Raw, Redirect, Silent, Sse, error
from compat.browser import Browser
from compat.hostile import STOP, delta, said
from compat.serving import UPSTREAM_KEY
from compat.strict import read
from echo_model import ask
from openai import AsyncOpenAI, BadRequestError, ContentFilterFinishReasonError, OpenAI
from pydantic import BaseModel
from upstream import ScriptedUpstream

UPSTREAM = "upstream_error"
QUOTA = "insufficient_quota"
INVALID = "invalid_request_error"
SLOW_DOWN = error(
    429,
    "slow down",
    "rate_limit_exceeded",
    headers={"retry-after": "7", "x-ratelimit-limit-requests": "9"},
)
# the upstream's answer, then the client's status, type, code
REFUSED: dict[str, tuple[Any, int, str, str]] = {
    "429": (SLOW_DOWN, 429, UPSTREAM, "rate_limit_exceeded"),
    # the account of the house
    "429_quota": (error(429, "no money", QUOTA), 502, UPSTREAM, "upstream_auth_error"),
    "500": (error(500, "boom"), 502, UPSTREAM, "upstream_error"),
    "502": (Html(502), 502, UPSTREAM, "upstream_error"),
    "503": (error(503, "busy"), 503, UPSTREAM, "upstream_overloaded"),
    "504": (Html(504), 504, UPSTREAM, "upstream_timeout"),
    "529": (error(529, "overloaded"), 503, UPSTREAM, "upstream_overloaded"),
    "401": (
        error(401, f"Incorrect API key provided: {UPSTREAM_KEY}"),
        502,
        UPSTREAM,
        "upstream_auth_error",
    ),
    "402": (error(402, "pay first"), 502, UPSTREAM, "upstream_auth_error"),
    "403": (error(403, "not you"), 502, UPSTREAM, "upstream_auth_error"),
    "400": (
        error(400, "odd logit_bias", "invalid_value", "logit_bias"),
        400,
        INVALID,
        "invalid_value",
    ),
    "422": (error(422, "odd", "odd_code"), 422, INVALID, "odd_code"),
    "html": (Html(), 502, UPSTREAM, "upstream_error"),
    "redirect": (Redirect("http://127.0.0.1:9/"), 502, UPSTREAM, "upstream_error"),
    "garbage": (Raw([b"hello\r\n\r\n"]), 502, UPSTREAM, "upstream_unreachable"),
    "no_choices": (Plain(200, {"choices": []}), 502, UPSTREAM, "upstream_error"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["m", "persona"])
@pytest.mark.parametrize(("answer", "status", "kind", "code"), REFUSED.values(), ids=REFUSED)
def test_23_upstream_failures(
    browser: Browser,
    upstream: ScriptedUpstream,
    model: str,
    stream: bool,
    answer: Any,
    status: int,
    kind: str,
    code: str,
) -> None:
    upstream.script(answer)
    page = browser.chat(ask("hi", model=model, stream=stream))
    assert (page.status, page.error[1], page.error[3]) == (status, kind, code), page.body
    assert UPSTREAM_KEY not in page.body.decode() and str(upstream.port) not in page.message
    assert page.headers.get("retry-after") == ("7" if answer is SLOW_DOWN else None)
    # the upstream's limits are not the client's
    assert "x-ratelimit-limit-requests" not in page.headers
    if status == 400:
        assert page.json["error"]["param"] == "logit_bias" and page.message == "odd logit_bias"


@pytest.mark.parametrize("stream", [False, True])
def test_23_upstream_out_of_reach_or_silent(
    browser: Browser, upstream: ScriptedUpstream, stream: bool
) -> None:
    assert browser.chat(ask("hi", model="nobody-m", stream=stream)).error == (
        502,
        UPSTREAM,
        None,
        "upstream_unreachable",
    )
    upstream.script(Silent())
    page = browser.chat(ask("hi", model="hasty-m"))
    assert page.error == (504, UPSTREAM, None, "upstream_timeout") and "0.3 seconds" in page.message


def test_23_the_sdk_sees_the_right_class(client: OpenAI, upstream: ScriptedUpstream) -> None:
    classes: list[tuple[int, type[openai.APIStatusError]]] = [
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (401, openai.InternalServerError),  # not the client's key
        (400, openai.BadRequestError),
        (422, openai.UnprocessableEntityError),
    ]
    for status, kind in classes:
        upstream.script(error(status, "no"))
        with pytest.raises(kind) as refused:
            client.chat.completions.create(**ask("hi"))
        assert type(refused.value) is kind and refused.value.request_id


OPENAI_SAYS = (
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 "
    "tokens."
)
OVERFLOWS = {
    "openai": error(400, OPENAI_SAYS, "context_length_exceeded", "messages"),
    "vllm": Plain(
        400,
        {
            "object": "error",
            "message": OPENAI_SAYS,
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "llama.cpp": Plain(
        400,
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "x",
            }
        },
    ),
    "anthropic": error(400, "prompt is too long: 9000 tokens > 8192 maximum"),
    "by_code_alone": error(400, "too much", "context_length_exceeded"),
    "413": error(413, "maximum context length exceeded"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("answer", OVERFLOWS.values(), ids=OVERFLOWS)
def test_24_context_overflow(
    browser: Browser, upstream: ScriptedUpstream, answer: Any, stream: bool
) -> None:
    upstream.script(answer)
    page = browser.chat(ask("hi", stream=stream))
    assert page.error == (400, INVALID, "messages", "context_length_exceeded")
    if OPENAI_SAYS in str(answer.body):
        assert page.message == OPENAI_SAYS


def test_25_body_too_large(browser: Browser) -> None:
    body = b'{"model": "echo", "messages": [{"role": "user", "content": "%b"}]}' % (
        b"x" * 21 * 2**20
    )
    page = browser.chat(body)
    assert page.error == (413, INVALID, None, "request_too_large")
    with Browser(f"http://{browser.host}", browser.key) as chunked:
        page = chunked.chat(iter([body[: 2**20], body[2**20 :]]))
    assert page.error == (413, INVALID, None, "request_too_large")


def test_25_a_large_picture_passes(browser: Browser, upstream: ScriptedUpstream) -> None:
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "A" * (19 * 2**20)},
    }
    parts = [{"type": "text", "text": "what is it"}, picture]
    page = browser.chat({"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert page.json["choices"][0]["message"]["content"] == "what is it"
    assert upstream.requests[0].json["messages"][0]["content"] == parts


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_26_caps_on_output(client: OpenAI, upstream: ScriptedUpstream, field: str) -> None:
    for model in ("m", "plain-m", "persona"):
        answer = client.chat.completions.create(**ask("one two three", model=model) | {field: 2})
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
            "one two",
            "length",
        )
    asked = [
        {key: value for key, value in r.json.items() if "max" in key} for r in upstream.requests
    ]
    assert asked == [{field: 2}, {"max_tokens": 2}, {field: 2}]


def test_26_both_caps(client: OpenAI, upstream: ScriptedUpstream) -> None:
    for model in ("m", "plain-m", "echo"):
        client.chat.completions.create(
            **ask("hi", model=model), max_tokens=7, max_completion_tokens=5
        )
    asked = [
        {key: value for key, value in r.json.items() if "max" in key} for r in upstream.requests
    ]
    assert asked == [{"max_tokens": 7, "max_completion_tokens": 5}, {"max_tokens": 5}]


class Trip(BaseModel):
    """What the model is asked to fill in."""

    city: str
    days: int


@pytest.mark.parametrize("model", ["m", "persona", "jsonish"])
def test_27_parse(client: OpenAI, upstream: ScriptedUpstream, model: str) -> None:
    message = (
        client.chat.completions.parse(**ask("where to?", model=model), response_format=Trip)
        .choices[0]
        .message
    )
    assert isinstance(message.parsed, Trip)
    with client.chat.completions.stream(
        **ask("where to?", model=model), response_format=Trip
    ) as running:
        assert running.get_final_completion().choices[0].message.parsed == message.parsed
    for request in upstream.requests:
        assert request.json["response_format"]["json_schema"]["name"] == "Trip"
        assert set(request.json["response_format"]["json_schema"]["schema"]["properties"]) == {
            "city",
            "days",
        }


async def test_27_parse_through_the_async_sdk(async_client: AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.parse(**ask("where to?"), response_format=Trip)
    assert isinstance(answer.choices[0].message.parsed, Trip)


def test_27_json_object(client: OpenAI, browser: Browser) -> None:
    answer = client.chat.completions.create(**ask("hi"), response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content or "") == {"echo": "hi"}
    for kind in ("json_object", "json_schema"):
        page = browser.chat(
            ask(
                "hi",
                model="echo",
                response_format={"type": kind, "json_schema": {"name": "x", "schema": {}}},
            )
        )
        assert page.error == (400, INVALID, "response_format", "unsupported_parameter")
    assert browser.chat(ask("hi", model="echo", response_format={"type": "text"})).status == 200


@pytest.mark.parametrize("model", ["m", "persona"])
def test_28_several_choices(client: OpenAI, browser: Browser, model: str) -> None:
    answer = client.chat.completions.create(**ask("one two", model=model), n=3)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (n, "one two") for n in range(3)
    ]
    stream = read(browser.chat(ask("one two", model=model, n=3, stream=True)).body, n=3)
    assert [(choice.text, choice.finish) for choice in stream.choices] == [("one two", "stop")] * 3


@pytest.mark.parametrize("model", ["echo", "scripted"])
@pytest.mark.parametrize("stream", [False, True])
def test_28_several_choices_refused(browser: Browser, model: str, stream: bool) -> None:
    assert browser.chat(ask("hi", model=model, n=2, stream=stream)).error == (
        400,
        INVALID,
        "n",
        "unsupported_parameter",
    )
    assert browser.chat(ask("hi", model=model, n=1)).status == 200


def test_29_logprobs(client: OpenAI, browser: Browser) -> None:
    choice = client.chat.completions.create(
        **ask("one two"), logprobs=True, top_logprobs=2
    ).choices[0]
    assert choice.logprobs and choice.logprobs.content
    assert [(entry.token, len(entry.top_logprobs)) for entry in choice.logprobs.content] == [
        ("one", 2),
        (" two", 2),
    ]
    chunks = client.chat.completions.create(**ask("one two"), logprobs=True, stream=True)
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [entry.token for one in streamed if one for entry in one.content or ()] == [
        "one",
        " two",
    ]
    assert (
        browser.chat(ask("hi", model="echo", logprobs=True)).json["choices"][0]["logprobs"] is None
    )


SAMPLING = {
    "stop": ["a", "b"],
    "seed": -(2**53) + 1,
    "presence_penalty": -1.5,
    "frequency_penalty": 2,
    "logit_bias": {"50256": -100},
    "top_p": 0.9,
    "temperature": 0,
}


@pytest.mark.parametrize("stream", [False, True])
def test_30_sampling_parameters(client: OpenAI, upstream: ScriptedUpstream, stream: bool) -> None:
    for model in ("m", "plain-m", "persona", "echo"):
        answer: Any = client.chat.completions.create(
            **ask("hi", model=model), **SAMPLING, stream=stream
        )  # type: ignore[call-overload]
        assert list(answer)
    assert len(upstream.requests) == 3 and all(
        SAMPLING.items() <= request.json.items() for request in upstream.requests
    )
    client.chat.completions.create(**ask("hi"), stop="a")
    client.chat.completions.create(**ask("hi"), stop=None)
    assert [request.json["stop"] for request in upstream.requests[3:]] == ["a", None]


def test_30_what_an_upstream_does_not_know_is_dropped(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    only_openai: Any = {
        "store": False,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
    }
    for model in ("m", "plain-m"):
        client.chat.completions.create(**ask("hi", model=model), **only_openai)
    knows, lacks = (request.json for request in upstream.requests)
    assert only_openai.items() <= knows.items() and not only_openai.keys() & lacks.keys()


PICTURES = [
    {"type": "text", "text": "what is it"},
    {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "high"}},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
]


@pytest.mark.parametrize("model", ["m", "plain-m", "persona", "echo"])
def test_31_pictures(client: OpenAI, upstream: ScriptedUpstream, model: str) -> None:
    messages: Any = [{"role": "user", "content": PICTURES}]
    assert (
        client.chat.completions.create(model=model, messages=messages).choices[0].message.content
        == "what is it"
    )
    for request in upstream.requests:
        assert request.json["messages"][-1]["content"] == PICTURES


def test_31_broken_picture(browser: Browser) -> None:
    parts: list[Any] = [
        {"type": "image_url", "image_url": "data:"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url"},
    ]
    paths = [f"messages[0].content[1].image_url{end}" for end in ("", ".url", "")]
    for part, path in zip(parts, paths, strict=True):
        content = [{"type": "text", "text": "x"}, part]
        assert (
            browser.chat({"model": "m", "messages": [{"role": "user", "content": content}]}).error[
                2
            ]
            == path
        )


@pytest.mark.parametrize("model", ["m", "persona"])
def test_32_sound_and_files(browser: Browser, upstream: ScriptedUpstream, model: str) -> None:
    parts = [
        {"type": "text", "text": "listen"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        },
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},  # vLLM's own
    ]
    fields = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    sound = {"id": "audio_1", "data": "UklGRg==", "expires_at": 9, "transcript": "hi"}
    message = {"role": "assistant", "content": None, "refusal": None, "audio": sound}
    upstream.script(
        Plain(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    )
    page = browser.chat(
        {"model": model, "messages": [{"role": "user", "content": parts}], **fields}
    )
    assert page.json["choices"][0]["message"]["audio"] == sound
    assert page.json["choices"][0]["message"]["content"] is None
    [request] = upstream.requests
    assert (
        fields.items() <= request.json.items() and request.json["messages"][-1]["content"] == parts
    )


@pytest.mark.parametrize(
    "user", ["u-1", "", {"id": "u-1", "name": "Zoë"}], ids=["text", "empty", "object"]
)
def test_33_user(browser: Browser, upstream: ScriptedUpstream, user: Any) -> None:
    for model in ("m", "plain-m", "echo"):
        assert browser.chat(ask("hi", model=model, user=user, safety_identifier="s")).status == 200
    openai_, vllm = (request.json for request in upstream.requests)
    assert openai_["user"] == vllm["user"] == user
    assert openai_["safety_identifier"] == "s" and "safety_identifier" not in vllm


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("model", ["m", "persona"])
def test_39_reasoning(
    browser: Browser, client: OpenAI, upstream: ScriptedUpstream, model: str, name: str
) -> None:
    details = {"reasoning_tokens": 3}
    usage = {
        "prompt_tokens": 1,
        "completion_tokens": 5,
        "total_tokens": 6,
        "completion_tokens_details": details,
    }
    message = {"role": "assistant", "content": "42", name: "hm, yes"}
    whole = Plain(
        200,
        {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage},
    )
    upstream.script(
        whole,
        Sse(
            [
                delta({name: "hm, "}),
                delta({name: "yes"}),
                *said("42"),
                STOP,
                {"choices": [], "usage": usage},
            ]
        ),
    )
    answer = client.chat.completions.create(**ask("hi", model=model))
    assert answer.choices[0].message.to_dict()["reasoning_content"] == "hm, yes"
    assert answer.usage and answer.usage.completion_tokens_details
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    body = ask("hi", model=model, stream=True, stream_options={"include_usage": True})
    stream = read(browser.chat(body).body, include_usage=True)
    assert stream.choices[0].texts["reasoning_content"] == "hm, yes" and stream.text == "42"
    assert stream.usage and stream.usage["completion_tokens_details"] == details


def test_39_reasoning_of_an_agent(browser: Browser) -> None:
    assert (
        browser.chat(ask("hi", model="thinker")).json["choices"][0]["message"]["reasoning_content"]
        == "hm, yes"
    )
    stream = read(browser.chat(ask("hi", model="thinker", stream=True)).body)
    assert stream.choices[0].texts == {"content": "42", "reasoning_content": "hm, yes"}


def test_40_refusal(browser: Browser, client: OpenAI, upstream: ScriptedUpstream) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I will not."}
    upstream.script(
        Plain(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}),
        Sse(
            [
                delta({"role": "assistant", "content": "", "refusal": None}),
                *(delta({"refusal": w}) for w in ("I ", "will not.")),
                STOP,
            ]
        ),
    )
    answer = client.chat.completions.parse(**ask("hi"), response_format=Trip).choices[0].message
    assert (answer.refusal, answer.content, answer.parsed) == ("I will not.", None, None)
    stream = read(browser.chat(ask("hi", stream=True)).body)
    assert stream.choices[0].texts["refusal"] == "I will not." and stream.text == ""


@pytest.mark.parametrize("model", ["m", "persona"])
def test_40_content_filter(
    client: OpenAI, browser: Browser, upstream: ScriptedUpstream, model: str
) -> None:
    filtered = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "so"},
                "finish_reason": "content_filter",
            }
        ]
    }
    stream = Sse([*said("so"), delta({}, "content_filter")])
    upstream.script(Plain(200, filtered), Plain(200, filtered), stream)
    assert (
        client.chat.completions.create(**ask("hi", model=model)).choices[0].finish_reason
        == "content_filter"
    )
    with pytest.raises(ContentFilterFinishReasonError):
        client.chat.completions.parse(**ask("hi", model=model), response_format=Trip)
    assert (
        read(browser.chat(ask("hi", model=model, stream=True)).body).choices[0].finish
        == "content_filter"
    )


FUNCTION: Any = {
    "functions": [{"name": "weather", "parameters": {"type": "object"}}],
    "function_call": {"name": "weather"},
}


@pytest.mark.parametrize("model", ["m", "persona"])
def test_41_legacy_functions(
    client: OpenAI, browser: Browser, upstream: ScriptedUpstream, model: str
) -> None:
    call = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    message = {"role": "assistant", "content": None, "function_call": call}
    pieces = [
        {"name": "weather", "arguments": ""},
        {"arguments": '{"city": '},
        {"arguments": '"Oslo"}'},
    ]
    upstream.script(
        Plain(
            200, {"choices": [{"index": 0, "message": message, "finish_reason": "function_call"}]}
        ),
        Sse([*(delta({"function_call": piece}) for piece in pieces), delta({}, "function_call")]),
    )
    choice = client.chat.completions.create(**ask("hi", model=model), **FUNCTION).choices[0]
    assert choice.finish_reason == "function_call" and choice.message.function_call
    assert choice.message.function_call.to_dict() == call and choice.message.content is None
    stream = read(browser.chat(ask("hi", model=model, stream=True, **FUNCTION)).body)
    assert stream.choices[0].function_call == call and stream.choices[0].finish == "function_call"
    follow_up: Any = [message, {"role": "function", "name": "weather", "content": "rain"}]
    assert (
        client.chat.completions.create(model=model, messages=follow_up).choices[0].message.content
        == "rain"
    )
    assert upstream.requests[-1].json["messages"][-2:] == follow_up
    assert all(FUNCTION.items() <= request.json.items() for request in upstream.requests[:2])


TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHOICES = ["auto", "none", "required", {"type": "function", "function": {"name": "weather"}}, None]


@pytest.mark.parametrize("model", ["m", "plain-m", "persona", "echo"])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: str(choice)[:8])
@pytest.mark.parametrize("parallel", [True, False, None])
def test_42_tool_choice(
    client: OpenAI, upstream: ScriptedUpstream, model: str, choice: Any, parallel: Any
) -> None:
    fields: Any = {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": parallel}
    answer = client.chat.completions.create(**ask("hi", model=model), **fields)
    called = choice == "required" or isinstance(choice, dict)
    assert bool(answer.choices[0].message.tool_calls) == (called and model != "echo")
    assert all(fields.items() <= request.json.items() for request in upstream.requests)


def test_42_custom_tools(browser: Browser, upstream: ScriptedUpstream) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    first = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sql", "input": "select"}}
    rest = {"index": 0, "custom": {"input": " 1"}}
    upstream.script(
        Plain(200, {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}),
        Sse(
            [delta({"tool_calls": [first]}), delta({"tool_calls": [rest]}), delta({}, "tool_calls")]
        ),
    )
    tools = [{"type": "custom", "custom": {"name": "sql", "format": {"type": "text"}}}]
    assert browser.chat(ask("hi", tools=tools)).json["choices"][0]["message"]["tool_calls"] == [
        call
    ]
    [streamed] = read(browser.chat(ask("hi", tools=tools, stream=True)).body).choices[0].calls
    assert (streamed.kind, streamed.name, streamed.text) == ("custom", "sql", "select 1")
    assert all(request.json["tools"] == tools for request in upstream.requests)


def passed(client: OpenAI, upstream: ScriptedUpstream, messages: Any, said: str) -> None:
    """Checks that messages reach an upstream as they are, and that agents take them too."""
    for model in ("m", "persona", "echo"):
        assert (
            client.chat.completions.create(model=model, messages=messages)
            .choices[0]
            .message.content
            or ""
        ) == said
    assert [request.json["messages"][-len(messages) :] for request in upstream.requests] == [
        messages,
        messages,
    ]


CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_43_tool_result_in_parts(client: OpenAI, upstream: ScriptedUpstream) -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "rain"}]}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        result,
    ]
    passed(client, upstream, messages, "rain")


def test_44_system_messages_anywhere(client: OpenAI, upstream: ScriptedUpstream) -> None:
    roles = ["system", "system", "user", "system", "assistant", "system", "user"]
    passed(
        client,
        upstream,
        [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(roles)],
        "user 6",
    )
    passed_last = [{"role": "user", "content": "hi"}, {"role": "system", "content": "say it"}]
    upstream.clear()
    passed(client, upstream, passed_last, "say it")


def test_45_names(client: OpenAI, upstream: ScriptedUpstream) -> None:
    roles = ["system", "user", "assistant", "user"]
    passed(
        client,
        upstream,
        [{"role": role, "content": "hi", "name": f"{role}-1"} for role in roles],
        "hi",
    )


def test_45_unknown_fields_of_messages(client: OpenAI, upstream: ScriptedUpstream) -> None:
    passed(
        client,
        upstream,
        [{"role": "user", "content": "hi", "cache_control": {"type": "ephemeral"}, "x": [1]}],
        "hi",
    )


@pytest.mark.parametrize("prefill", ["Once upon", "", " "])
def test_46_prefill(client: OpenAI, upstream: ScriptedUpstream, prefill: str) -> None:
    choice = {"message": {"role": "assistant", "content": prefill}, "finish_reason": "stop"}
    upstream.reply = lambda request: Plain(200, {"choices": [choice]})
    passed(
        client,
        upstream,
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": prefill}],
        prefill,
    )


def test_46_empty_content(client: OpenAI, upstream: ScriptedUpstream) -> None:
    passed(client, upstream, [{"role": "user", "content": ""}], "")
    with pytest.raises(BadRequestError):
        client.chat.completions.create(**ask("") | {"messages": [{"role": "user"}]})
