"""What Anthropic is sent, in bytes: its own SDK's types must know every field and accept every value."""

import base64
import json
import random
import sys
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import (
    MessageCreateParamsNonStreaming,
    MessageCreateParamsStreaming,
)
from pydantic import TypeAdapter, ValidationError

from chattable.adapters.anthropic.models import capabilities
from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import InvalidRequest
from chattable.agents.fold import Accumulator, StreamNormalizer, as_message
from chattable.agents.parsing import parse

OLDEST, OLD, NEW, NEXT = (
    "claude-3-5-haiku-20241022",
    "claude-sonnet-4-5-20250929",
    "claude-opus-4-6",
    "claude-sonnet-5-5",
)
# by the newest models and so by the types; older models have them
LOST = ("temperature", "top_p", "top_k")
BODIES = {
    True: TypeAdapter[Any](MessageCreateParamsStreaming),
    False: TypeAdapter[Any](MessageCreateParamsNonStreaming),
}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells it.", "parameters": SCHEMA},
}
PNG, PDF = "iVBORw0KGgo=", "JVBERi0xLjQ="
HI = {"role": "user", "content": "hi"}


def sent(
    *messages: Json,
    model: str = OLD,
    stream: bool = False,
    wire: AnthropicWire | None = None,
    **params: Any,
) -> Json:
    """The body that a request in OpenAI's form becomes."""
    chat = parse({"model": "ours", "messages": list(messages) or [HI], "stream": stream, **params})
    body: Json = json.loads((wire or AnthropicWire()).build_request(chat, model))
    accepted(body)
    return body


def accepted(body: Json) -> None:
    """Lets the SDK's types judge a body, down to the last block; fields that they do not know do not come back."""
    known = {k: v for k, v in body.items() if k not in LOST}
    assert whole(BODIES["stream" in body].validate_python(known)) == known


def whole(value: Any) -> Any:
    """A validated value, its iterables read: they are checked only then."""
    if isinstance(value, dict):
        return {k: whole(v) for k, v in value.items()}
    return value if isinstance(value, str | int | float | None) else [whole(item) for item in value]


def refused(*messages: Json, param: str, code: str = "unsupported_parameter", **params: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        sent(*messages, **params)
    assert (caught.value.param, caught.value.code) == (param, code)
    return caught.value.message


STRICTLY = AnthropicWire(unsupported="reject")


def test_the_judge_has_eyes() -> None:
    accepted({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]})
    for wrong in (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]}
                    ],
                }
            ]
        },
        {"messages": [], "tools": [{"name": "x"}]},
        {"messages": [], "reasoning_effort": "low"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x", "colour": "red"}]}
            ]
        },
    ):
        with pytest.raises((ValidationError, AssertionError)):
            accepted({"model": "m", "max_tokens": 1, **wrong})


# --- messages --------------------------------------------------------------------------------------------------------


def test_the_least() -> None:
    hi = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert sent() == {"model": OLD, "max_tokens": 4096, "messages": hi}
    assert sent(stream=True)["stream"] is True


def test_instructions_from_anywhere_are_the_system_prompt() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    body = sent(
        {"role": "system", "content": "be kind"},
        HI,
        {
            "role": "developer",
            "content": [
                {"type": "text", "text": "be brief", "cache_control": mark},
                {"type": "text", "text": ""},
            ],
        },
        {"role": "system", "content": "be right", "cache_control": {"type": "ephemeral"}},
    )
    assert body["system"] == [
        {"type": "text", "text": "be kind"},
        {"type": "text", "text": "be brief", "cache_control": mark},
        {"type": "text", "text": "be right", "cache_control": {"type": "ephemeral"}},
    ]
    assert [turn["role"] for turn in body["messages"]] == ["user"]


def test_instructions_alone_are_a_question() -> None:
    body = sent({"role": "system", "content": "Name a colour."})
    assert "system" not in body and body["messages"][0]["content"] == [
        {"type": "text", "text": "Name a colour."}
    ]


