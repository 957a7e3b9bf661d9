"""What is sent to Ollama's own API. Ollama's own package says whether it has the right shape."""

import json
from functools import partial
from typing import Any, get_args

import pytest
from ollama._types import ChatRequest, Options
from wired import bodies, damaged

from chattable.adapters.ollama.request import EFFORTS
from chattable.adapters.ollama.wire import OllamaWire
from chattable.adapters.params import Unsupported
from chattable.adapters.services import VENDORS
from chattable.agents.chat import Chat, Message
from chattable.agents.errors import InvalidRequest

HI = [Message("user", "hi")]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
TIME = {"type": "function", "function": {"name": "get_time"}}
PIXEL = "iVBORw0KGgo="
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def sent(
    params: Any = None,
    messages: Any = HI,
    *,
    stream: bool = False,
    unsupported: Unsupported = "drop",
) -> Any:
    """The body, once Ollama's types have taken it and know all that is in it."""
    body = json.loads(
        OllamaWire(unsupported=unsupported).build_request(
            Chat("ours", messages, stream, params or {}), "qwen3:8b"
        )
    )
    ChatRequest.model_validate(body)
    assert body.keys() <= {*ChatRequest.model_fields, "truncate", "shift"}
    assert body.get("options", {}).keys() <= {*Options.model_fields, "min_p"}
    return body


def messages(*said: Message) -> Any:
    return sent(messages=list(said))["messages"]


def refused(params: Any = None, messages: Any = HI, **options: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        sent(params, messages, **options)
    return caught.value.param


def called(call_id: str, name: str = "get_weather", arguments: str = '{"city":"Paris"}') -> Any:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_where_it_goes() -> None:
    wire = OllamaWire()
    assert wire.path("x/../y", True) == "/api/chat" == wire.path("x", False)
    assert wire.headers("") == [] and wire.headers("k") == [("authorization", "Bearer k")]
    vendor = VENDORS["ollama-native"]
    assert {
        vendor.address(end and f"http://h:11434{end}", {}) for end in ("/v1", "/api/", "/")
    } == {"http://h:11434"}


def test_streams_are_said_to_be_none_where_they_are_none() -> None:
    assert sent() == {
        "model": "qwen3:8b",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
    }
    assert sent(stream=True)["stream"] is True


# --- messages ---------------------------------------------------------------------------------------------------------


def test_roles_names_and_thoughts() -> None:
    said = messages(
        Message("system", "Be kind."),
        Message("developer", "Be short."),
        Message(
            "user", [{"type": "text", "text": "weather"}, {"type": "text", "text": "?"}], name="eve"
        ),
        Message(
            "assistant",
            None,
            tool_calls=[called("c1"), called("c2", "get_time", "")],
            reasoning_content="Two things.",
        ),
        Message("tool", "12:00", tool_call_id="c2"),
        Message("tool", "rain", tool_call_id="c1"),
        Message("assistant", ""),
        Message("assistant", None, refusal="no"),
    )
    assert said == [
        {"role": "system", "content": "Be kind."},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "thinking": "Two things.", "tool_calls": [
            {"id": "c1", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
            {"id": "c2", "function": {"name": "get_time", "arguments": {}}},
        ]},
        {"role": "tool", "content": "12:00", "tool_name": "get_time", "tool_call_id": "c2"},
        {"role": "tool", "content": "rain", "tool_name": "get_weather", "tool_call_id": "c1"},
        {"role": "assistant", "content": "no"},
    ]  # fmt: skip


def test_images() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    [said] = messages(Message("user", [{"type": "text", "text": "see"}, part, part]))
    assert said == {"role": "user", "content": "see", "images": [PIXEL, PIXEL]}
    [said] = messages(Message("user", [part]))
    assert said["images"] == [PIXEL]


@pytest.mark.parametrize(
    "part, param",
    [
        ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {}}, "image_url.url"),
        ({"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}, "type"),
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PIXEL}"}}, "type"),
        ({"type": "x"}, "type"),
    ],
)
def test_what_it_cannot_read(part: Any, param: str) -> None:
    assert refused(messages=[*HI, Message("user", [part])]) == f"messages[1].content[0].{param}"


