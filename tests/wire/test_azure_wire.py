"""What Azure sends, in bytes of the documented shapes, and what it means; where requests go, as OpenAI's SDK for Azure says."""

import json
from typing import Any

import httpx2
import pytest
from openai import AzureOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from wired import DATA, folded, only, read, same_for_every_cut, streamed

from chattable.adapters.azure.wire import AzureWire
from chattable.adapters.services import VENDORS
from chattable.adapters.sse import SseDecoder
from chattable.agents.chat import Chat, Message

RESOURCE = "https://my-resource.openai.azure.com"
GA, OLD = "2024-10-21", "2024-06-01"
STREAMS = sorted(path.name for path in DATA.glob("azure_*_stream.txt"))
WIRE = AzureWire()


def sent(
    params: Any = None, *, version: str = "", stream: bool = False, messages: Any = None
) -> Any:
    chat = Chat("ours", messages or [Message("user", "hi")], stream, params or {})
    return json.loads(AzureWire(version).build_request(chat, "my-deployment"))


def stream(name: str):
    return streamed(WIRE, (DATA / name).read_bytes())


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-4o", "my deployment", "../../x?y#z", "ü"])
@pytest.mark.parametrize("version", [GA, "2025-04-01-preview"])
def test_a_deployments_address_and_key_are_those_of_openais_sdk(model: str, version: str) -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(
            200,
            content=(DATA / "azure_plain.json").read_bytes(),
            headers={"content-type": "application/json"},
        )

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = AzureOpenAI(
        azure_endpoint=RESOURCE, api_version=version, api_key="secret", http_client=http
    )
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    [theirs] = seen
    wire = VENDORS["azure"].wire.with_options({"api_version": version})
    ours = httpx2.URL(VENDORS["azure"].address(RESOURCE, {}) + wire.path(model, False))
    if "/" not in model and "?" not in model:  # the SDK does not quote them
        assert ours == theirs.url
    assert ours.path.startswith("/openai/deployments/") and ours.path.endswith("/chat/completions")
    assert dict(ours.params) == {"api-version": version}
    assert wire.headers("secret") == [("api-key", theirs.headers["api-key"])]


def test_the_v1_path_names_no_deployment() -> None:
    assert WIRE.path("my-deployment", True) == "/openai/v1/chat/completions"
    assert (
        AzureWire("preview").path("x", False) == "/openai/v1/chat/completions?api-version=preview"
    )
    assert sent()["model"] == "my-deployment" and WIRE.headers("") == []


@pytest.mark.parametrize("end", ["", "/", "/openai", "/openai/", "/openai/v1", "/openai/v1/"])
def test_addresses_are_taken_as_azure_shows_them(end: str) -> None:
    assert VENDORS["azure"].address(RESOURCE + end, {}) == RESOURCE


def test_what_the_settings_lack() -> None:
    mistakes = VENDORS["azure"].mistakes
    assert [name for name, _ in mistakes(None, {})] == ["base_url"] and not list(
        mistakes(RESOURCE, {"api_version": GA})
    )
    assert [name for name, _ in mistakes(RESOURCE, {"region": "x"})] == ["region"]
    assert [name for name, _ in VENDORS["bedrock"].mistakes(None, {"region": ""})] == ["region"]
    assert not list(VENDORS["bedrock"].mistakes("https://x", {}))
    assert (
        VENDORS["bedrock"].address(None, {"region": "eu-west-1"})
        == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    )
    assert [name for name, _ in VENDORS["openai"].mistakes(None, {"region": "x"})] == ["region"]


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_the_v1_api_gets_what_openai_gets() -> None:
    params = {
        "temperature": 0.1,
        "max_completion_tokens": 5,
        "store": True,
        "x_unknown": [1],
        "user": "u",
    }
    body = sent(params, stream=True, messages=[Message("developer", "be kind")])
    assert body == {
        "model": "my-deployment", "messages": [{"role": "developer", "content": "be kind"}], **params,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    "version, usage, role",
    [(GA, True, "system"), (OLD, False, "system"), ("2025-01-01-preview", True, "developer")],
)
def test_older_versions_get_what_they_know(version: str, usage: bool, role: str) -> None:
    params = {
        "max_tokens": 5,
        "store": True,
        "safety_identifier": "s",
        "tools": [{"type": "function"}],
    }
    body = sent(params, version=version, stream=True, messages=[Message("developer", "be kind")])
    assert ("stream_options" in body, body["messages"][0]["role"]) == (usage, role)
    assert (
        body["max_tokens"] == 5
        and body["tools"]
        and not body.keys() & {"store", "safety_identifier"}
    )


# --- what it means ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_every_cut_of_every_stream_means_the_same(name: str) -> None:
    same_for_every_cut(WIRE, (DATA / name).read_bytes())


