"""What is sent to Bedrock's Converse.

AWS's own model of the service says whether it has the right shape.
"""

import base64
import json
from functools import cache, partial
from typing import Any, get_args

import botocore.session
import pytest
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from wired import bodies, damaged

from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.bedrock.models import family
from chattable.adapters.bedrock.wire import BedrockWire
from chattable.adapters.params import Unsupported
from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import InvalidRequest

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
OLD, NEW = "anthropic.claude-3-5-sonnet-20240620-v1:0", "global.anthropic.claude-opus-4-7-v1:0"
NOVA, NOVA2, OSS, LLAMA = (
    "amazon.nova-pro-v1:0",
    "us.amazon.nova-2-lite-v1:0",
    "openai.gpt-oss-120b-1:0",
    "meta.llama3-1-70b-v1:0",
)
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
HI = [Message("user", "hi")]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
SPEC = {
    "toolSpec": {
        "name": "get_weather",
        "description": "The weather.",
        "inputSchema": {"json": SCHEMA},
    }
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
MARK = {"cache_control": {"type": "ephemeral"}}
POINT = {"cachePoint": {"type": "default"}}
PIXEL, PDF = "iVBORw0KGgo=", "JVBERi0xLjc="
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "EqoB"}
HIDDEN = {"type": "redacted_thinking", "data": base64.b64encode(b"hidden").decode()}


@cache
def service() -> ServiceModel:
    return botocore.session.Session().get_service_model("bedrock-runtime")


def as_aws_has_it(shape: Any, value: Any) -> Any:
    """The value as AWS's SDK takes it, blobs as bytes; a field that the service does not know fails here."""
    if shape.type_name == "structure" and not shape.is_document_type:
        assert value.keys() <= shape.members.keys(), (
            f"{shape.name} has no {value.keys() - shape.members.keys()}"
        )
        return {name: as_aws_has_it(shape.members[name], inner) for name, inner in value.items()}
    if shape.type_name == "list":
        return [as_aws_has_it(shape.member, inner) for inner in value]
    return base64.b64decode(value, validate=True) if shape.type_name == "blob" else value


def check(body: Any, model: str) -> None:
    """Fails for a body that AWS's SDK would not send: unknown, missing or mistyped fields, values out of range."""
    shape = service().operation_model("Converse").input_shape
    report = ParamValidator().validate(as_aws_has_it(shape, {"modelId": model, **body}), shape)
    assert not report.has_errors(), report.generate_report()
    for turn in body["messages"]:
        for block in turn["content"]:
            assert len(block) == 1 and block.get("text") != ""


def sent(
    params: Any = None,
    messages: Any = HI,
    *,
    model: str = SONNET,
    stream: bool = False,
    unsupported: Unsupported = "drop",
    most: int | None = None,
) -> Any:
    """The body, once AWS's model of the service has taken it."""
    body = json.loads(
        BedrockWire(unsupported=unsupported).build_request(
            Chat("ours", messages, stream, params or {}), model, most
        )
    )
    check(body, model)
    return body


def turns(*said: Message, **options: Any) -> Any:
    return sent(messages=list(said), **options)["messages"]


def refused(params: Any = None, messages: Any = HI, **options: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        sent(params, messages, **options)
    return caught.value.param


def calls(*made: tuple[str, str, str], content: str | None = None, **extra: Any) -> Message:
    given = [
        {"id": i, "type": "function", "function": {"name": name, "arguments": text}}
        for i, name, text in made
    ]
    return Message("assistant", content, tool_calls=given, extra=extra)


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, path",
    [
        (SONNET, "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"),
        (
            PROFILE,
            "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fa1b2c3/converse",
        ),
        ("../../x?y#z", "/model/..%2F..%2Fx%3Fy%23z/converse"),
    ],
)
def test_the_path_names_the_model_and_leads_nowhere_else(model: str, path: str) -> None:
    assert (
        BedrockWire().path(model, False) == path
        and BedrockWire().path(model, True) == f"{path}-stream"
    )