def test_messages_that_are_none() -> None:
    assert refused(messages=[Message("user", "")]) == "messages"
    assert refused(messages=[Message("function", "x", name="f")]) == "messages[0].role"


# --- tools ------------------------------------------------------------------------------------------------------------


def test_tools() -> None:
    bare = {
        "name": "get_time",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }
    assert sent({"tools": [TOOL, TIME]})["tools"] == [TOOL, {"type": "function", "function": bare}]
    assert (
        refused({"tools": [TOOL, {"type": "custom", "custom": {"name": "f"}}]}) == "tools[1].type"
    )
    assert refused({"tools": [{"type": "function", "function": {}}]}) == "tools[0].function.name"


def test_choices() -> None:
    tools = {"tools": [TOOL, TIME]}
    assert "tools" not in sent(tools | {"tool_choice": "none"}) and "tools" not in sent(
        {"tool_choice": "none"}
    )
    assert sent(tools | {"tool_choice": "auto"}, unsupported="reject") == sent(tools)
    only = sent(tools | {"tool_choice": {"type": "function", "function": {"name": "get_time"}}})[
        "tools"
    ]
    assert [tool["function"]["name"] for tool in only] == ["get_time"]
    assert sent(tools | {"tool_choice": "required"}) == sent(tools)
    for choice in ("required", {"function": {"name": "get_time"}}):
        assert refused(tools | {"tool_choice": choice}, unsupported="reject") == "tool_choice"
        assert refused({"tool_choice": choice}) == "tool_choice"
    assert refused(tools | {"tool_choice": {"function": {"name": "x"}}}) == "tool_choice"
    assert refused(tools | {"tool_choice": {}}) == "tool_choice"
    assert (
        refused(tools | {"parallel_tool_calls": False}, unsupported="reject")
        == "parallel_tool_calls"
    )


# --- parameters -------------------------------------------------------------------------------------------------------


def test_sampling_is_options() -> None:
    params = {
        "temperature": 0,
        "top_p": 0.5,
        "seed": 7,
        "max_tokens": 9,
        "max_completion_tokens": 8,
        "stop": "END",
    }
    params |= {
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "top_k": 40,
        "min_p": 0.1,
        "num_ctx": 8192,
    }
    assert sent(params, unsupported="reject")["options"] == {
        "temperature": 0, "top_p": 0.5, "seed": 7, "num_predict": 8, "stop": ["END"], "presence_penalty": 0.5,
        "frequency_penalty": 0.25, "top_k": 40, "min_p": 0.1, "num_ctx": 8192,
    }  # fmt: skip
    assert sent({"stop": ["a", "", "b"]})["options"] == {
        "stop": ["a", "b"]
    } and "options" not in sent({"stop": []})


def test_ollamas_own_words_win() -> None:
    params = {
        "options": {"num_ctx": 4096, "temperature": 1},
        "temperature": 0,
        "keep_alive": "5m",
        "think": "low",
    }
    params |= {"reasoning_effort": "high", "truncate": False}
    body = sent(params, unsupported="reject")
    assert body["options"] == {"num_ctx": 4096, "temperature": 1} and body["keep_alive"] == "5m"
    assert body["think"] == "low" and body["truncate"] is False
    assert sent({"format": "json"})["format"] == "json"


CAPS = [(5, 5), (20, 10), (-1, 10), (-2, 10), ("x", 10), (True, 10)]