def test_neighbours_of_one_role_are_one_turn() -> None:
    body = sent(
        HI, {"role": "user", "content": "there"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "system", "content": "s"}, {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    )  # fmt: skip
    assert [(turn["role"], [block["text"] for block in turn["content"]]) for turn in body["messages"]] == [
        ("user", ["hi", "there"]), ("assistant", ["a", "b"]), ("user", ["c"]),
    ]  # fmt: skip


def test_nothing_said_is_refused() -> None:
    refused({"role": "user", "content": "  "}, param="messages", code=None)  # type: ignore[arg-type]


def test_words_put_into_the_mouth_end_in_no_white_space() -> None:
    body = sent(HI, {"role": "assistant", "content": "The answer is \n"})
    assert body["messages"][-1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "The answer is"}],
    }
    assert (
        sent({"role": "user", "content": "as it is \n"})["messages"][0]["content"][0]["text"]
        == "as it is \n"
    )


def calls(*made: tuple[str, str, str], **fields: Any) -> Json:
    made_calls = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": text}}
        for i, name, text in made
    ]
    return {"role": "assistant", "content": None, "tool_calls": made_calls, **fields}


def test_calls_and_their_answers() -> None:
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body = sent(
        HI,
        calls(
            ("toolu_1", "get_weather", '{"a": 1}'),
            ("functions.get_time:0", "get_time", ""),
            content="I look.",
        ),
        {"role": "user", "content": "hurry"},
        {
            "role": "tool",
            "tool_call_id": "toolu_1",
            "content": [{"type": "text", "text": "sun"}, picture],
        },
        {
            "role": "tool",
            "tool_call_id": "functions.get_time:0",
            "content": "no clock",
            "is_error": True,
        },
        {
            "role": "tool",
            "tool_call_id": "toolu_1",
            "content": "",
            "cache_control": {"type": "ephemeral"},
        },
        tools=[WEATHER],
    )
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"a": 1}},
        {"type": "tool_use", "id": "functions_get_time_0", "name": "get_time", "input": {}},
    ]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert body["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sun"}, image]},
            {
                "type": "tool_result", "tool_use_id": "functions_get_time_0",
                "content": [{"type": "text", "text": "no clock"}], "is_error": True,
            },
            {"type": "tool_result", "tool_use_id": "toolu_1", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "hurry"},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("text", ['{"a": ', "[1]", "5", "[" * 10**4])
def test_arguments_that_are_no_object_are_kept(text: str) -> None:
    body = sent(
        HI,
        calls(("a", "f", text)),
        {"role": "tool", "tool_call_id": "a", "content": "x"},
        tools=[WEATHER],
    )
    assert body["messages"][1]["content"][0]["input"] == {"arguments": text}


def test_calls_of_the_past_bring_their_tools() -> None:
    body = sent(
        HI,
        calls(("a", "f", "{}"), ("b", "g", "{}")),
        {"role": "tool", "tool_call_id": "a", "content": "x"},
    )
    assert [tool["name"] for tool in body["tools"]] == ["f", "g"] and body["tool_choice"] == {
        "type": "none"
    }


def test_pictures_and_files() -> None:
    def file(**fields: str) -> Json:
        return {"type": "file", "file": fields}

    text = base64.b64encode("Grüße".encode()).decode()
    parts = [
        {
            "type": "image_url",
            "image_url": {"url": "https://pics.example/a.png", "detail": "low"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}},
        file(filename="a.pdf", file_data=f"data:application/pdf;base64,{PDF}"),
        file(filename="a.md", file_data=f"data:text/markdown;charset=utf-8;base64,{text}"),
        file(file_data=f"data:image/webp;base64,{PNG}"),
        file(file_id="file_011C"),
        {
            "type": "document",
            "source": {"type": "url", "url": "https://docs.example/a.pdf"},
            "citations": {"enabled": True},
        },
    ]
    [turn] = sent({"role": "user", "content": parts})["messages"]
    assert turn["content"] == [
        {
            "type": "image",
            "source": {"type": "url", "url": "https://pics.example/a.png"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": PNG}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
            "title": "a.pdf",
        },
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
            "title": "a.md",
        },
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": PNG}},
        {"type": "document", "source": {"type": "file", "file_id": "file_011C"}},
        parts[-1],
    ]


