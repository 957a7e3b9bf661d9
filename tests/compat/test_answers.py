"""The checklist, 1 to 13: plain answers, streams, models, refusals.

The numbers are the checklist's own.
"""

import json
import time
from typing import Any

import pytest
from answers import Gate
from compat.browser import CHAT, Browser, Page
from compat.strict import check_usage, read
from echo_model import ask
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletion
from process import Chattable
from upstream import ScriptedUpstream

INVALID = "invalid_request_error"
MODELS = ["m", "echo", "persona", "scripted"]


def refusal(
    page: Page, status: int, param: str | None, code: str | None, *words: str, kind: str = INVALID
) -> None:
    """Checks an error whole."""
    assert page.error == (status, kind, param, code), page.body
    assert all(word in page.message for word in words), page.message


@pytest.mark.parametrize("model", MODELS)
def test_01_plain_answer(browser: Browser, model: str) -> None:
    page = browser.chat(ask("hello  there", model=model))
    answer = page.json
    assert page.status == 200 and page.headers["content-type"].startswith("application/json")
    assert {"id", "object", "created", "model", "choices", "usage"} <= set(answer)
    assert answer["id"].startswith("chatcmpl-") and (answer["object"], answer["model"]) == (
        "chat.completion",
        model,
    )
    assert abs(answer["created"] - time.time()) < 60
    [choice] = answer["choices"]
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    message = choice["message"]
    assert message == {
        "role": "assistant",
        "content": "one two" if model == "scripted" else "hello  there",
        "refusal": None,
    }
    check_usage(answer["usage"])


@pytest.mark.parametrize("strict", [False, True])
def test_01_plain_answer_through_the_sdk(
    server: Chattable, key: str, upstream: ScriptedUpstream, strict: bool
) -> None:
    with OpenAI(
        base_url=f"{server.base_url}/v1", api_key=key, _strict_response_validation=strict
    ) as client:
        answer = client.chat.completions.create(**ask("hello"))
    assert isinstance(answer, ChatCompletion) and answer.choices[0].message.content == "hello"


