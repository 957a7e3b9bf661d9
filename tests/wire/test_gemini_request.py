"""What is sent to Gemini.

Google's own SDK says whether it has the right shape: its types forbid what they do not know.
"""

import json
import sys
from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from chattable.adapters.gemini.models import EFFORTS, capabilities
from chattable.adapters.gemini.wire import GeminiWire
from chattable.adapters.params import Unsupported
from chattable.adapters.services import VENDORS
from chattable.agents.chat import Chat, Message
from chattable.agents.errors import ChatError, InvalidRequest
from chattable.agents.fold import as_message
from chattable.agents.parsing import parse

FLASH, OLD = "gemini-3.8-flash", "gemini-2.0-flash"
HI = [Message("user", "hi")]
KINDS: dict[str, type[BaseModel]] = {
    "contents": types.Content,
    "systemInstruction": types.Content,
    "generationConfig": types.GenerationConfig,
    "tools": types.Tool,
    "toolConfig": types.ToolConfig,
    "safetySettings": types.SafetySetting,
}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA},
}
PIXEL = "iVBORw0KGgo="


def sent(params=None, messages=HI, *, model=FLASH, stream=False, unsupported="drop"):
    """The body, once the SDK's types have taken it."""
    chat = Chat("ours", messages, stream, params or {})
    body = json.loads(GeminiWire(unsupported=unsupported).build_request(chat, model))
    for name, value in body.items():
        if name in KINDS:
            for one in value if isinstance(value, list) else [value]:
                KINDS[name].model_validate(one)
        else:
            assert name in ("cachedContent", "serviceTier") and isinstance(value, str)
    return body


def config(params, **options):
    return sent(params, **options).get("generationConfig", {})


def contents(*messages, **options):
    return sent(messages=list(messages), **options)["contents"]


def refused(params=None, messages=HI, **options):
    with pytest.raises(InvalidRequest) as caught:
        sent(params, messages, **options)
    return caught.value.param


def called(call_id, name="get_weather", arguments='{"city":"Paris"}', **extra):
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
        **extra,
    }


def signed(signature):
    return {"extra_content": {"google": {"thought_signature": signature}}}


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, stream, path",
    [
        (FLASH, False, f"/models/{FLASH}:generateContent"),
        (FLASH, True, f"/models/{FLASH}:streamGenerateContent?alt=sse"),
        (f"models/{FLASH}", False, f"/models/{FLASH}:generateContent"),
        ("tunedModels/mine", False, "/tunedModels/mine:generateContent"),
        ("../../files?key=x#", False, "/models/..%2F..%2Ffiles%3Fkey%3Dx%23:generateContent"),
        ("models/../x", True, "/models/..%2Fx:streamGenerateContent?alt=sse"),
    ],
)
def test_the_path_names_the_model_and_leads_nowhere_else(model, stream, path):
    assert GeminiWire().path(model, stream) == path


def test_the_key_is_a_header_of_its_own():
    assert (
        GeminiWire().headers("secret") == [("x-goog-api-key", "secret")]
        and GeminiWire().headers("") == []
    )


def test_the_vendor_is_native():
    vendor = VENDORS["gemini"]
    assert (vendor.key_env, type(vendor.wire)) == (
        "GEMINI_API_KEY",
        GeminiWire,
    ) and vendor.base_url.endswith("/v1beta")


# --- messages ---------------------------------------------------------------------------------------------------------


def test_instructions_roles_and_neighbours():
    body = sent(
        messages=[
            Message("system", "Be kind."),
            Message("user", "one", name="eve"),
            Message("user", [{"type": "text", "text": "two"}, {"type": "text", "text": ""}]),
            Message("developer", "Be short."),
            Message("assistant", "three"),
            Message("assistant", None, refusal="no"),
            Message("assistant", ""),
            Message("user", "four"),
        ]
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be kind."}, {"text": "Be short."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "one"}, {"text": "two"}]},
        {"role": "model", "parts": [{"text": "three"}, {"text": "no"}]},
        {"role": "user", "parts": [{"text": "four"}]},
    ]