@pytest.mark.parametrize("name", STREAMS)
def test_openais_own_types_take_what_is_read_here(name: str) -> None:
    events = SseDecoder().feed((DATA / name).read_bytes())
    assert [
        ChatCompletionChunk.model_validate_json(event)
        for event in events
        if event != b"[DONE]" and b'"delta"' in event
    ]
    assert ChatCompletion.model_validate_json((DATA / "azure_plain.json").read_bytes())


def test_text_usage_and_what_the_filters_found() -> None:
    whole = folded(WIRE.parse_response((DATA / "azure_plain.json").read_bytes()))
    for fold in (stream("azure_text_stream.txt"), whole):
        assert (only(fold).message["content"], only(fold).finish_reason) == ("Grüß dich 👋", "stop")
        assert fold.usage and (
            fold.usage.prompt_tokens,
            fold.usage.completion_tokens,
            fold.usage.total_tokens,
        ) == (19, 10, 29)
        assert (
            fold.usage.prompt_tokens_details
            and fold.usage.prompt_tokens_details["cached_tokens"] == 4
        )
        assert fold.facts["system_fingerprint"] == "fp_b705f0c291"
        [prompt], [found] = (
            fold.facts["prompt_filter_results"],
            fold.facts["content_filter_results"],
        )
        assert prompt["prompt_index"] == 0 and prompt["content_filter_results"]["jailbreak"] == {
            "filtered": False,
            "detected": False,
        }
        assert found["index"] == 0 and found["content_filter_results"]["hate"] == {
            "filtered": False,
            "severity": "safe",
        }
    assert "protected_material_code" in found["content_filter_results"]


def test_findings_are_no_output_and_are_told_once() -> None:
    chunks, _, _ = read(WIRE, [(DATA / "azure_text_stream.txt").read_bytes()])
    assert [chunk.delta.get("content") for chunk in chunks] == ["", "Grüß ", "dich 👋", None, None]
    assert ["prompt_filter_results" in (chunk.facts or {}) for chunk in chunks] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_late_filter_ends_the_answer_and_keeps_what_was_said() -> None:
    fold = stream("azure_late_filter_stream.txt")
    assert (only(fold).message["content"], only(fold).finish_reason) == (
        "One does not",
        "content_filter",
    )
    [found] = fold.facts["content_filter_results"]
    assert found["content_filter_results"]["violence"] == {"filtered": True, "severity": "medium"}
    assert found["content_filter_results"]["protected_material_text"] == {
        "filtered": False,
        "detected": False,
    }


def test_parallel_calls() -> None:
    choice = only(stream("azure_tools_stream.txt"))
    assert [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"]))
        for c in choice.message["tool_calls"]
    ] == [
        ("call_Az1", "get_weather", {"city": "Zürich"}),
        ("call_Az2", "get_time", {}),
    ]
    assert choice.finish_reason == "tool_calls"


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_blocked_prompt_keeps_its_meaning() -> None:
    error = WIRE.parse_error(400, (DATA / "azure_blocked.json").read_bytes())
    assert (error.status, error.code, error.param, error.retries) == (
        400,
        "content_filter",
        "messages",
        0,
    )
    assert "content management policy" in error.message


ERRORS = [
    (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."},
     (404, "model", "model_not_found")),
    (404, {"code": "404", "message": "Resource not found"}, (404, None, None)),
    (401, {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}, (401, None, None)),
    (429, {"code": "429", "message": "Requests to the ChatCompletions_Create Operation have exceeded the call rate limit."},
     (429, None, None)),
    (400, {"code": "context_length_exceeded", "message": "This model's maximum context length is 8192 tokens."},
     (400, "messages", "context_length_exceeded")),
    (400, {"code": "unsupported_parameter", "message": "Unsupported parameter: 'max_tokens'.", "param": "max_tokens"},
     (400, "max_tokens", "unsupported_parameter")),
]  # fmt: skip


@pytest.mark.parametrize("status, body, meant", ERRORS)
def test_errors_of_azure(status: int, body: Any, meant: Any) -> None:
    error = WIRE.parse_error(status, json.dumps({"error": body}).encode())
    assert (error.status, error.param, error.code) == meant and error.message == body["message"]


ODD: list[Any] = [
    None,
    5,
    "x",
    [],
    {},
    [None],
    {"index": "x"},
    {"index": 0, "content_filter_results": 5},
    {"delta": {}},
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_findings_harm_nothing(odd: Any) -> None:
    events = [{"choices": [], "prompt_filter_results": odd}]
    events += [
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": "x"},
                    "finish_reason": "stop",
                    "content_filter_results": odd,
                }
            ]
        }
    ]
    fold = streamed(
        WIRE,
        b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        + b"data: [DONE]\n\n",
    )
    assert only(fold).message["content"] == "x"