def test_a_stream_has_the_same_body() -> None:
    assert (
        sent(stream=True) == sent() == {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    )


# --- messages ---------------------------------------------------------------------------------------------------------


def test_instructions_roles_and_neighbours() -> None:
    body = sent(
        messages=[
            Message("system", "Be kind."),
            Message("user", "one", name="eve"),
            Message("user", [{"type": "text", "text": "two"}, {"type": "text", "text": " "}]),
            Message("developer", "Be short.", extra=MARK),
            Message("assistant", "three"),
            Message("assistant", None, refusal="no"),
            Message("assistant", ""),
            Message("user", "four"),
            Message("assistant", "It is  \n"),
        ]
    )
    assert body["system"] == [{"text": "Be kind."}, {"text": "Be short."}, POINT]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "one"}, {"text": "two"}]},
        {"role": "assistant", "content": [{"text": "three"}, {"text": "no"}]},
        {"role": "user", "content": [{"text": "four"}]},
        {"role": "assistant", "content": [{"text": "It is"}]},
    ]


def test_messages_that_are_none() -> None:
    assert sent(messages=[Message("system", "Greet.")]) == {
        "messages": [{"role": "user", "content": [{"text": "Greet."}]}]
    }
    assert refused(messages=[Message("user", " ")]) == "messages"
    assert refused(messages=[Message("function", "x", name="f")]) == "messages[0].role"
    image = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]
    assert refused(messages=[Message("system", image)]) == "messages[0].content"


def test_calls_and_their_answers() -> None:
    said = turns(
        Message("user", "weather?"),
        calls(
            ("c1", "get_weather", '{"city":"Paris"}'),
            ("c 2", "get_time", "[1]"),
            content="Looking.",
        ),
        Message("tool", "12:00", tool_call_id="c 2"),
        Message(
            "tool", [{"type": "text", "text": "rain"}], tool_call_id="c1", extra={"is_error": True}
        ),
        Message("user", "and now?"),
    )
    assert said[1]["content"] == [
        {"text": "Looking."},
        {"toolUse": {"toolUseId": "c1", "name": "get_weather", "input": {"city": "Paris"}}},
        {"toolUse": {"toolUseId": "c_2", "name": "get_time", "input": {"arguments": "[1]"}}},
    ]
    assert said[2]["content"] == [
        {"toolResult": {"toolUseId": "c_2", "content": [{"text": "12:00"}]}},
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "rain"}], "status": "error"}},
        {"text": "and now?"},
    ]


def test_answers_to_calls_come_before_anything_else() -> None:
    waiting = [
        Message("user", "wait"),
        Message("tool", "", tool_call_id="c"),
        Message("user", "go"),
    ]
    said = turns(HI[0], calls(("c", "f", "{}")), *waiting)
    assert said[2]["content"] == [
        {"toolResult": {"toolUseId": "c", "content": []}},
        {"text": "wait"},
        {"text": "go"},
    ]


def test_ids_that_are_too_long_stay_different() -> None:
    ids = ["x" * 65, "x" * 65 + "y"]
    asked = calls(*[(i, "f", "{}") for i in ids])
    said = turns(HI[0], asked, *[Message("tool", "r", tool_call_id=i) for i in ids])
    made = [block["toolUse"]["toolUseId"] for block in said[1]["content"]]
    assert len({*made}) == 2 and made == [
        block["toolResult"]["toolUseId"] for block in said[2]["content"]
    ]


def test_thoughts_go_back_where_they_were() -> None:
    blocks = [
        {"index": 0, **THOUGHT},
        {"index": 2, **HIDDEN},
        {"index": 9, "type": "thinking", "thinking": "unsigned"},
        5,
    ]
    message = calls(("c", "f", "{}"), content="Words.", thinking_blocks=blocks)
    [_, turn] = turns(HI[0], message)
    assert turn["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "EqoB"}}},
        {"text": "Words."},
        {"reasoningContent": {"redactedContent": HIDDEN["data"]}},
        {"toolUse": {"toolUseId": "c", "name": "f", "input": {}}},
    ]
    assert turns(HI[0], message, model=PROFILE)[1:] == [turn], "an ARN may stand for Claude"
    [_, turn] = turns(HI[0], message, model=NOVA)
    assert [next(iter(block)) for block in turn["content"]] == ["text", "toolUse"], (
        "thoughts of others are nothing to it"
    )
    [turn] = turns(Message("assistant", None, extra={"thinking_blocks": [THOUGHT]}), HI[0])
    assert turn["role"] == "user", "no turn is a thought alone"


def test_a_conversation_may_move_to_bedrock() -> None:
    """The thoughts that Anthropic's own API signed are the same blocks there and here."""
    message = calls(("c", "f", "{}"), thinking_blocks=[{"index": 0, **THOUGHT}])
    chat = Chat("m", [HI[0], message])
    [_, there] = json.loads(AnthropicWire().build_request(chat, "claude-sonnet-4-5"))["messages"]
    [_, here] = turns(HI[0], message)
    assert there["content"][0] == THOUGHT
    assert here["content"][0]["reasoningContent"]["reasoningText"] == {
        "text": "Hm.",
        "signature": "EqoB",
    }