def test_instructions_alone_are_a_question():
    assert sent(messages=[Message("system", "Greet.")]) == {
        "contents": [{"role": "user", "parts": [{"text": "Greet."}]}]
    }
    assert refused(messages=[Message("user", "")]) == "messages"


def test_calls_and_their_answers_find_each_other():
    turns = contents(
        Message("user", "weather?"),
        Message(
            "assistant",
            "Looking.",
            tool_calls=[called("c1", **signed("c2lnbmVk")), called("c2", "get_time", "{}")],
        ),
        Message("tool", "12:00", tool_call_id="c2"),
        Message(
            "tool",
            [{"type": "text", "text": '{"$ref": '}, {"type": "text", "text": "9007199254740993}"}],
            tool_call_id="c1",
        ),
        Message("user", "and now?"),
    )
    assert turns[1]["parts"] == [
        {"text": "Looking."},
        {
            "functionCall": {"id": "c1", "name": "get_weather", "args": {"city": "Paris"}},
            "thoughtSignature": "c2lnbmVk",
        },
        {"functionCall": {"id": "c2", "name": "get_time", "args": {}}},
    ]
    answers = [part["functionResponse"] for part in turns[2]["parts"]]
    assert answers == [
        {"id": "c1", "name": "get_weather", "response": {"output": '{"$ref": 9007199254740993}'}},
        {"id": "c2", "name": "get_time", "response": {"output": "12:00"}},
    ]
    assert [turn["role"] for turn in turns] == ["user", "model", "user", "user"] and turns[3][
        "parts"
    ] == [{"text": "and now?"}]


def test_every_call_of_a_turn_is_answered_in_one_content():
    ids = [f"c{i}" for i in range(5)]
    turns = contents(
        HI[0],
        Message("assistant", None, tool_calls=[called(i) for i in ids]),
        *[Message("tool", i, tool_call_id=i) for i in reversed(ids)],
        Message("assistant", None, tool_calls=[called("d")]),
        Message("tool", "failed", tool_call_id="d", extra={"is_error": True}),
    )
    assert [len(turn["parts"]) for turn in turns] == [1, 5, 5, 1, 1]
    assert [part["functionResponse"]["id"] for part in turns[2]["parts"]] == ids
    assert turns[4]["parts"][0]["functionResponse"]["response"] == {"error": "failed"}


def test_calls_of_others_are_marked_as_unsigned_where_signatures_are_wanted():
    calls = [called("c1"), called("c2")]
    [_, turn] = contents(HI[0], Message("assistant", None, tool_calls=calls))
    assert [part.get("thoughtSignature") for part in turn["parts"]] == [
        "skip_thought_signature_validator",
        None,
    ]
    [_, turn] = contents(
        HI[0], Message("assistant", None, tool_calls=calls), model="gemini-2.5-pro"
    )
    assert [part.get("thoughtSignature") for part in turn["parts"]] == [None, None]
    odd = {"extra_content": {"google": {"thought_signature": 5}, "x": 1}}
    [_, turn] = contents(
        HI[0],
        Message("assistant", "x", extra=odd, tool_calls=[called("c1", extra_content=[])]),
        model=OLD,
    )
    assert not any("thoughtSignature" in part for part in turn["parts"])


@pytest.mark.parametrize(
    "arguments, meant",
    [("", {}), ("{}", {}), ('{"a": 1', {"arguments": '{"a": 1'}), ("[1]", {"arguments": "[1]"}), ('{"n": 98765432109876543210}',
     {"n": 98765432109876543210})],
)  # fmt: skip
def test_arguments_that_are_no_object_keep_their_words(arguments, meant):
    [_, turn] = contents(
        HI[0], Message("assistant", None, tool_calls=[called("c", arguments=arguments)])
    )
    assert turn["parts"][0]["functionCall"]["args"] == meant