async def test_01_plain_answer_through_the_async_sdk(async_client: AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(**ask("hello"))
    assert (
        answer.choices[0].message.content == "hello"
        and answer.usage
        and answer.usage.total_tokens == 2
    )


@pytest.mark.parametrize("model", MODELS)
def test_02_stream(browser: Browser, model: str) -> None:
    for _ in range(2):  # over the same connection
        page = browser.chat(ask("hello there", model=model, stream=True))
        assert page.status == 200 and page.headers["content-type"].startswith("text/event-stream")
        assert page.body.endswith(b"data: [DONE]\n\n")
        answer = read(page.body)
        assert answer.text == ("one two" if model == "scripted" else "hello there")
        assert len(answer.chunks) > 1 and answer.choices[0].finish == "stop"
    assert browser.connection.sock is not None  # it was never closed


def test_02_first_chunk_before_the_answer_is_whole(
    client: OpenAI, upstream: ScriptedUpstream
) -> None:
    gate = Gate(2)
    upstream.script(gate)
    with client.chat.completions.create(**ask("one two three"), stream=True) as chunks:
        assert next(chunks).choices[0].delta.content == "one"
        gate.release()
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " two three"


async def test_02_stream_through_the_async_sdk(async_client: AsyncOpenAI) -> None:
    async with async_client.chat.completions.stream(**ask("hello there")) as running:
        kinds = [event.type async for event in running]
        answer = await running.get_final_completion()
    assert kinds[-1] == "content.done" and answer.choices[0].message.content == "hello there"
    assert answer.choices[0].message.role == "assistant"


@pytest.mark.parametrize("model", MODELS)
def test_03_usage_of_a_stream(browser: Browser, model: str) -> None:
    body = ask("hello there", model=model, stream=True)
    told = read(
        browser.chat(body | {"stream_options": {"include_usage": True}}).body, include_usage=True
    )
    assert told.usage == browser.chat(ask("hello there", model=model)).json["usage"]
    for options in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": None}):
        assert read(browser.chat(body | options).body).usage is None


def test_04_list_of_models(browser: Browser, client: OpenAI, server: Chattable) -> None:
    page = browser.get("/v1/models")
    assert page.status == 200 and page.json["object"] == "list"
    names = [model["id"] for model in page.json["data"]]
    assert {"m", "echo", "persona", "meta/llama-3.1:8b", "gpt-6.1"} <= set(
        names
    ) and "wild/*" not in names
    for model in page.json["data"]:
        assert (
            model["object"] == "model"
            and type(model["created"]) is int
            and isinstance(model["owned_by"], str)
        )
    assert [model.id for model in client.models.list()] == names
    few = browser.get(
        "/v1/models", authorization=f"Bearer {server.user_key(models=['m', 'meta/*'])}"
    )
    assert [model["id"] for model in few.json["data"]] == ["m", "meta/llama-3.1:8b"]


def test_04_list_of_models_is_quick_and_has_a_head(
    browser: Browser, upstream: ScriptedUpstream
) -> None:
    began = time.monotonic()
    assert all(browser.get("/v1/models").status == 200 for _ in range(10))
    assert time.monotonic() - began < 10 * 0.1
    head = browser.ask("HEAD", "/v1/models")
    assert (head.status, head.body) == (200, b"") and head.headers["content-type"].startswith(
        "application/json"
    )
    assert not upstream.requests  # no upstream is asked


@pytest.mark.parametrize("name", ["m", "echo", "meta/llama-3.1:8b", "gpt-6.1", "wild/any.thing:1"])
def test_05_one_model(client: OpenAI, browser: Browser, name: str) -> None:
    assert client.models.retrieve(name).id == name  # the SDK encodes the slash
    assert browser.get(f"/v1/models/{name}").json["id"] == name
    assert browser.ask("HEAD", f"/v1/models/{name}").status == 200
    assert client.chat.completions.create(**ask("hi", model=name)).model == name


@pytest.mark.parametrize(
    "name", ["nothing", "meta/llama-3.1", "meta", "nothing/at:all.1", "wild", "ECHO"]
)
def test_05_unknown_model(browser: Browser, client: OpenAI, name: str) -> None:
    words = f"The model `{name}` does not exist or you do not have access to it."
    refusal(browser.get(f"/v1/models/{name}"), 404, "model", "model_not_found", words)
    with pytest.raises(NotFoundError) as refused:
        client.models.retrieve(name)
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_06_chat_with_an_unknown_model(
    browser: Browser, client: OpenAI, server: Chattable, stream: bool
) -> None:
    words = "The model `nothing` does not exist or you do not have access to it."
    refusal(
        browser.chat(ask("hi", model="nothing", stream=stream)),
        404,
        "model",
        "model_not_found",
        words,
    )
    few = server.user_key(models=["m"])
    page = browser.chat(ask("hi", model="echo", stream=stream), authorization=f"Bearer {few}")
    refusal(page, 404, "model", "model_not_found", words.replace("nothing", "echo"))
    with pytest.raises(NotFoundError, match="does not exist"):
        client.chat.completions.create(**ask("hi", model="nothing"), stream=stream)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", CHAT])
def test_07_keys(browser: Browser, path: str) -> None:
    def ask_with(value: str) -> Page:
        if path == CHAT:
            return browser.chat(ask("hi"), authorization=value)
        return browser.get(path, authorization=value)

    for missing in ("", "Bearer", "Bearer "):
        page = ask_with(missing)
        refusal(page, 401, None, None, "You didn't provide an API key")
        assert page.headers["www-authenticate"].startswith("Bearer")
    for wrong in (
        "sk-wrong-0123456789abcdef",
        "short",
        "clé-héhé-0123456789".encode().decode("latin-1"),
    ):
        page = ask_with(f"Bearer {wrong}")
        refusal(page, 401, None, "invalid_api_key", "Incorrect API key provided", "****")
        assert wrong not in page.message and page.headers["www-authenticate"].startswith("Bearer")


def test_07_key_in_its_other_header(server: Chattable, key: str) -> None:
    with Browser(server.base_url) as browser:
        assert browser.get("/v1/models", x_api_key=key).status == 200
        refusal(
            browser.get("/v1/models", x_api_key="sk-wrong-0123456789"),
            401,
            None,
            "invalid_api_key",
            "****",
        )


def test_07_the_sdk_names_a_wrong_key(server: Chattable) -> None:
    with (
        OpenAI(
            base_url=f"{server.base_url}/v1", api_key="sk-wrong-0123456789", max_retries=0
        ) as client,
        pytest.raises(AuthenticationError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "invalid_api_key" and refused.value.request_id


NOT_JSON = [b"", b"{", b"hello", b'{"model": "m",}', b"\xff\xfe", b'{"a": "\xff"}', b"{} {}"]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: ascii(body[:12]))
def test_08_not_json(browser: Browser, body: bytes) -> None:
    refusal(browser.chat(body), 400, None, None, "We could not parse the JSON body of your request")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"hello"', b"true", b"[{}]"])
def test_08_json_that_is_no_object(browser: Browser, body: bytes) -> None:
    refusal(browser.chat(body), 400, None, None, "must be a JSON object")


def test_09_missing_fields(browser: Browser, client: OpenAI) -> None:
    missing = "missing_required_parameter"
    refusal(
        browser.chat({"model": "m"}),
        400,
        "messages",
        missing,
        "Missing required parameter: 'messages'.",
    )
    refusal(browser.chat({"model": "m", "messages": None}), 400, "messages", missing)
    refusal(
        browser.chat({"messages": ask("hi")["messages"]}),
        400,
        "model",
        missing,
        "Missing required parameter: 'model'.",
    )
    refusal(browser.chat(ask("hi", model="")), 400, "model", missing)
    refusal(browser.chat({}), 400, "model", missing)
    refusal(
        browser.chat({"model": "m", "messages": []}), 400, "messages", "empty_array", "messages"
    )
    refusal(
        browser.chat({"model": "m", "messages": [{"content": "hi"}]}),
        400,
        "messages[0].role",
        missing,
    )
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="m", messages=[])
    assert refused.value.param == "messages" and refused.value.code == "empty_array"


USER = {"role": "user", "content": "hi"}
# changed fields, the path that is named, what is expected there
WRONG_TYPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "content": (
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content",
        "got an integer",
    ),
    "content_null": (
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content",
        "got null",
    ),
    "second_message": (
        {"messages": [USER, {"role": "user", "content": {}}]},
        "messages[1].content",
        "got an object",
    ),
    "message": ({"messages": ["hi"]}, "messages[0]", "expected an object, but got a string"),
    "messages": ({"messages": "hi"}, "messages", "expected an array, but got a string"),
    "part": (
        {"messages": [{"role": "user", "content": ["hi"]}]},
        "messages[0].content[0]",
        "expected an object",
    ),
    "text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
        "messages[0].content[0].text",
        "a string",
    ),
    "temperature": ({"temperature": "hot"}, "temperature", "expected a number, but got a string"),
    "temperature_bool": (
        {"temperature": True},
        "temperature",
        "expected a number, but got a boolean",
    ),
    "max_tokens": ({"max_tokens": "7"}, "max_tokens", "expected an integer, but got a string"),
    "max_tokens_float": ({"max_tokens": 7.5}, "max_tokens", "expected an integer"),
    "model": ({"model": 7}, "model", "expected a string, but got an integer"),
    "stream": ({"stream": "yes"}, "stream", "expected a boolean, but got a string"),
    "n": ({"n": "2"}, "n", "expected an integer"),
    "tools": ({"tools": {}}, "tools", "expected an array, but got an object"),
    "tool": ({"tools": ["f"]}, "tools[0]", "expected an object, but got a string"),
    "stop": ({"stop": 7}, "stop", "got an integer"),
    "format": (
        {"response_format": "json"},
        "response_format",
        "expected an object, but got a string",
    ),
    "options": ({"stream_options": True}, "stream_options", "expected an object"),
    "usage": (
        {"stream_options": {"include_usage": "yes"}},
        "stream_options.include_usage",
        "expected a boolean",
    ),
}