UNUSABLE = [
    ({"type": "image_url", "image_url": {"url": "ftp://x/a.png"}}, "image_url.url"),
    ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "image_url.url"),
    ({"type": "file", "file": {"file_data": "JVBERi0x"}}, "file.file_data"),
    ({"type": "file", "file": {"filename": "a"}}, "file.file_data"),
    ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, "file.file_data"),
    ({"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}}, "file.file_data"),
    ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "type"),
]


@pytest.mark.parametrize("part, field", UNUSABLE)
def test_parts_it_cannot_read(part: Json, field: str) -> None:
    refused(
        HI,
        {"role": "user", "content": [part]},
        param=f"messages[1].content[0].{field}",
        code="invalid_value",
    )


def test_messages_it_cannot_read() -> None:
    refused(
        {"role": "function", "name": "f", "content": "x"},
        param="messages[0].role",
        code="invalid_value",
    )
    picture = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    refused(
        {"role": "system", "content": [picture]},
        HI,
        param="messages[0].content",
        code="invalid_value",
    )


# --- tools and formats -----------------------------------------------------------------------------------------------


def test_tools() -> None:
    bare = {
        "type": "function",
        "function": {"name": "now", "strict": True},
        "cache_control": {"type": "ephemeral"},
    }
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    assert sent(tools=[WEATHER, bare, search])["tools"] == [
        {"name": "get_weather", "description": "Tells it.", "input_schema": SCHEMA},
        {
            "name": "now",
            "input_schema": {"type": "object", "additionalProperties": False},
            "strict": True,
            "cache_control": {"type": "ephemeral"},
        },
        search,
    ]
    assert "strict" not in sent(tools=[bare], model=OLDEST)["tools"][0]
    refused(tools=[WEATHER, bare], model=OLDEST, wire=STRICTLY, param="tools[1].function.strict")
    refused(tools=[{"type": "custom", "custom": {"name": "x"}}], param="tools[0].type")
    refused(
        tools=[{"type": "function", "function": {}}],
        param="tools[0].function.name",
        code="missing_required_parameter",
    )


CHOICES = [
    ("auto", None), ("none", {"type": "none"}), ("required", {"type": "any"}), (None, None),
    ({"type": "function", "function": {"name": "get_weather"}}, {"type": "tool", "name": "get_weather"}),
]  # fmt: skip


@pytest.mark.parametrize("choice, meant", CHOICES)
def test_tool_choice(choice: Any, meant: Json | None) -> None:
    assert sent(tools=[WEATHER], tool_choice=choice).get("tool_choice") == meant
    assert (
        sent(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=True).get("tool_choice")
        == meant
    )
    alone = {**(meant or {"type": "auto"})} | (
        {} if choice == "none" else {"disable_parallel_tool_use": True}
    )
    assert (
        sent(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)["tool_choice"] == alone
    )


def test_choices_that_are_none() -> None:
    for choice in ("some", {"type": "allowed_tools"}, {"function": "x"}, {}):
        refused(tools=[WEATHER], tool_choice=choice, param="tool_choice", code="invalid_value")
    refused(tool_choice="required", param="tool_choice", code=None)  # type: ignore[arg-type]
    assert "tool_choice" not in sent(tool_choice="none", parallel_tool_calls=False)


FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}


def test_a_schema_for_the_answer() -> None:
    body = sent(response_format=FORMAT, tools=[WEATHER])
    assert (
        body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}}
        and len(body["tools"]) == 1
    )
    forced = sent(response_format=FORMAT, model=OLDEST)
    assert forced["tools"][0]["input_schema"] == SCHEMA
    assert forced["tool_choice"] == {"type": "tool", "name": forced["tools"][0]["name"]}
    refused(response_format=FORMAT, model=OLDEST, tools=[WEATHER], param="response_format")
    missing = {"type": "json_schema", "json_schema": {"name": "n"}}
    refused(
        response_format=missing,
        param="response_format.json_schema.schema",
        code="missing_required_parameter",
    )