def test_an_answer_to_no_call():
    assert (
        refused(messages=[Message("user", "x"), Message("tool", "y", tool_call_id="nobody")])
        == "messages[1].tool_call_id"
    )
    assert refused(messages=[Message("function", "y", name="f")]) == "messages[0].role"


MEDIA = [
    ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
     {"inlineData": {"mimeType": "image/png", "data": PIXEL}}),
    ({"type": "image_url", "image_url": {"url": f"DATA:Image/JPEG;charset=x;BASE64,{PIXEL}"}},
     {"inlineData": {"mimeType": "image/jpeg", "data": PIXEL}}),
    ({"type": "image_url", "image_url": {"url": "https://example.com/a.b/cat.JPG?x=.png"}},
     {"fileData": {"fileUri": "https://example.com/a.b/cat.JPG?x=.png", "mimeType": "image/jpeg"}}),
    ({"type": "image_url", "image_url": {"url": "https://example.com/cat"}}, {"fileData": {"fileUri": "https://example.com/cat"}}),
    ({"type": "image_url", "image_url": {"url": "http://[::"}}, {"fileData": {"fileUri": "http://[::"}}),
    ({"type": "video_url", "video_url": {"url": "https://youtu.be/x"}}, {"fileData": {"fileUri": "https://youtu.be/x"}}),
    ({"type": "input_audio", "input_audio": {"data": PIXEL, "format": "wav"}},
     {"inlineData": {"mimeType": "audio/wav", "data": PIXEL}}),
    ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PIXEL}", "filename": "a.pdf"}},
     {"inlineData": {"mimeType": "application/pdf", "data": PIXEL}}),
    ({"type": "file", "file": {"file_id": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
     {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}}),
]  # fmt: skip


@pytest.mark.parametrize("part, meant", MEDIA)
def test_pictures_sounds_and_documents(part, meant):
    [turn] = contents(Message("user", [{"type": "text", "text": "what?"}, part]))
    assert turn["parts"] == [{"text": "what?"}, meant]
    assert refused(messages=[Message("system", [part])]) == "messages[0].content"


def test_pictures_in_answers_to_calls():
    asked = Message("assistant", None, tool_calls=[called("c")])
    answer = Message("tool", [{"type": "text", "text": "seen"}, MEDIA[0][0]], tool_call_id="c")
    [*_, turn] = contents(HI[0], asked, answer)
    response = turn["parts"][0]["functionResponse"]
    assert (response["response"], response["parts"]) == ({"output": "seen"}, [MEDIA[0][1]]) and len(
        turn["parts"]
    ) == 1
    [*_, turn] = contents(HI[0], asked, answer, model="gemini-2.5-flash")
    assert "parts" not in turn["parts"][0]["functionResponse"] and turn["parts"][1] == MEDIA[0][1]


BAD_PARTS = [
    ({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}, ".image_url.url"),
    ({"type": "image_url", "image_url": {"url": "ftp://example.com/a.png"}}, ".image_url.url"),
    ({"type": "image_url", "image_url": {"url": ""}}, ".image_url.url"),
    ({"type": "file", "file": {"file_id": "file-abc"}}, ".file.file_id"),
    ({"type": "file", "file": {}}, ".file.file_id"),
    ({"type": "file", "file": {"file_data": 5}}, ".file.file_data"),
    ({"type": "input_audio", "input_audio": {"data": PIXEL}}, ".input_audio.format"),
    ({"type": "input_audio", "input_audio": {"format": "wav"}}, ".input_audio.data"),
    ({"type": "video_url"}, ".video_url.url"),
    ({"type": "hologram"}, ".type"),
]


@pytest.mark.parametrize("part, path", BAD_PARTS)
def test_parts_that_cannot_be_sent_are_named(part, path):
    assert (
        refused(messages=[*HI, Message("user", [{"type": "text", "text": "x"}, part])])
        == f"messages[1].content[1]{path}"
    )