@pytest.mark.parametrize(("own", "sent_as"), CAPS)
def test_f1_its_own_words_do_not_raise_the_cap(own: Any, sent_as: int) -> None:
    params = {"max_tokens": 10, "options": {"num_predict": own}, "num_predict": own}
    assert sent(params)["options"] == {"num_predict": sent_as}
    if type(own) is int:
        assert sent({"options": {"num_predict": own}})["options"] == {"num_predict": own}


def test_how_a_model_is_loaded_is_not_for_its_askers() -> None:
    assert "options" not in sent({"options": {"num_gpu": 0}})
    assert refused({"options": {"num_gpu": 0}}, unsupported="reject") == "options.num_gpu"
    assert refused({"options": "x"}) == "options"


def test_formats() -> None:
    assert "format" not in sent({"response_format": {"type": "text"}})
    assert sent({"response_format": {"type": "json_object"}})["format"] == "json"
    assert sent({"response_format": FORMAT})["format"] == SCHEMA
    assert (
        refused({"response_format": {"type": "json_schema", "json_schema": {}}})
        == "response_format.json_schema.schema"
    )


@pytest.mark.parametrize("effort", EFFORTS)
def test_efforts(effort: str) -> None:
    assert (
        sent({"reasoning_effort": effort})["think"]
        == sent({"reasoning": {"effort": effort}})["think"]
        == EFFORTS[effort]
    )
    assert (EFFORTS[effort] is False) == (effort == "none")


def test_an_effort_that_is_none() -> None:
    assert (
        refused({"reasoning_effort": "very"}) == "reasoning_effort"
        and refused({"reasoning": {"effort": 5}}) == "reasoning.effort"
    )
    assert "think" not in sent(), "who asks for nothing gets the model's own way"


def test_probabilities() -> None:
    body = sent({"logprobs": True, "top_logprobs": 3})
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert refused({"top_logprobs": 3}) == "top_logprobs" and "logprobs" not in sent(
        {"logprobs": False}
    )


@pytest.mark.parametrize("rule", get_args(Unsupported))
def test_what_changes_the_kind_of_answer_is_refused(rule: Unsupported) -> None:
    for name, value in (
        ("n", 2),
        ("modalities", ["audio"]),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
    ):
        assert refused({name: value}, unsupported=rule) == name


@pytest.mark.parametrize(
    "name, value",
    [("logit_bias", {"5": 1}), ("verbosity", "low"), ("service_tier", "flex"), ("unheard", 1)],
)
def test_what_it_has_no_place_for_goes_by_the_rule(name: str, value: Any) -> None:
    assert refused({name: value}, unsupported="reject") == name and sent({name: value}) == sent()


def test_what_is_ours_or_changes_nothing_is_no_matter() -> None:
    params = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "stream_options": {"include_usage": True},
        "logit_bias": {},
    }
    assert sent(params, unsupported="reject", stream=True) == sent(stream=True)


EVERYTHING: Any = {
    "model": "ours",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}]},
        {"role": "user", "content": [
            {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [called("a")], "reasoning_content": "r"},
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    ],
    "tools": [TOOL], "tool_choice": {"function": {"name": "get_weather"}}, "parallel_tool_calls": False,
    "response_format": FORMAT, "reasoning_effort": "low", "reasoning": {"effort": "low"}, "stop": ["a"], "n": 1,
    "max_tokens": 9, "temperature": 0.5, "top_k": 5, "num_ctx": 9, "options": {"seed": 1}, "think": True, "keep_alive": 5,
    "logprobs": True, "top_logprobs": 1, "modalities": ["text"], "logit_bias": {"1": 1},
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rule", get_args(Unsupported))
def test_a_damaged_request_never_does_worse_than_be_refused(seed: int, rule: Unsupported) -> None:
    whole = {
        k: v
        for k, v in EVERYTHING.items()
        if rule == "drop" or k not in ("tool_choice", "parallel_tool_calls", "logit_bias")
    }
    wire = OllamaWire(unsupported=rule)
    assert bodies(damaged(whole, seed), partial(wire.build_request, model="m")) > 20