def test_any_json_for_the_answer() -> None:
    body = sent(
        {"role": "system", "content": "be kind"}, HI, response_format={"type": "json_object"}
    )
    assert body["system"][0]["text"] == "be kind" and "JSON object" in body["system"][1]["text"]
    assert "system" not in sent(response_format={"type": "text"})
    refused(response_format={"type": "grammar"}, param="response_format")


# --- reasoning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effort, cap, budget",
    [("minimal", 20000, 2000), ("low", 4096, 1024), ("medium", 4096, 2048), ("high", 10000, 8000)],
)
def test_effort_is_a_share_of_the_cap(effort: str, cap: int, budget: int) -> None:
    body = sent(reasoning_effort=effort, max_tokens=cap)
    assert (
        body["thinking"] == {"type": "enabled", "budget_tokens": budget}
        and budget < body["max_tokens"] == cap
    )


@pytest.mark.parametrize(
    "model, effort, meant",
    [(NEW, "minimal", "low"), (NEW, "high", "high"), (NEW, "xhigh", "high"), (NEXT, "xhigh", "xhigh"), (NEXT, "max", "max")],
)  # fmt: skip
def test_later_models_take_effort(model: str, effort: str, meant: str) -> None:
    body = sent(reasoning_effort=effort, model=model, response_format=FORMAT)
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {
        "effort": meant,
        "format": {"type": "json_schema", "schema": SCHEMA},
    }


def test_no_effort() -> None:
    assert sent(reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert "thinking" not in sent(reasoning_effort="none", model=OLDEST)
    assert sent(reasoning={"effort": "medium"})["thinking"]["budget_tokens"] == 2048
    refused(reasoning_effort="huge", param="reasoning_effort", code="invalid_value")
    refused(reasoning={"effort": 5}, param="reasoning.effort", code="invalid_value")


def test_their_own_words_for_thinking_win() -> None:
    own = {"type": "enabled", "budget_tokens": 1500}
    assert sent(thinking=own, reasoning_effort="high")["thinking"] == own
    body = sent(thinking={"type": "adaptive"}, output_config={"effort": "max"}, model=NEXT)
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "max"})
    both = sent(output_config={"effort": "max"}, response_format=FORMAT, model=NEXT)[
        "output_config"
    ]
    assert both == {"effort": "max", "format": {"type": "json_schema", "schema": SCHEMA}}
    refused(thinking="much", param="thinking", code="invalid_value")


ASKED = [
    HI,
    calls(("a", "get_weather", "{}")),
    {"role": "tool", "tool_call_id": "a", "content": "sun"},
]
OBSTACLES: list[tuple[list[Json], Json]] = [
    ([], {"model": OLDEST}), ([], {"max_tokens": 1024}), ([], {"tools": [WEATHER], "tool_choice": "required"}),
    ([HI, {"role": "assistant", "content": "So"}], {}), (ASKED, {"tools": [WEATHER]}),
]  # fmt: skip


@pytest.mark.parametrize("messages, params", OBSTACLES)
def test_where_it_cannot_think(messages: list[Json], params: Json) -> None:
    assert "thinking" not in sent(*messages, reasoning_effort="high", **params)
    refused(*messages, reasoning_effort="high", param="reasoning_effort", wire=STRICTLY, **params)


def answer(*content: Json, reason: str = "tool_use") -> Message:
    """What our side makes of a message of theirs."""
    raw = {"type": "message", "role": "assistant", "content": list(content), "stop_reason": reason}
    normal, fold = StreamNormalizer(), Accumulator()
    for chunk in AnthropicWire().parse_response(json.dumps(raw).encode()):
        for out in normal.feed(chunk):
            fold.add(out)
    for out in normal.end():
        fold.add(out)
    return fold.message()


THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
OMITTED = {"type": "thinking", "thinking": "", "signature": "b21pdA=="}
HIDDEN = {"type": "redacted_thinking", "data": "aGlkZGVu"}
SAID = {"type": "text", "text": "Let me look."}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"a": 1}}
OTHER = {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}}


@pytest.mark.parametrize(
    "content",
    [
        [THOUGHT, SAID, CALL], [THOUGHT, HIDDEN, CALL, OTHER], [THOUGHT, SAID, OMITTED, CALL, OTHER], [SAID, CALL],
        [CALL, THOUGHT, OTHER], [THOUGHT, OMITTED, SAID], [SAID, HIDDEN, CALL],
    ],
)  # fmt: skip
def test_an_answer_goes_back_as_it_came(content: list[Json]) -> None:
    """Law: through our messages, through JSON and through a client that keeps what it does not know, block by block."""
    kept = msgspec.json.decode(msgspec.json.encode(answer(*content).to_json()))
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "x"}
        for call in content
        if call["type"] == "tool_use"
    ]
    body = sent(HI, kept, *results, HI, tools=[WEATHER], reasoning_effort="low", model=NEW)
    assert body["messages"][1] == {"role": "assistant", "content": content}


def test_thoughts_let_it_think_on_after_a_call() -> None:
    kept = as_message(
        {
            "content": None,
            **calls(("a", "get_weather", "{}")),
            "thinking_blocks": [{"index": 0, **THOUGHT}],
        }
    )
    messages = [Message("user", "hi"), kept, Message("tool", "sun", tool_call_id="a")]
    body = json.loads(
        AnthropicWire().build_request(
            Chat("m", messages, False, {"reasoning_effort": "low", "tools": [WEATHER]}), OLD
        )
    )
    accepted(body)
    assert body["thinking"]["type"] == "enabled" and body["messages"][1]["content"][0] == THOUGHT


@pytest.mark.parametrize(
    "blocks", [5, "x", {}, [5], [None], [{}], [{"type": []}], [{"type": "thinking", "thinking": "x"}],
               [{"type": "text", "text": "x"}], [{"type": "redacted_thinking", "data": 5}]],
)  # fmt: skip
def test_thoughts_of_others_stay_behind(blocks: Any) -> None:
    body = sent(
        HI,
        {
            "role": "assistant",
            "content": "a",
            "thinking_blocks": blocks,
            "reasoning_content": "psst",
        },
        HI,
    )
    assert body["messages"][1]["content"] == [{"type": "text", "text": "a"}]


def test_no_turn_ends_in_a_thought() -> None:
    alone = {"role": "assistant", "content": "", "thinking_blocks": [THOUGHT]}
    assert [turn["role"] for turn in sent(HI, alone, HI)["messages"]] == ["user"]
    placed = {
        "role": "assistant",
        "content": "a",
        "thinking_blocks": [{**THOUGHT, "index": 10**9}, {**THOUGHT, "index": "x"}],
    }
    assert sent(HI, placed, HI)["messages"][1]["content"] == [{"type": "text", "text": "a"}]


# --- parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params, cap", [({"max_tokens": 9}, 9), ({"max_completion_tokens": 7}, 7), ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
                    ({"max_tokens": None}, 50), ({"max_tokens": 0}, 0), ({}, 50)],
)  # fmt: skip
def test_the_cap_on_output(params: Json, cap: int) -> None:
    assert sent(wire=AnthropicWire(max_tokens=50), **params)["max_tokens"] == cap


def test_sampling_and_stops() -> None:
    body = sent(temperature=0.2, top_k=5, stop="END", model="claude-opus-4-20250514")
    assert (body["temperature"], body["top_k"], body["stop_sequences"]) == (0.2, 5, ["END"])
    assert sent(top_p=0.5)["top_p"] == 0.5 and sent(stop=["a", "\n"])["stop_sequences"] == ["a"]
    both: Json = {"temperature": 0.2, "top_p": 0.5}
    for model in (OLDEST, "MiniMax-M2"):
        assert {k: sent(model=model, **both)[k] for k in both} == both
    assert "top_p" not in sent(**both)
    refused(param="top_p", wire=STRICTLY, **both)
    refused(stop=["a", "\n"], param="stop", wire=STRICTLY)
    refused(temperature=1.5, param="temperature", code="invalid_value")