# --- tools ------------------------------------------------------------------------------------------------------------


def test_tools_are_declared_with_their_json_schema():
    [tool] = sent(
        {
            "tools": [
                TOOL,
                {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
            ]
        }
    )["tools"]
    assert tool["functionDeclarations"] == [
        {"name": "get_weather", "description": "The weather.", "parametersJsonSchema": SCHEMA},
        {"name": "now", "description": "now"},
    ]


def test_a_schema_loses_only_what_is_refused():
    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/A", "description": "kept", "title": "gone", "examples": [1]},
            "$ref": {"type": "string", "title": "kept: a property of that name"},
            "u": {
                "anyOf": [{"type": "string", "pattern": "^x"}, {"type": "null"}],
                "default": None,
            },
        },
        "$defs": {"A": {"type": "array", "items": {"const": 1}}},
    }
    before = json.dumps(schema)
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    declared = sent({"tools": [tool]})["tools"][0]["functionDeclarations"][0][
        "parametersJsonSchema"
    ]
    assert json.dumps(schema) == before, "the client's own request stays as it was"
    del schema["$schema"], schema["properties"]["a"]["title"], schema["properties"]["a"]["examples"]
    assert declared == schema


CHOICES = [
    ("auto", None),
    ("none", {"mode": "NONE"}),
    ("required", {"mode": "ANY"}),
    ({"type": "function", "function": {"name": "get_weather"}}, {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
     {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
    ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
     {"mode": "VALIDATED", "allowedFunctionNames": ["get_weather"]}),
]  # fmt: skip


@pytest.mark.parametrize("choice, meant", CHOICES)
def test_choices_of_tools(choice, meant):
    body = sent({"tools": [TOOL], "tool_choice": choice})
    assert body.get("toolConfig", {}).get("functionCallingConfig") == meant
    assert "toolConfig" not in (sent({"tool_choice": choice}) if choice in ("auto", "none") else {})


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        {},
        {"function": "f"},
        {"type": "custom", "custom": {"name": "f"}},
        {"allowed_tools": {"tools": []}},
    ],
)
def test_choices_that_are_none(choice):
    assert refused({"tools": [TOOL], "tool_choice": choice}) == "tool_choice"


def test_a_choice_without_tools():
    assert refused({"tool_choice": "required"}) == "tool_choice"


def test_googles_own_tools():
    body = sent(
        {"tools": [{"type": "google_search"}, {"type": "code_execution"}], "web_search_options": {}}
    )
    assert body["tools"] == [{"googleSearch": {}}, {"codeExecution": {}}, {"googleSearch": {}}]
    assert (
        refused({"tools": [TOOL, {"type": "custom", "custom": {"name": "f"}}]}) == "tools[1].type"
    )
    assert refused({"tools": [{"type": "function", "function": {}}]}) == "tools[0].function.name"


# --- parameters -------------------------------------------------------------------------------------------------------


def test_sampling():
    params = {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 40,
        "max_tokens": 9,
        "max_completion_tokens": 7,
        "seed": 2**40 + 5,
        "stop": "END",
    }
    assert config(params) == {
        "temperature": 0, "topP": 0.5, "topK": 40, "maxOutputTokens": 7, "seed": 5, "stopSequences": ["END"],
    }  # fmt: skip
    assert config({"seed": -1})["seed"] == 2**31 - 1 and config({"seed": 0})["seed"] == 0
    assert config({"stop": ["a", "", "b"], "temperature": None}) == {"stopSequences": ["a", "b"]}
    assert sent({"stop": [], "n": 1, "logprobs": False}) == sent()


def test_several_answers_at_once_but_not_in_a_stream():
    assert config({"n": 3}) == {"candidateCount": 3}
    for rule in get_args(Unsupported):
        assert refused({"n": 2}, stream=True, unsupported=rule) == "n"