@pytest.mark.parametrize("model", ["m", "echo"])
@pytest.mark.parametrize(("fields", "param", "words"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_10_wrong_type(
    browser: Browser, upstream: ScriptedUpstream, model: str, fields: Any, param: str, words: str
) -> None:
    page = browser.chat(ask("hi", model=model) | fields)
    refusal(
        page, 400, param, "invalid_type", f"Invalid type for '{param}': expected", "instead.", words
    )
    assert not upstream.requests


def test_10_wrong_value(browser: Browser) -> None:
    page = browser.chat({"model": "m", "messages": [{"role": "wizard", "content": "hi"}]})
    refusal(
        page,
        400,
        "messages[0].role",
        "invalid_value",
        "'wizard'",
        "'system'",
        "'developer'",
        "'user'",
        "'assistant'",
        "'tool'",
    )
    for field, value, code in (
        ("n", 0, "integer_below_min_value"),
        ("top_logprobs", 99, "integer_above_max_value"),
    ):
        refusal(browser.chat(ask("hi") | {field: value}), 400, field, code, field)


@pytest.mark.parametrize("stream", [False, True])
def test_11_every_error_has_the_envelope(browser: Browser, stream: bool) -> None:
    pages = {
        404: browser.get("/v1/nothing"),
        405: browser.ask("DELETE", CHAT),
        415: browser.chat(b"x", content_encoding="lz4"),
        500: browser.chat(ask("hi", model="buggy", stream=stream)),
        502: browser.chat(ask("hi", model="nobody-m", stream=stream)),
    }
    for status, page in pages.items():
        assert page.error[0] == page.status == status
        assert page.headers["x-request-id"].startswith("req_")
        assert "traceback" not in page.body.decode().lower() and "detail" not in page.json
    assert pages[405].headers["allow"] and "POST" in pages[405].headers["allow"]
    assert pages[500].error[1] == "server_error" and pages[404].error[1] == INVALID


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/v1",
        "/v1/chat",
        "/v1/models/",
        "/admin/users",
        "/admin/nothing",
        "/health/no",
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PROPFIND"])
def test_11_odd_methods_and_paths(browser: Browser, path: str, method: str) -> None:
    assert browser.ask(method, path).error[0] in (404, 405)


def test_12_request_ids(browser: Browser, client: OpenAI) -> None:
    pages = [
        browser.get("/health"),
        browser.get("/v1/models"),
        browser.get("/nothing"),
        browser.chat(ask("hi")),
        browser.chat(ask("hi", stream=True)),
        browser.chat(ask("hi", model="half", stream=True)),
        browser.ask("OPTIONS", CHAT),
    ]
    ids = [page.headers["x-request-id"] for page in pages]
    assert len(set(ids)) == len(ids) and all(ids)
    assert client.chat.completions.create(**ask("hi"))._request_id
    raw = client.chat.completions.with_raw_response.create(**ask("hi"), stream=True)
    assert raw.request_id and raw.headers["x-request-id"] == raw.request_id
    with pytest.raises(NotFoundError) as refused:
        client.models.retrieve("nothing")
    assert refused.value.request_id


EXTRA = {
    "top_k": 40,
    "guided_json": {"a": [1, None]},
    "x": None,
    "chat_template_kwargs": {"thinking": False},
    "été": "é",
}


@pytest.mark.parametrize("model", ["m", "plain-m", "echo", "persona"])
@pytest.mark.parametrize("stream", [False, True])
def test_13_unknown_fields(
    client: OpenAI, upstream: ScriptedUpstream, model: str, stream: bool
) -> None:
    answer = client.chat.completions.create(
        **ask("hi", model=model), stream=stream, extra_body=EXTRA
    )
    if stream:
        assert list(answer)
    for request in upstream.requests:
        assert EXTRA.items() <= request.json.items()
    assert bool(upstream.requests) == (model != "echo")


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 2**64 - 1, 10**25, 0.1, 1e300])
def test_13_numbers_pass_exactly(
    browser: Browser, upstream: ScriptedUpstream, number: float
) -> None:
    assert browser.chat(ask("hi", x_number=number, x_list=[{"y": number}])).status == 200
    [request] = upstream.requests
    assert json.loads(request.body)["x_number"] == number and request.json["x_list"] == [
        {"y": number}
    ]