@pytest.mark.parametrize("param, value", [("temperature", 0.2), ("top_p", 0.5), ("top_k", 5)])
def test_sampling_that_later_models_and_thought_have_lost(param: str, value: float) -> None:
    given: Json = {param: value}
    assert param in sent(model=NEW, **given) and param not in sent(model=NEXT, **given)
    assert param not in sent(reasoning_effort="low", **given)
    refused(model=NEXT, param=param, wire=STRICTLY, **given)
    refused(reasoning_effort="low", param=param, wire=STRICTLY, **given)
    # what it does anyway
    assert param == "top_k" or param not in sent(
        model=NEXT, wire=STRICTLY, **dict[str, Any]({param: 1})
    )


@pytest.mark.parametrize(
    "param, value", [("seed", 0), ("logit_bias", {"5": 1}), ("presence_penalty", 0.5), ("frequency_penalty", -1),
                     ("verbosity", "low"), ("audio", {"voice": "x"}), ("web_search_options", {"a": 1}), ("something_new", [1]),
                     ("service_tier", "flex")],
)  # fmt: skip
def test_the_rule_for_what_it_does_not_have(param: str, value: Any) -> None:
    plain = sent()
    assert sent(**{param: value}) == plain
    assert param in refused(**{param: value}, param=param, wire=STRICTLY)


@pytest.mark.parametrize("rule", ["drop", "reject"])
def test_what_is_never_dropped(rule: Any) -> None:
    wire = AnthropicWire(unsupported=rule)
    refused(n=2, param="n", wire=wire)
    refused(logprobs=True, param="logprobs", wire=wire)
    refused(top_logprobs=2, param="top_logprobs", wire=wire)
    refused(modalities=["text", "audio"], param="modalities", wire=wire)
    refused(functions=[{"name": "f"}], param="functions", wire=wire)


def test_what_changes_nothing_is_never_refused() -> None:
    idle: Json = {
        "n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "seed": None, "modalities": ["text"], "store": True, "metadata": {"a": "b"}, "prompt_cache_key": "x",
        "stream_options": {"include_usage": True}, "temperature": 1, "top_p": 1.0, "functions": [],
        "response_format": None, "reasoning_effort": None,
    }  # fmt: skip
    assert sent(wire=STRICTLY, **idle) == sent()


@pytest.mark.parametrize(
    "params, user", [({"user": "u"}, "u"), ({"safety_identifier": "s"}, "s"), ({"user": "u", "metadata": {"user_id": "m"}}, "m"),
                     ({"user": {"id": 1}}, None), ({"user": ""}, None)],
)  # fmt: skip
def test_the_user(params: Json, user: str | None) -> None:
    assert sent(**params).get("metadata") == (user and {"user_id": user})


@pytest.mark.parametrize(
    "tier, meant",
    [
        ("auto", "auto"),
        ("priority", "auto"),
        ("default", "standard_only"),
        ("standard_only", "standard_only"),
    ],
)
def test_service_tiers(tier: str, meant: str) -> None:
    assert sent(service_tier=tier)["service_tier"] == meant


def test_their_own_parameters_pass() -> None:
    own: Json = {
        "cache_control": {"type": "ephemeral"},
        "inference_geo": "eu",
        "container": "container_1",
    }
    assert {k: sent(**own)[k] for k in own} == own


def test_depth_is_refused_politely() -> None:
    deep: Json = {}
    for _ in range(5000):
        deep = {"a": deep}
    chat = Chat("m", [Message("user", "hi")], False, {"container": deep})
    # Newer Pythons may have room for it; this one has not.
    old = sys.version_info < (3, 12)
    with pytest.raises(InvalidRequest) if old else suppress(InvalidRequest):
        assert AnthropicWire().build_request(chat, OLD).startswith(b"{")