def test_probabilities():
    assert config({"logprobs": True}) == {"responseLogprobs": True}
    assert config({"logprobs": True, "top_logprobs": 5}) == {
        "responseLogprobs": True,
        "logprobs": 5,
    }
    assert refused({"top_logprobs": 5}) == "top_logprobs"


def test_formats():
    assert config({"response_format": {"type": "text"}}) == {}
    assert config({"response_format": {"type": "json_object"}}) == {
        "responseMimeType": "application/json"
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
    assert config({"response_format": wanted}) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert (
        refused({"response_format": {"type": "json_schema", "json_schema": {}}})
        == "response_format.json_schema.schema"
    )
    assert refused({"response_format": {"type": "grammar"}}) == "response_format"


def test_modalities():
    assert config({"modalities": ["text"]}) == {}
    assert config({"modalities": ["text", "image"]}) == {"responseModalities": ["TEXT", "IMAGE"]}
    for rule in get_args(Unsupported):
        assert (
            refused({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, unsupported=rule)
            == "modalities"
        )


def test_penalties_go_where_they_are_known():
    both = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    assert config(both, model=OLD) == {"presencePenalty": 0.5, "frequencyPenalty": 0.25}
    assert config(both) == {} and config({"presence_penalty": 0}, unsupported="reject") == {}
    assert refused(both, unsupported="reject") == "presence_penalty"


@pytest.mark.parametrize(
    "tier, meant", [("auto", None), ("default", None), ("flex", "flex"), ("priority", "priority")]
)
def test_tiers(tier, meant):
    assert sent({"service_tier": tier}, unsupported="reject").get("serviceTier") == meant


EFFORTS_OF = [
    ("gemini-3.8-flash", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
    ("gemini-3.5-flash", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
    ("gemini-3.1-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
    ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
    ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "LOW"}),
    ("gemini-flash-latest", "xhigh", {"thinkingLevel": "HIGH", "includeThoughts": True}),
    ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
    ("gemini-2.5-flash-lite", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
    ("models/gemini-2.5-pro", "none", {"thinkingBudget": 128}),
    ("gemini-2.5-pro", "high", {"thinkingBudget": 24576, "includeThoughts": True}),
    ("gemini-2.5-flash-image", "high", None),
    ("gemini-2.0-flash-001", "high", None),
    ("gemini-2.0-flash", "none", None),
    ("gemma-3-27b-it", "high", None),
]


@pytest.mark.parametrize("model, effort, meant", EFFORTS_OF)
def test_efforts(model, effort, meant):
    assert config({"reasoning_effort": effort}, model=model).get("thinkingConfig") == meant
    assert config({"reasoning": {"effort": effort}}, model=model).get("thinkingConfig") == meant
    lacks = (
        (effort != "none")
        if meant is None
        else (effort == "none" and not capabilities(model).stops_thinking)
    )
    if lacks:
        assert (
            refused({"reasoning_effort": effort}, model=model, unsupported="reject")
            == "reasoning_effort"
        )
    else:
        assert sent({"reasoning_effort": effort}, model=model, unsupported="reject")
    assert "thinkingConfig" not in config({}, model=model), (
        "who asks for nothing gets the model's own way"
    )


@pytest.mark.parametrize(
    "model",
    ["gemini-2.5-pro", "gemini-2.5-flash", "gemini-3-flash", "gemini-4-pro", "gemini-pro-latest"],
)
def test_every_effort_has_a_meaning_for_every_model_that_thinks(model):
    for effort in EFFORTS:
        thinking = config({"reasoning_effort": effort}, model=model)["thinkingConfig"]
        assert ("thinkingBudget" in thinking) != ("thinkingLevel" in thinking)
    assert refused({"reasoning_effort": "very"}, model=model) == "reasoning_effort"


def test_googles_own_words_win():
    own = {
        "google": {
            "thinking_config": {"thinking_budget": 99, "include_thoughts": True},
            "cached_content": "cachedContents/x",
        }
    }
    for params in (own, {"extra_body": own}):
        body = sent(
            params | {"reasoning_effort": "high"}, model="gemini-2.5-flash", unsupported="reject"
        )
        assert body["generationConfig"]["thinkingConfig"] == {
            "thinkingBudget": 99,
            "includeThoughts": True,
        }
        assert body["cachedContent"] == "cachedContents/x"
        ruled = json.loads(
            GeminiWire()
            .with_unsupported("reject")
            .build_request(Chat("ours", HI, False, params), "gemini-2.5-flash")
        )
        assert ruled["cachedContent"] == "cachedContents/x", "they are not withheld"
    assert "base" not in json.dumps(sent({"extra_body": {"api_base": "http://x"}}))
    assert refused({"extra_body": {"api_base": "http://x"}}, unsupported="reject") == "extra_body"
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    assert sent({"google": {"safety_settings": safety}})["safetySettings"] == safety


LACKING = [
    ("logit_bias", {"5": 1}),
    ("verbosity", "low"),
    ("audio", {"voice": "x"}),
    ("unheard_of", 1),
    ("service_tier", "scale"),
    ("service_tier", {}),
    ("stop", ["a", "b", "c", "d", "e", "f"]),
    ("parallel_tool_calls", False),
]


@pytest.mark.parametrize("name, value", LACKING)
def test_what_it_has_no_place_for_goes_by_the_rule(name, value):
    tools = {"tools": [TOOL]} if name == "parallel_tool_calls" else {}
    assert refused({name: value, **tools}, unsupported="reject") == name
    body = sent({name: value, **tools})
    if name == "stop":
        assert body.pop("generationConfig") == {"stopSequences": value[:5]}
    assert body == sent(tools)


def test_what_is_ours_or_changes_nothing_is_no_matter():
    params = {
        "user": {"id": 1},
        "metadata": {"a": "b"},
        "store": True,
        "stream_options": {"include_usage": True},
    }
    params |= {
        "logit_bias": {},
        "parallel_tool_calls": True,
        "safety_identifier": "s",
        "cache": {"ttl": 5},
        "unheard_of": None,
    }
    assert sent(params, unsupported="reject", stream=True) == sent()


def test_legacy_calls_are_refused():
    for rule in get_args(Unsupported):
        assert refused({"functions": [{"name": "f"}]}, unsupported=rule) == "functions"
        assert refused({"function_call": "auto"}, unsupported=rule) == "function_call"


# --- whatever clients send --------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e9, 1e9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
OBJECT = st.dictionaries(st.text(max_size=6), JSON, max_size=3)
TYPES = st.sampled_from(["function", "custom", "google_search", "x"])
NAMED = st.fixed_dictionaries(
    {"name": st.just("f") | JSON}, optional={"parameters": JSON, "description": JSON}
)
PARAMS = {
    "tools": st.lists(
        st.fixed_dictionaries({"type": TYPES}, optional={"function": NAMED, "custom": JSON}),
        max_size=2,
    ),
    "tool_choice": st.sampled_from(["auto", "none", "required"])
    | st.fixed_dictionaries(
        {}, optional={"function": JSON | NAMED, "allowed_tools": JSON, "custom": JSON}
    )
    | st.fixed_dictionaries(
        {"allowed_tools": st.fixed_dictionaries({"tools": JSON | st.lists(JSON | NAMED)})}
    ),
    "response_format": st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "x"])},
        optional={"json_schema": st.fixed_dictionaries({"schema": JSON | OBJECT})},
    ),
    "reasoning_effort": st.sampled_from([*EFFORTS, "x"]),
    "reasoning": JSON | st.fixed_dictionaries({"effort": JSON}),
    "modalities": st.lists(st.sampled_from(["text", "image", "audio", ""]), max_size=3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=7),
    "n": st.integers(1, 9),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
    "parallel_tool_calls": st.booleans(),
    "google": JSON | st.fixed_dictionaries({"thinking_config": JSON, "cached_content": JSON}),
    "extra_body": JSON,
    "service_tier": JSON,
    "web_search_options": JSON,
}
ADDRESS = JSON | st.sampled_from(["data:image/png;base64,eA==", "https://x/y.png", "wav", "data:"])
FILE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("data", "format", "file_id", "file_data"), ADDRESS)
)
PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=4)}),
    st.fixed_dictionaries(
        {
            "type": st.just("image_url"),
            "image_url": st.fixed_dictionaries({"url": ADDRESS.map(str)}),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_audio", "file"]), "input_audio": FILE, "file": FILE}
    ),
    st.fixed_dictionaries(
        {"type": st.just("video_url"), "video_url": JSON | st.fixed_dictionaries({"url": ADDRESS})}
    ),
)
SIGNED = JSON | st.fixed_dictionaries(
    {"google": JSON | st.fixed_dictionaries({"thought_signature": JSON})}
)
FUNCTION = st.fixed_dictionaries(
    {"name": st.text(max_size=3), "arguments": st.text(max_size=3) | JSON.map(json.dumps)}
)
CALL = st.fixed_dictionaries(
    {"id": st.sampled_from("cd")},
    optional={"type": TYPES, "function": FUNCTION, "custom": JSON | NAMED, "extra_content": SIGNED},
)
CONTENT = st.text(max_size=5) | st.lists(PART, max_size=2)
SAYING = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": CONTENT}),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": CONTENT},
        optional={"tool_calls": st.lists(CALL, max_size=3), "extra_content": SIGNED},
    ),
    st.fixed_dictionaries(
        {"role": st.just("tool"), "content": CONTENT, "tool_call_id": st.sampled_from("cd")},
        optional={"is_error": JSON, "name": st.just("f")},
    ),
)
FEW = st.lists(st.sampled_from(sorted(PARAMS)), max_size=3, unique=True)
SAYINGS = {"messages": st.lists(SAYING, min_size=1, max_size=4)}
BODY = FEW.flatmap(
    lambda names: st.fixed_dictionaries(SAYINGS | {name: PARAMS[name] for name in names})
)


