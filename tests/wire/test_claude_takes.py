"""What Claude takes, at Anthropic's own API and at Bedrock: thinking, schemas, order, features and who asks."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from chattable.adapters.anthropic.schemas import closed, endless, flat
from chattable.adapters.anthropic.wire import AnthropicWire
from chattable.adapters.bedrock.wire import BedrockWire
from chattable.adapters.wire import Wire
from chattable.agents.chat import Chat, Json, Message
from chattable.agents.errors import InvalidRequest
from chattable.agents.fold import as_message

HI: Json = {"role": "user", "content": "hi"}
SAID: Json = {"role": "assistant", "content": "So."}
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
WIRES: list[tuple[Wire, str]] = [
    (AnthropicWire(), "{}"),
    (BedrockWire(), "global.anthropic.{}-v1:0"),
]


def sent(wire: Wire, model: str, *messages: Json, **params: Any) -> Json:
    chat = Chat("ours", [as_message(dict(message)) for message in messages or [HI]], False, params)
    body: Json = json.loads(wire.build_request(chat, model))
    return body


def refused(wire: Wire, model: str, *messages: Json, **params: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        sent(wire, model, *messages, **params)
    return caught.value.param


def thinking(body: Json) -> Any:
    return (body.get("additionalModelRequestFields") or body).get("thinking")


def effort(body: Json) -> Any:
    return (body.get("output_config") or body.get("outputConfig") or {}).get("effort")


def choice(body: Json) -> Any:
    return body.get("tool_choice") or body.get("toolConfig", {}).get("toolChoice")


def words(body: Json) -> str:
    return json.dumps(body.get("system", ""))


# --- C2: models that think always, or by default ------------------------------------------------------------------------


@pytest.mark.parametrize("wire, name", WIRES)
@pytest.mark.parametrize(
    "model, off, forced",
    [
        ("claude-fable-5", None, None),
        ("claude-mythos-5", None, None),
        ("claude-fable-5-1", None, None),
        ("claude-opus-5-5", None, None),
        ("claude-sonnet-5-5", "between_tools", None),
        ("claude-haiku-5-5", "disabled", "disabled"),
        ("claude-sonnet-5", "disabled", "disabled"),
        ("claude-opus-5", "disabled", "disabled"),
    ],
)
def test_c2_models_that_think_by_themselves(
    wire: Wire, name: str, model: str, off: str | None, forced: str | None
) -> None:
    model = name.format(model)
    body = sent(wire, model, reasoning_effort="none")
    assert thinking(body) == ({"type": off} if off else None)
    assert effort(body) == (None if off else "low"), "the least that there is"
    must = sent(wire, model, tools=[TOOL], tool_choice="required")
    assert thinking(must) == ({"type": forced} if forced else None), (
        "a forced call and a thought are refused together"
    )
    assert bool(choice(must)) is bool(forced)
    assert ("one of the tools" in words(must)) is not bool(forced), (
        "what cannot be forced is asked for"
    )
    named = sent(
        wire, model, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}
    )
    assert bool(choice(named)) is bool(forced) and ("tool `f`" in words(named)) is not bool(forced)
    strict = wire.with_unsupported("reject")
    if not off:
        assert refused(strict, model, reasoning_effort="none") == "reasoning_effort"
    if not forced:
        assert refused(strict, model, tools=[TOOL], tool_choice="required") == "tool_choice"


@pytest.mark.parametrize("wire, name", WIRES)
def test_c2_older_models_think_when_they_are_told_to(wire: Wire, name: str) -> None:
    for model in ("claude-opus-4-7", "claude-sonnet-4-5"):
        body = sent(wire, name.format(model), tools=[TOOL], tool_choice="required")
        assert thinking(body) is None and choice(body)
        assert thinking(sent(wire, name.format(model), reasoning_effort="none")) == {
            "type": "disabled"
        }


# --- C3: schemas --------------------------------------------------------------------------------------------------------

SCHEMA: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 150, "description": "In years."},
        "tags": {
            "type": "array",
            "items": {"type": "string", "maxLength": 9},
            "minItems": 1,
            "maxItems": 3,
        },
        "at": {
            "type": "object",
            "properties": {"x": {"oneOf": [{"type": "string"}, {"type": "null"}]}},
        },
        "when": {"type": "string", "format": "date"},
        "odd": {"type": "string", "format": "colour", "pattern": "(?=x)y"},
    },
    "required": ["age"],
}


def test_c3_a_schema_becomes_what_claude_takes_and_the_rest_is_told() -> None:
    before = json.dumps(SCHEMA)
    out = closed(SCHEMA)
    assert json.dumps(SCHEMA) == before
    assert (
        out["additionalProperties"] is False and "$schema" not in out and out["required"] == ["age"]
    )
    inner = out["properties"]
    assert inner["age"] == {
        "type": "integer",
        "description": "In years. (minimum: 0, maximum: 150)",
    }
    assert inner["tags"]["minItems"] == 1 and inner["tags"]["description"] == "maxItems: 3"
    assert inner["tags"]["items"] == {"type": "string", "description": "maxLength: 9"}
    assert inner["at"]["additionalProperties"] is False
    assert inner["at"]["properties"]["x"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert inner["when"] == {"type": "string", "format": "date"}
    assert inner["odd"] == {"type": "string", "description": 'format: "colour", pattern: "(?=x)y"'}
    free = closed({"type": "object", "additionalProperties": {"type": "string"}})
    assert free["additionalProperties"] is False and '{"type":"string"}' in free["description"]


@pytest.mark.parametrize("wire, name", WIRES)
def test_c3_an_answer_is_held_to_the_closed_schema(wire: Wire, name: str) -> None:
    body = sent(
        wire,
        name.format("claude-opus-4-7"),
        response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    )
    if "output_config" in body:
        assert body["output_config"]["format"]["schema"] == closed(SCHEMA)
    else:
        assert json.loads(
            body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
        ) == closed(SCHEMA)


@pytest.mark.parametrize("wire, name", WIRES)
def test_c3_a_schema_without_an_end_is_told_in_words(wire: Wire, name: str) -> None:
    tree: Json = {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
    }
    assert endless(tree) and endless({"$ref": "#"}) and endless({"$ref": "https://example.com/x"})
    assert not endless(
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {}}}
    )
    wanted = {"type": "json_schema", "json_schema": {"schema": tree}}
    body = sent(wire, name.format("claude-opus-4-7"), response_format=wanted)
    assert "#/$defs/n" in words(body) and effort(body) is None and "format" not in json.dumps(body)
    assert (
        refused(
            wire.with_unsupported("reject"), name.format("claude-opus-4-7"), response_format=wanted
        )
        == "response_format"
    )


@pytest.mark.parametrize("wire, name", WIRES)
def test_c3_a_tool_with_alternatives_at_the_top(wire: Wire, name: str) -> None:
    one = {"properties": {"a": {"type": "string"}, "c": {}}, "required": ["a", "c"]}
    other = {"properties": {"b": {"type": "integer"}, "c": {}}, "required": ["b", "c"]}
    schema = {"anyOf": [one, other], "description": "Either."}
    assert flat(schema) == {
        "type": "object",
        "properties": {"b": {"type": "integer"}, "c": {}, "a": {"type": "string"}},
        "required": ["c"],
        "description": f"Either. (anyOf: {json.dumps([one, other], separators=(',', ':'))})",
    }
    assert flat({"allOf": [one, other]})["required"] == ["a", "b", "c"]
    assert flat(
        {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {"a": {}, "b": {}}}
    )["properties"] == {
        "a": {},
        "b": {},
    }
    assert (
        flat(5) == {"type": "object"}
        and flat({"anyOf": [5, None], "type": ["object", "null"]})["type"] == "object"
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = sent(wire, name.format("claude-sonnet-4-5"), tools=[tool])
    if "tools" in body:
        found = body["tools"][0]["input_schema"]
    else:
        found = body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert found == flat(schema)


# --- C5, C6, C11: order -------------------------------------------------------------------------------------------------


def roles(body: Json) -> list[str]:
    return [turn["role"] for turn in body["messages"]]


@pytest.mark.parametrize("wire, name", WIRES)
def test_c5_an_empty_last_message_is_refused(wire: Wire, name: str) -> None:
    model = name.format("claude-sonnet-4-5")
    assert refused(wire, model, HI, SAID, {"role": "user", "content": ""}) == "messages[2].content"
    assert (
        refused(
            wire,
            model,
            HI,
            SAID,
            {"role": "user", "content": " "},
            {"role": "system", "content": "s"},
        )
        == "messages[2].content"
    )
    assert roles(sent(wire, model, HI, {"role": "user", "content": ""})) == ["user"]
    assert roles(sent(wire, model, HI, SAID)) == ["user", "assistant"], (
        "words to go on with are no mistake"
    )
    assert refused(wire, name.format("claude-opus-4-6"), HI, SAID) == "messages", (
        "newer models do not go on with them"
    )


@pytest.mark.parametrize("wire, name", WIRES)
def test_c6_somebody_must_have_asked_first(wire: Wire, name: str) -> None:
    body = sent(
        wire, name.format("claude-sonnet-4-5"), {"role": "system", "content": "s"}, SAID, HI
    )
    assert roles(body) == ["user", "assistant", "user"] and "s" in words(body)


def test_c6_points_to_cache_up_to_go_by_family() -> None:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    marked = {"role": "user", "content": [{"type": "text", "text": "long", **mark}]}
    points = {
        "anthropic.claude-sonnet-4-5-v1:0": 3,
        "anthropic.claude-3-haiku-20240307-v1:0": 0,
        "amazon.nova-pro-v1:0": 2,
        "meta.llama4-maverick-v1:0": 0,
        "mistral.mistral-large-2512-v1:0": 0,
    }
    for model, count in points.items():
        body = json.dumps(
            sent(
                BedrockWire(),
                model,
                {"role": "system", "content": "s", **mark},
                marked,
                tools=[TOOL | mark],
            )
        )
        assert (body.count("cachePoint"), "1h" in body) == (count, count == 3), model


@pytest.mark.parametrize("wire, name", WIRES)
def test_c11_instructions_that_stand_last_keep_their_place(wire: Wire, name: str) -> None:
    again = {"role": "system", "content": "Please return text."}
    body = sent(
        wire,
        name.format("claude-opus-4-7"),
        {"role": "system", "content": "be kind"},
        HI,
        SAID,
        again,
    )
    assert roles(body) == ["user", "assistant", "user"]
    assert "Please return text." in json.dumps(body["messages"][-1]) and "be kind" in words(body)
    assert roles(sent(wire, name.format("claude-opus-4-7"), HI, again)) == ["user"]


@pytest.mark.parametrize("wire, name", WIRES)
def test_calls_of_several_turns_may_have_one_id(wire: Wire, name: str) -> None:
    call = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "x"},
    ]
    text = json.dumps(sent(wire, name.format("claude-sonnet-4-5"), HI, *turn, *turn, HI))
    assert text.count('"call_0"') == 2 and text.count('"call_0_2"') == 2


@pytest.mark.parametrize("wire, name", WIRES)
@pytest.mark.parametrize(
    "given",
    [["a/1", "a_1"], ["a_1", "a/1", "a:1"], ["x", "x", "x_2"], ["x_2", "x", "x"], ["", "_"]],
)
def test_no_two_calls_share_the_id_that_a_vendor_wants(
    wire: Wire, name: str, given: list[str]
) -> None:
    made: list[dict[str, Any]] = []
    ids = []
    for i, call_id in enumerate(given):
        call = {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        made += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": f"x{i}"},
        ]
    turns = sent(wire, name.format("claude-sonnet-4-5"), HI, *made, HI)["messages"]
    for asked, told in zip(turns[1::2], turns[2::2], strict=True):
        use, result = asked["content"][0], told["content"][0]
        ids.append(use["id"] if "id" in use else use["toolUse"]["toolUseId"])
        assert ids[-1] == (result.get("tool_use_id") or result["toolResult"]["toolUseId"])
    assert len(ids) == len({*ids}) == len(given)


@pytest.mark.parametrize("wire, name", WIRES)
def test_a_call_that_nobody_answered_has_an_answer(wire: Wire, name: str) -> None:
    """Who speaks on instead of answering a call is no mistake of the conversation's for ever."""
    calls = [
        {"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for i in ("a", "b")
    ]
    made = {"role": "assistant", "content": None, "tool_calls": calls}
    done = {"role": "tool", "tool_call_id": "a", "content": "x"}
    model = name.format("claude-sonnet-4-5")
    for rest in ([HI], [SAID, HI]):
        body = sent(wire, model, HI, made, done, *rest)
        answers = json.dumps(body["messages"][2])
        assert (
            answers.count('"a"') == answers.count('"b"') == 1 and "There was no answer." in answers
        )
    late = sent(wire, model, HI, made, HI, done, done | {"tool_call_id": "b"})
    assert "There was no answer." not in json.dumps(late)
    assert roles(sent(wire, model, HI, made)) == ["user", "assistant"]


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python some work runs through."""
    count, before = 0, sys.gettrace()

    def trace(_frame: Any, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def chain(size: int) -> object:
    """A schema of definitions that each lead to the next."""
    places = {f"n{i}": {"$ref": f"#/$defs/n{i + 1}"} for i in range(size)}
    return endless({"$ref": "#/$defs/n0", "$defs": places | {f"n{size}": {}}})


def documents(size: int) -> object:
    """As many documents of one name."""
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="}
    return sent(
        BedrockWire(),
        "amazon.nova-pro-v1:0",
        {"role": "user", "content": [{"type": "file", "file": file}] * size},
    )


@pytest.mark.parametrize(
    "work",
    [
        chain,
        documents,
        lambda size: sent(AnthropicWire(), "claude-opus-4-7", *[HI] * size),
        lambda size: sent(BedrockWire(), "amazon.nova-pro-v1:0", *[HI] * size),
    ],
    ids=["schema", "documents", "anthropic", "bedrock"],
)
def test_the_work_of_a_request_grows_with_its_size(work: Callable[[int], object]) -> None:
    """All other requests of the worker wait for it."""
    assert steps(lambda: work(400)) < 6 * steps(lambda: work(100))


# --- C7, C8: features and who asks --------------------------------------------------------------------------------------


def features(wire: Wire = AnthropicWire(), **params: Any) -> str:  # noqa: B008 - it has no state
    messages = params.pop("messages", [Message("user", "hi")])
    body = wire.build_request(Chat("ours", messages, False, params), "claude-opus-4-7")
    return dict(wire.signature("", "", "", body)).get("anthropic-beta", "")


def test_c7_a_feature_brings_its_header() -> None:
    assert features() == ""
    assert features(context_management={"edits": []}) == "context-management-2025-06-27"
    assert features(mcp_servers=[]) == "mcp-client-2025-04-04"
    assert features(mcp_servers=[], tools=[{"type": "mcp_toolset"}]) == "mcp-client-2025-11-20"
    assert features(container={"skills": [{}]}) == "skills-2025-10-02,code-execution-2025-08-25"
    assert features(speed="fast") == "fast-mode-2026-02-01"
    file = Message("user", [{"type": "file", "file": {"file_id": "file_1"}}])
    assert features(messages=[file]) == "files-api-2025-04-14"
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = Message("tool", [{"type": "file", "file": {"file_id": "file_1"}}], tool_call_id="a")
    seen = [Message("user", "hi"), Message("assistant", None, tool_calls=[call]), answer]
    assert features(messages=seen) == "files-api-2025-04-14"


def test_c7_what_a_client_asks_for_passes_from_a_list() -> None:
    wire = AnthropicWire().with_unsupported("drop")
    wanted = (
        "interleaved-thinking-2025-05-14, "
        "context-1m-2025-08-07,oauth-2025-04-20,interleaved-thinking-2025-05-14"
    )
    assert features(wire, anthropic_beta=wanted) == "interleaved-thinking-2025-05-14"
    assert features(
        AnthropicWire().with_unsupported("drop", ["anthropic_beta"]),
        anthropic_beta=["context-1m-2025-08-07"],
    ) == ("context-1m-2025-08-07")
    own = features(wire, anthropic_beta=["context-management-2099-01-01"], context_management={})
    assert own == "context-management-2099-01-01", "the client's own version of a feature counts"
    for bad in (5, [5], ["a\r\nb"], {"a": 1}, ["x" * 200], ["x"] * 100):
        with pytest.raises(InvalidRequest) as caught:
            features(wire, anthropic_beta=bad)
        assert caught.value.param == "anthropic_beta"
    body = sent(
        BedrockWire().with_unsupported("drop"),
        "anthropic.claude-opus-4-7-v1",
        anthropic_beta=wanted,
    )
    assert body["additionalModelRequestFields"] == {
        "anthropic_beta": ["interleaved-thinking-2025-05-14"]
    }
    assert "additionalModelRequestFields" not in sent(
        BedrockWire(), "amazon.nova-pro-v1:0", anthropic_beta=wanted
    )


@pytest.mark.parametrize(
    "user",
    ["alice@example.com", "+49 170 1234567", "00491701234567", "Ann Lee", "x" * 300, "Grüße"],
)
def test_c8_who_asks_is_told_as_a_digest_where_it_says_who_that_is(user: str) -> None:
    told = sent(AnthropicWire(), "claude-opus-4-7", user=user)["metadata"]["user_id"]
    assert (
        len(told) == 64
        and told.isalnum()
        and told == sent(AnthropicWire(), "claude-opus-4-7", user=user)["metadata"]["user_id"]
    )
    assert (
        sent(AnthropicWire(), "claude-opus-4-7", user="user_5f-A")["metadata"]["user_id"]
        == "user_5f-A"
    )


# --- F11: what is withheld ----------------------------------------------------------------------------------------------


def test_f11_what_costs_more_is_withheld_unless_allowed() -> None:
    costly = {"service_tier": "priority", "speed": "fast", "inference_geo": "us"}
    plain = sent(AnthropicWire(), "claude-opus-4-7")
    assert sent(AnthropicWire().with_unsupported("drop"), "claude-opus-4-7", **costly) == plain
    assert (
        sent(
            AnthropicWire().with_unsupported("drop", costly.keys()), "claude-opus-4-7", **costly
        ).keys()
        == plain.keys() | costly.keys()
    )
    assert (
        refused(AnthropicWire().with_unsupported("reject"), "claude-opus-4-7", **costly)
        == "inference_geo"
    )
    nova = sent(
        BedrockWire().with_unsupported("drop"),
        "amazon.nova-pro-v1:0",
        performanceConfig={"latency": "optimized"},
    )
    assert "performanceConfig" not in nova


def test_f11_a_models_own_fields_are_no_way_around_it() -> None:
    model, own = "anthropic.claude-opus-4-7-v1", "additionalModelRequestFields"
    wanted = ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]
    fields = {own: {"anthropic_beta": wanted, "speed": "fast", "top_k": 5}}
    assert sent(BedrockWire().with_unsupported("drop"), model, **fields)[own] == {
        "anthropic_beta": wanted[:1],
        "top_k": 5,
    }
    assert (
        sent(BedrockWire().with_unsupported("drop", ["speed", "anthropic_beta"]), model, **fields)[
            own
        ]
        == fields[own]
    )
    assert refused(BedrockWire().with_unsupported("reject"), model, **fields) == "speed"
    assert (
        refused(BedrockWire().with_unsupported("drop"), model, **{own: {"anthropic_beta": 5}})
        == "anthropic_beta"
    )