EVERYTHING: Json = {
    "model": "ours",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [
            {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        ]},
        calls(("a", "get_weather", "{}"), thinking_blocks=[{"index": 0, **THOUGHT}, {"index": 1, **HIDDEN}], refusal="no"),
        {"role": "tool", "tool_call_id": "a", "content": "x", "is_error": True, "cache_control": {"type": "ephemeral"}},
    ],
    "tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"function": {"name": "get_weather"}},
    "parallel_tool_calls": False, "response_format": FORMAT, "reasoning_effort": "low", "reasoning": {"effort": "low"},
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "low"},
    "stop": ["a"], "n": 1, "max_tokens": 9,
    "temperature": 0.5, "top_p": 0.5, "top_k": 5, "service_tier": "auto", "user": "u", "metadata": {"user_id": "m"}, "seed": 1,
    "modalities": ["text"], "logit_bias": {"1": 1},
}  # fmt: skip


def inside(holder: Any) -> list[Any]:
    return list(holder.values()) if isinstance(holder, dict) else holder


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_request_never_does_worse_than_be_refused(seed: int) -> None:
    """What the house lets in, with values of any type anywhere: a body or a proper refusal."""
    dice, bodies = random.Random(seed), 0
    junk: list[Any] = [
        None,
        0,
        -1,
        1.5,
        "x",
        "",
        [],
        [None],
        [5],
        {},
        {"type": "x"},
        {"type": "tool_use"},
        True,
    ]
    for _ in range(300):
        body = json.loads(json.dumps(EVERYTHING))
        for _ in range(dice.randint(1, 3)):
            holder: Any = body
            while inner := [v for v in inside(holder) if isinstance(v, dict | list) and v]:
                if dice.random() < 0.3:
                    break
                holder = dice.choice(inner)
            at = (
                dice.choice(list(holder))
                if isinstance(holder, dict)
                else dice.randrange(len(holder))
            )
            holder[at] = dice.choice(junk)
        try:
            chat = parse(body)
            wire = AnthropicWire(unsupported=dice.choice(["drop", "drop", "drop", "reject"]))
            json.loads(wire.build_request(chat, dice.choice([OLD, NEW, NEXT, OLDEST])))
            bodies += 1
        except InvalidRequest:
            continue
    assert bodies > 20


GENERATIONS = [
    ("claude-2.1", ""), ("claude-instant-1.2", ""), ("claude-3-haiku-20240307", ""), ("claude-3-5-sonnet-v2@20241022", ""),
    ("claude-3-7-sonnet-latest", "thinks"), ("claude-sonnet-4-20250514", "thinks"), ("claude-opus-4-1-20250805", "thinks"),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "thinks formats"), ("claude-haiku-4-5", "thinks formats"),
    ("claude-opus-4-6", "thinks formats adaptive"), ("anthropic/claude-sonnet-4.6", "thinks formats adaptive"),
    ("claude-opus-4-7", "thinks formats adaptive xhigh"), ("claude-fable-5-2", "thinks formats adaptive xhigh"),
    ("claude-opus-10", "thinks formats adaptive xhigh"), ("claude-mythos-preview", "thinks formats adaptive xhigh"),
    ("MiniMax-M2", "thinks"), ("glm-4.6", "thinks"), ("", "thinks"),
]  # fmt: skip


WORDS = {
    "thinks": "reasoning",
    "formats": "structured_output",
    "adaptive": "adaptive_reasoning",
    "xhigh": "xhigh_effort",
}


@pytest.mark.parametrize("model, takes", GENERATIONS)
def test_generations(model: str, takes: str) -> None:
    kind = capabilities(model)
    assert {word for word, name in WORDS.items() if getattr(kind, name)} == set(takes.split())
    assert kind.sampling is not kind.xhigh_effort  # they left and came with the same generation