@given(BODY, st.sampled_from(get_args(Unsupported)))
def test_every_request_that_parses_is_sent_or_refused_by_name(body, rule):
    """Law: no input is an error of this program's own."""
    try:
        chat = parse({"model": "m"} | body)
        GeminiWire(unsupported=rule).build_request(chat, FLASH)
    except ChatError as error:
        assert isinstance(error, InvalidRequest) and error.message


def test_a_schema_as_deep_as_json_may_be():
    schema = {"type": "object", "properties": {"x": {}}}
    for _ in range(300):
        schema = {"type": "object", "properties": {"x": schema}}
    assert sent({"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]})[
        "tools"
    ]


def test_deeper_than_that_is_refused_politely():
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"x": schema}
    # Newer Pythons may have room for it; this one has not.
    old = sys.version_info < (3, 12)
    with pytest.raises(InvalidRequest) if old else suppress(InvalidRequest):
        assert sent(
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
        )


def test_a_turn_survives_the_way_through_a_client():
    """What we answer, sent back by a client as JSON, is what Gemini said."""
    part = {
        "functionCall": {"id": "c9", "name": "f", "args": {"a": [1, None]}},
        "thoughtSignature": "c2ln",
    }
    body = json.dumps(
        {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
    ).encode()
    [chunk] = GeminiWire().parse_response(body)
    raw = json.loads(msgspec.json.encode(as_message({"content": None} | chunk.delta).to_json()))
    again = parse({"model": "m", "messages": [{"role": "user", "content": "x"}, raw]})
    assert contents(*again.messages)[1]["parts"] == [part]