def data_of(kind: str, data: str = PIXEL) -> str:
    return f"data:{kind};base64,{data}"


SEEN = [
    ({"type": "image_url", "image_url": {"url": data_of("image/png")}}, {"image": {"format": "png", "source": {"bytes": PIXEL}}}),
    ({"type": "image_url", "image_url": {"url": data_of("Image/JPG")}},
     {"image": {"format": "jpeg", "source": {"bytes": PIXEL}}}),
    ({"type": "video_url", "video_url": {"url": data_of("video/quicktime")}},
     {"video": {"format": "mov", "source": {"bytes": PIXEL}}}),
    ({"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
     {"audio": {"format": "wav", "source": {"bytes": PIXEL}}}),
    ({"type": "file", "file": {"filename": "q3_figures (v2).final.pdf", "file_data": data_of("application/pdf", PDF)}},
     {"document": {"format": "pdf", "name": "q3 figures (v2) final", "source": {"bytes": PDF}}}),
    ({"type": "file", "file": {"file_data": data_of("text/x-python", PDF)}},
     {"document": {"format": "txt", "name": "document", "source": {"bytes": PDF}}}),
    ({"type": "file", "file": {"filename": "日本.csv", "file_data": data_of("text/csv", PDF)}},
     {"document": {"format": "csv", "name": "document", "source": {"bytes": PDF}}}),
    ({"type": "file", "file": {"filename": "x.png", "file_data": data_of("image/webp")}},
     {"image": {"format": "webp", "source": {"bytes": PIXEL}}}),
]  # fmt: skip


@pytest.mark.parametrize("part, block", SEEN)
def test_pictures_and_documents(part: Any, block: Any) -> None:
    [turn] = turns(Message("user", [part]))
    assert turn["content"] == [block]
    answered = [
        HI[0],
        calls(("c", "f", "{}")),
        Message("tool", [part | MARK], tool_call_id="c", extra=MARK),
    ]
    if "audio" in block:
        assert refused(messages=answered) == "messages[2].content"
    else:
        assert turns(*answered)[2]["content"] == [
            {"toolResult": {"toolUseId": "c", "content": [block]}},
            POINT,
        ]


def test_no_two_documents_have_the_same_name() -> None:
    part = {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": data_of("application/pdf", PDF)},
    }
    said = turns(Message("user", [part, part]), Message("assistant", "x"), Message("user", [part]))
    names = [
        block["document"]["name"]
        for turn in said
        for block in turn["content"]
        if "document" in block
    ]
    assert names == ["a", "a (2)", "a (3)"]


@pytest.mark.parametrize(
    "part, param",
    [
        ({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": "s3://bucket/y.png"}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": data_of("image/tiff")}}, "image_url.url"),
        ({"type": "video_url", "video_url": 5}, "video_url.url"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file.file_data"),
        ({"type": "file", "file": {"file_data": data_of("application/zip")}}, "file.file_data"),
        ({"type": "x"}, "type"),
    ],
)
def test_what_it_cannot_read(part: Any, param: str) -> None:
    assert refused(messages=[*HI, Message("user", [part])]) == f"messages[1].content[0].{param}"


def test_marks_of_what_is_to_be_cached() -> None:
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    said = [
        Message("user", [{"type": "text", "text": "long", **MARK}, {"type": "text", "text": "x"}]),
        Message("user", "y", extra=hour),
    ]
    body = sent({"tools": [TOOL | MARK]}, said)
    later = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert body["messages"][0]["content"] == [
        {"text": "long"},
        POINT,
        {"text": "x"},
        {"text": "y"},
        later,
    ]
    assert body["toolConfig"]["tools"] == [SPEC, POINT]
    assert turns(Message("user", "x", extra={"cache_control": 5}))[0]["content"] == [{"text": "x"}]


# --- tools ------------------------------------------------------------------------------------------------------------


def test_tools_and_choices() -> None:
    tools = {"tools": [TOOL]}
    assert (
        sent(tools)["toolConfig"]
        == {"tools": [SPEC]}
        == sent(tools | {"tool_choice": "auto"})["toolConfig"]
    )
    assert sent(tools | {"tool_choice": "required"})["toolConfig"]["toolChoice"] == {"any": {}}
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert sent(tools | {"tool_choice": named})["toolConfig"]["toolChoice"] == {
        "tool": {"name": "get_weather"}
    }
    assert "toolConfig" not in sent(tools | {"tool_choice": "none"}, unsupported="reject")
    assert (
        refused({"tool_choice": "required"})
        == "tool_choice"
        == refused(tools | {"tool_choice": {"x": 1}})
    )
    assert refused({"tools": [{"type": "custom", "custom": {"name": "f"}}]}) == "tools[0].type"
    assert refused({"tools": [{"type": "function", "function": {}}]}) == "tools[0].function.name"
    assert (
        refused(tools | {"parallel_tool_calls": False}, unsupported="reject")
        == "parallel_tool_calls"
    )


def test_a_tool_without_parameters_and_a_strict_one() -> None:
    bare = {"type": "function", "function": {"name": "f", "strict": True, "description": ""}}
    [spec] = sent({"tools": [bare]})["toolConfig"]["tools"]
    closed = {"type": "object", "additionalProperties": False}
    assert spec == {"toolSpec": {"name": "f", "inputSchema": {"json": closed}, "strict": True}}
    assert "strict" not in sent({"tools": [bare]}, model=NOVA)["toolConfig"]["tools"][0]["toolSpec"]
    assert (
        refused({"tools": [bare]}, model=NOVA, unsupported="reject") == "tools[0].function.strict"
    )


def test_calls_in_the_history_have_their_tools_beside_them() -> None:
    said = [
        *HI,
        calls(("c", "get_weather", "{}"), ("d", "get_weather", "{}")),
        Message("tool", "x", tool_call_id="c"),
    ]
    [spec] = sent(messages=said)["toolConfig"]["tools"]
    assert spec == {
        "toolSpec": {"name": "get_weather", "inputSchema": {"json": {"type": "object"}}}
    }
    given = {"tools": [TOOL], "tool_choice": "none"}
    assert sent(given, said)["toolConfig"] == {"tools": [SPEC]}
    assert refused(given, said, unsupported="reject") == "tool_choice"


# --- parameters -------------------------------------------------------------------------------------------------------


def test_sampling() -> None:
    params = {"temperature": 0.5, "max_tokens": 9, "max_completion_tokens": 8, "stop": "END"}
    assert sent(params, unsupported="reject")["inferenceConfig"] == {
        "temperature": 0.5,
        "maxTokens": 8,
        "stopSequences": ["END"],
    }
    assert sent({"top_p": 0.5, "temperature": 0}, model=LLAMA)["inferenceConfig"] == {
        "topP": 0.5,
        "temperature": 0,
    }
    assert sent({"stop": ["a", "", " ", "b"]})["inferenceConfig"] == {"stopSequences": ["a", "b"]}
    assert refused({"stop": [" "]}, unsupported="reject") == "stop"
    assert refused({"temperature": 1.5}) == "temperature"
    assert "inferenceConfig" not in sent({"temperature": 0.5}, model=NEW), "it takes none"
    assert refused({"temperature": 0.5}, model=NEW, unsupported="reject") == "temperature"
    assert "inferenceConfig" not in sent(most=100), "its own default is the most it can write"


def test_top_k_goes_where_each_family_looks_for_it() -> None:
    assert sent({"top_k": 5})["additionalModelRequestFields"] == {"top_k": 5}
    assert sent({"top_k": 5}, model=NOVA)["additionalModelRequestFields"] == {
        "inferenceConfig": {"topK": 5}
    }
    assert sent({"top_k": 5}, model=LLAMA) == sent(model=LLAMA)
    assert refused({"top_k": 5}, model=LLAMA, unsupported="reject") == "top_k"


def test_formats() -> None:
    assert sent({"response_format": {"type": "text"}}) == sent()
    assert "JSON" in sent({"response_format": {"type": "json_object"}})["system"][0]["text"]
    text = sent({"response_format": FORMAT})["outputConfig"]["textFormat"]
    assert text["type"] == "json_schema" and text["structure"]["jsonSchema"]["name"] == "x"
    assert json.loads(text["structure"]["jsonSchema"]["schema"]) == SCHEMA | {
        "additionalProperties": False
    }
    for model in (OLD, NOVA):  # a forced call is the answer
        config = sent({"response_format": FORMAT}, model=model)["toolConfig"]
        assert config["tools"][0]["toolSpec"]["inputSchema"] == {"json": SCHEMA}
        assert config["toolChoice"]["tool"]["name"] == config["tools"][0]["toolSpec"]["name"]
        assert (
            refused({"response_format": FORMAT, "tools": [TOOL]}, model=model) == "response_format"
        )
    assert (
        refused({"response_format": {"type": "json_schema", "json_schema": {}}})
        == "response_format.json_schema.schema"
    )


EFFORTS = [
    (SONNET, "low", {"thinking": {"type": "enabled", "budget_tokens": 2000}}, None),
    (SONNET, "none", {"thinking": {"type": "disabled"}}, None),
    (NEW, "xhigh", {"thinking": {"type": "adaptive", "display": "summarized"}}, "xhigh"),
    (NOVA2, "xhigh", {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}}, None),
    (OSS, "minimal", {"reasoning_effort": "low"}, None),
]  # fmt: skip


@pytest.mark.parametrize("model, effort, fields, level", EFFORTS)
def test_efforts(model: str, effort: str, fields: Json, level: str | None) -> None:
    for params in ({"reasoning_effort": effort}, {"reasoning": {"effort": effort}}):
        body = sent(params | {"max_tokens": 10_000}, model=model, unsupported="reject")
        assert (
            body["additionalModelRequestFields"] == fields
            and body.get("outputConfig", {}).get("effort") == level
        )


@pytest.mark.parametrize("model", [OLD, NOVA, LLAMA])
def test_models_that_cannot_be_told_to_reason(model: str) -> None:
    assert sent({"reasoning_effort": "low"}, model=model) == sent(model=model)
    assert (
        refused({"reasoning_effort": "low"}, model=model, unsupported="reject")
        == "reasoning_effort"
    )
    assert sent({"reasoning_effort": "none"}, model=model, unsupported="reject") == sent(
        model=model
    )


def test_a_budget_is_a_share_of_what_may_be_said() -> None:
    body = sent({"reasoning_effort": "high"}, most=20_000)
    assert body["inferenceConfig"] == {"maxTokens": 20_000}
    assert body["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 16_000
    body = sent({"reasoning_effort": "high"})
    assert (
        1024
        < body["additionalModelRequestFields"]["thinking"]["budget_tokens"]
        < body["inferenceConfig"]["maxTokens"]
    )


WEATHER = {"tools": [TOOL]}
OBSTACLES = [
    ({"max_tokens": 1024}, HI),
    (WEATHER | {"tool_choice": "required"}, HI),
    ({}, [*HI, Message("assistant", "It is")]),
    (WEATHER, [*HI, calls(("c", "get_weather", "{}")), Message("tool", "x", tool_call_id="c")]),
]


@pytest.mark.parametrize("params, messages", OBSTACLES)
def test_what_keeps_claude_from_thinking(params: Json, messages: list[Message]) -> None:
    asked = params | {"reasoning_effort": "low"}
    assert sent(asked, messages) == sent(params, messages)
    assert refused(asked, messages, unsupported="reject") == "reasoning_effort"


def test_with_its_thoughts_it_goes_on_thinking() -> None:
    call = calls(("c", "get_weather", "{}"), thinking_blocks=[{"index": 0, **THOUGHT}])
    said = [*HI, call, Message("tool", "x", tool_call_id="c")]
    assert sent(WEATHER | {"reasoning_effort": "low"}, said, unsupported="reject")[
        "additionalModelRequestFields"
    ]["thinking"]


def test_bad_efforts() -> None:
    for model in (SONNET, NOVA2, OSS, LLAMA):
        assert refused({"reasoning_effort": "very"}, model=model) == "reasoning_effort"
    assert (
        refused({"reasoning": {"effort": []}}) == "reasoning.effort"
        and refused({"thinking": 5}) == "thinking"
    )
    assert (
        refused({"reasoning_effort": "none"}, model=OSS, unsupported="reject") == "reasoning_effort"
    )


def test_their_own_words_win() -> None:
    own: dict[str, Any] = {
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1"},
        "requestMetadata": {"a": "b"},
    }
    own |= {
        "performanceConfig": {"latency": "optimized"},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
    }
    thinking = {"type": "enabled", "budget_tokens": 2048}
    body = sent(own | {"thinking": thinking, "reasoning_effort": "high"}, unsupported="reject")
    assert {name: body[name] for name in own} == own
    assert body["additionalModelRequestFields"] == {"thinking": thinking}
    assert sent({"additionalModelRequestFields": {"top_k": 9}, "top_k": 5})[
        "additionalModelRequestFields"
    ] == {"top_k": 9}


@pytest.mark.parametrize("name", ["messages", "model", "system", "stream", "max_tokens"])
def test_f1_a_models_own_fields_take_the_place_of_no_others(name: str) -> None:
    for fields in ({name: 1}, {"x": 1, name: None}, {"textGenerationConfig": {name: 1}}):
        params = {"additionalModelRequestFields": fields, "max_tokens": 5}
        assert refused(params) == "additionalModelRequestFields"
    assert refused({"additionalModelRequestFields": {"inferenceConfig": {"maxTokens": 9}}})


@pytest.mark.parametrize(
    "tier, meant", [("auto", None), ("default", None), ("flex", "flex"), ("priority", "priority")]
)
def test_tiers(tier: str, meant: str | None) -> None:
    assert sent({"service_tier": tier}, unsupported="reject").get("serviceTier") == (
        meant and {"type": meant}
    )


@pytest.mark.parametrize("rule", get_args(Unsupported))
def test_what_changes_the_kind_of_answer_is_refused(rule: Unsupported) -> None:
    odd: Json = {
        "n": 2,
        "modalities": ["audio"],
        "functions": [{"name": "f"}],
        "logprobs": True,
        "top_logprobs": 1,
    }
    for name, value in odd.items():
        assert refused({name: value}, unsupported=rule) == name


LACKING: list[tuple[str, Any]] = [
    ("logit_bias", {"5": 1}), ("seed", 0), ("presence_penalty", 0.5), ("verbosity", "low"), ("service_tier", "scale"),
    ("service_tier", {}), ("unheard_of", 1),
]  # fmt: skip


@pytest.mark.parametrize("name, value", LACKING)
def test_what_it_has_no_place_for_goes_by_the_rule(name: str, value: Any) -> None:
    assert refused({name: value}, unsupported="reject") == name and sent({name: value}) == sent()


def test_what_is_ours_or_changes_nothing_is_no_matter() -> None:
    params = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "stream_options": {},
        "presence_penalty": 0,
        "unheard": None,
    }
    assert sent(params, unsupported="reject") == sent()


FAMILIES = [
    ("anthropic.claude-opus-4-20250514-v1:0", "claude formats=False signs"), (SONNET, "claude formats signs"),
    ("arn:aws:bedrock:us-east-1:1:inference-profile/" + SONNET, "claude formats signs"), (OLD, "claude formats=False signs"),
    (NOVA, "nova formats=False"), (NOVA2, "nova formats=False reasons"), (OSS, "oss formats"), (LLAMA, "formats"),
    (PROFILE, "formats signs"),
]  # fmt: skip


@pytest.mark.parametrize("model, takes", FAMILIES)
def test_families(model: str, takes: str) -> None:
    kind = family(model)
    assert (bool(kind.claude), kind.nova, kind.oss) == tuple(
        name in takes.split() for name in ("claude", "nova", "oss")
    )
    assert (kind.structured_output, kind.signatures) == (
        "formats" in takes.split(),
        "signs" in takes.split(),
    )
    assert not kind.nova or kind.reasoning == ("reasons" in takes.split())


def test_a_release_of_bedrock_is_no_version_of_claude() -> None:
    claude = family("anthropic.claude-opus-4-20250514-v1:0").claude
    assert claude and claude.temperature_and_top_p, (
        "4.0 takes temperature beside top_p, 4.1 does not"
    )


EVERYTHING: Any = {
    "model": "ours",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s", **MARK}]},
        {"role": "user", "content": [
            {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": data_of("image/png")}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": data_of("application/pdf", PDF)}},
            {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
        ]},
        {"role": "assistant", "content": None, "thinking_blocks": [{"index": 0, **THOUGHT}, {"index": 1, **HIDDEN}],
         "tool_calls": [{"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "x", "is_error": True, **MARK},
    ],
    "tools": [TOOL | MARK], "tool_choice": {"function": {"name": "get_weather"}}, "response_format": FORMAT,
    "reasoning_effort": "low", "reasoning": {"effort": "low"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
    "stop": ["a"], "n": 1, "max_tokens": 9, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "service_tier": "auto",
    "additionalModelRequestFields": {"x": 1}, "guardrailConfig": {"trace": "enabled"}, "modalities": ["text"],
}  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("model", [SONNET, NEW, NOVA2, OSS, OLD])
def test_a_damaged_request_never_does_worse_than_be_refused(seed: int, model: str) -> None:
    wire = BedrockWire()
    whole = {
        k: v for k, v in EVERYTHING.items() if model not in (NOVA2, OLD) or k != "response_format"
    }
    assert bodies(damaged(whole, seed), partial(wire.build_request, model=model)) > 20
